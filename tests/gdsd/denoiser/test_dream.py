"""Dream against its architecture written out, and its shift by one."""

from pathlib import Path

import torch
from torch import Tensor

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tests.gdsd.official import HEADS, LAYERS, write_dream
from tests.gdsd.official_maths import Weights, attend, in_float64, norm, rotate, split, stock, transformer

CPU = torch.device("cpu")
IDS = torch.tensor([[1, 30, 100, 2, 77, 4, 4, 4], [9, 8, 3, 200, 4, 41, 4, 0]])


def unshifted(weights: Weights, ids: Tensor, seen: Tensor) -> Tensor:  # (B, T, V): row i - 1 predicts token i
    """A Qwen2 without its causal mask: biases on queries, keys and values, theta 1e6, epsilon 1e-6."""
    weights = in_float64(weights)

    def attention(layer: int, x: Tensor) -> Tensor:
        place = f"model.layers.{layer}.self_attn"
        q, k, v = (
            split(x @ weights[f"{place}.{name}_proj.weight"].T + weights[f"{place}.{name}_proj.bias"], count)
            for name, count in (("q", HEADS), ("k", 2), ("v", 2))
        )
        return attend(rotate(q, 1e6), rotate(k, 1e6), v, seen) @ weights[f"{place}.o_proj.weight"].T

    x = transformer(weights["model.embed_tokens.weight"][ids], LAYERS, attention, stock(weights), 1e-6)
    return norm(x, weights["model.norm.weight"], 1e-6) @ weights["lm_head.weight"].T


@torch.no_grad()
def logits(denoiser: Denoiser, ids: Tensor, seen: Tensor | None = None) -> Tensor:
    return denoiser.head().logits(denoiser(ids, seen))


def test_logits_are_those_of_the_architecture_shifted_by_one(tmp_path: Path) -> None:
    """If it fails, every token is sampled from the prediction for its neighbour.

    Row 0 has no row before it, and stands for itself as the authors have it.
    """
    weights = write_dream(tmp_path)
    plain = unshifted(weights, IDS, torch.ones(2, 8, dtype=torch.bool))
    expected = plain[:, [0, 0, 1, 2, 3, 4, 5, 6]].float()
    torch.testing.assert_close(logits(load_folder(tmp_path, "dream", CPU), IDS), expected, atol=2e-5, rtol=2e-5)


def test_padding_and_batch_are_not_read(tmp_path: Path) -> None:
    """If it fails, the first token after a padded prompt is predicted from padding, or a batch changes its members."""
    weights = write_dream(tmp_path)
    denoiser = load_folder(tmp_path, "dream", CPU)
    seen = torch.ones(2, 8, dtype=torch.bool)
    seen[1, :3] = False
    found = logits(denoiser, IDS, seen)
    plain = unshifted(weights, IDS, seen).float()
    torch.testing.assert_close(found[0], plain[0, [0, 0, 1, 2, 3, 4, 5, 6]], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(found[1, 3:], plain[1, [3, 3, 4, 5, 6]], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(found[1, 3:], logits(denoiser, IDS[1:, 3:])[0], atol=1e-5, rtol=1e-5)


def test_gradients_pass_the_shift(tmp_path: Path) -> None:
    """If it fails, the score of a token trains the row of another, or row 0's double use is lost."""
    write_dream(tmp_path)
    denoiser = load_folder(tmp_path, "dream", CPU)
    sums = []
    for padded in (False, True):
        denoiser.zero_grad()
        ids = torch.cat([torch.zeros(1, 2, dtype=torch.int64), IDS[:1]], 1) if padded else IDS[:1]
        seen = torch.arange(ids.shape[1])[None] >= (2 if padded else 0)
        denoiser(ids, seen)[:, -8:].square().sum().backward()
        gradient = denoiser.network.model.layers[0].mlp.up_proj.weight.grad
        assert gradient is not None
        sums.append(gradient.clone())
    torch.testing.assert_close(*sums, atol=1e-3, rtol=1e-4)


def test_half_precision_stays_close(tmp_path: Path) -> None:
    """If it fails, a policy on a GPU is another one than on a CPU: rotary frequencies, say, were rounded to 8 bits."""
    write_dream(tmp_path, dtype=torch.bfloat16)
    half, full = (load_folder(tmp_path, "dream", CPU, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert {buffer.dtype for buffer in half.buffers()} == {torch.float32}
    ids = torch.arange(100)[None] + 10
    found, expected = logits(half, ids), logits(full, ids)
    assert ((found - expected).norm() / expected.norm()).item() < 0.04
