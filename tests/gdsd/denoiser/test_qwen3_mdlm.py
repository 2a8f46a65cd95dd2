"""Qwen3-MDLM against its architecture written out."""

from pathlib import Path

import torch
from torch import Tensor

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tests.gdsd.official import HEADS, LAYERS, write_qwen3_mdlm
from tests.gdsd.official_maths import Weights, attend, in_float64, norm, rotate, split, stock, transformer

CPU = torch.device("cpu")
IDS = torch.tensor([[1, 30, 100, 2, 77, 3, 3, 3], [9, 8, 3, 200, 3, 41, 3, 0]])


def qwen3(weights: Weights, ids: Tensor, seen: Tensor) -> Tensor:  # (B, T, V)
    """A Qwen3 without its causal mask: each head's q and k are normalised, heads are 16 wide, the head is tied."""
    weights = in_float64(weights)

    def attention(layer: int, x: Tensor) -> Tensor:
        place = f"model.layers.{layer}.self_attn"
        q, k, v = (
            split(x @ weights[f"{place}.{name}_proj.weight"].T, count)
            for name, count in (("q", HEADS), ("k", 2), ("v", 2))
        )
        q, k = (
            rotate(norm(heads, weights[f"{place}.{name}_norm.weight"], 1e-6), 1e6)
            for name, heads in (("q", q), ("k", k))
        )
        return attend(q, k, v, seen) @ weights[f"{place}.o_proj.weight"].T

    x = transformer(weights["model.embed_tokens.weight"][ids], LAYERS, attention, stock(weights), 1e-6)
    return norm(x, weights["model.norm.weight"], 1e-6) @ weights["model.embed_tokens.weight"].T


@torch.no_grad()
def logits(denoiser: Denoiser, ids: Tensor, seen: Tensor | None = None) -> Tensor:
    return denoiser.head().logits(denoiser(ids, seen))


def test_logits_are_those_of_the_architecture(tmp_path: Path) -> None:
    """If it fails, the small published model runs as another one. Also with padding, and in other company."""
    weights = write_qwen3_mdlm(tmp_path)
    denoiser = load_folder(tmp_path, "qwen3_mdlm", CPU)
    seen = torch.ones(2, 8, dtype=torch.bool)
    torch.testing.assert_close(logits(denoiser, IDS), qwen3(weights, IDS, seen).float(), atol=2e-5, rtol=2e-5)
    seen[1, :3] = False
    found = logits(denoiser, IDS, seen)
    expected = qwen3(weights, IDS, seen).float()
    torch.testing.assert_close(found[0], expected[0], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(found[1, 3:], expected[1, 3:], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(found[1, 3:], logits(denoiser, IDS[1:, 3:])[0], atol=1e-5, rtol=1e-5)


def test_half_precision_stays_close(tmp_path: Path) -> None:
    """If it fails, a policy on a GPU is another one than on a CPU: rotary frequencies, say, were rounded to 8 bits."""
    write_qwen3_mdlm(tmp_path, dtype=torch.bfloat16)
    half, full = (load_folder(tmp_path, "qwen3_mdlm", CPU, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert {buffer.dtype for buffer in half.buffers()} == {torch.float32}
    ids = torch.arange(100)[None] + 10
    found, expected = logits(half, ids), logits(full, ids)
    assert ((found - expected).norm() / expected.norm()).item() < 0.04
