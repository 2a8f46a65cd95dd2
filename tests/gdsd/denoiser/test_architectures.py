"""Each published family against its architecture written out, Dream's shift by one, and LLaDA's rotation in float32."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.gdsd.denoiser import networks
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tests.gdsd.checkpoints import CPU
from tests.gdsd.official import HEADS, LAYERS, WRITERS, write_dream, write_illada, write_llada
from tests.gdsd.official_maths import Weights, split
from tests.gdsd.plain_cache import PlainCache, Shape

IDS = torch.tensor([[9, 30, 100, 12, 77, 5, 5, 5, 41], [9, 8, 5, 200, 5, 5, 41, 5, 11]])
PADDING = 3  # of the second sequence
# LLaDA's names, and those of the stock class: of whole paths, then of the parts of a block.
LLADA_NAMES = {
    "model.transformer.blocks": "model.layers",
    "model.transformer.wte": "model.embed_tokens",
    "model.transformer.ln_f": "model.norm",
    "model.transformer.ff_out": "lm_head",
    **{f".{name}_proj": f".self_attn.{name}_proj" for name in "qkv"},
    ".attn_out": ".self_attn.o_proj",
    ".attn_norm": ".input_layernorm",
    ".ff_norm": ".post_attention_layernorm",
    ".ff_proj": ".mlp.gate_proj",
    ".up_proj": ".mlp.up_proj",
    ".ff_out": ".mlp.down_proj",
}
# Theta of the rotation and epsilon of the norms, as the papers and configurations have them.
NUMBERS = {"llada": (5e5, 1e-5), "illada": (5e5, 1e-6), "dream": (1e6, 1e-6), "qwen3_mdlm": (1e6, 1e-6)}


def in_stock_names(weights: Weights) -> Weights:
    """LLaDA's weights by the names of the stock class."""
    for theirs, ours in LLADA_NAMES.items():
        weights = {key.replace(theirs, ours): tensor for key, tensor in weights.items()}
    return weights


def by_the_book(name: str, weights: Weights, seen: Tensor, kv_heads: int) -> Tensor:  # (B, T, V)
    """The architecture without a causal mask, with a head that is tied or its own; row i is not shifted."""
    weights = in_stock_names(weights) if name == "llada" else weights
    states = PlainCache(weights, Shape(LAYERS, HEADS, kv_heads, *NUMBERS[name])).read(IDS, seen)
    return states @ weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).double().T


@torch.no_grad()
def logits(denoiser: Denoiser, ids: Tensor, seen: Tensor | None = None) -> Tensor:
    return denoiser.head().logits(denoiser(ids, seen))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llada", {}),
        ("llada", {"n_kv_heads": 2}),
        ("llada", {"weight_tying": True}),
        ("illada", {}),
        ("dream", {}),
        ("qwen3_mdlm", {}),
    ],
    ids=str,
)
def test_logits_are_those_of_the_architecture(name: str, config: dict[str, object], tmp_path: Path) -> None:
    """If it fails, a published model runs as another one: what it writes is noise, or subtly worse.

    Dream's row i - 1 predicts token i; the first row of a sequence has none before it, and stands for itself as the
    authors have it. Padding is not read, nor are the other sequences of a batch.
    """
    weights = WRITERS[name](tmp_path, **config)
    denoiser = load_folder(tmp_path, name, CPU)
    seen = torch.ones_like(IDS, dtype=torch.bool)
    for padding in (0, PADDING):
        seen[1, :padding] = False
        rows = by_the_book(name, weights, seen, HEADS if name == "llada" and "n_kv_heads" not in config else 2)
        found = logits(denoiser, IDS, seen)
        for sequence, first in ((0, 0), (1, padding)):
            expected = rows[sequence, first:]
            if name == "dream":
                expected = torch.cat([expected[:1], expected[:-1]])
            torch.testing.assert_close(found[sequence, first:], expected.float(), atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(found[1, PADDING:], logits(denoiser, IDS[1:, PADDING:])[0], atol=1e-5, rtol=1e-5)


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    """If it fails, one table is trained as two, which no longer agree."""
    write_illada(tmp_path)
    denoiser = load_folder(tmp_path, "illada", CPU)
    assert denoiser.head().weight is denoiser.network.model.embed_tokens.weight


def test_gradients_pass_the_shift(tmp_path: Path) -> None:
    """If it fails, the score of a token trains the row of another, or row 0's double use is lost."""
    write_dream(tmp_path)
    denoiser = load_folder(tmp_path, "dream", CPU)
    sums = []
    for padding in (0, 2):
        denoiser.zero_grad()
        ids = torch.cat([torch.zeros(1, padding, dtype=torch.int64), IDS[:1]], 1)
        seen = torch.arange(ids.shape[1])[None] >= padding
        denoiser(ids, seen)[:, padding:].square().sum().backward()
        gradient = denoiser.network.model.layers[0].mlp.up_proj.weight.grad
        assert gradient is not None
        sums.append(gradient.clone())
    torch.testing.assert_close(*sums, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_queries_and_keys_are_rotated_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, bfloat16 rounds the angles: at position 100 by up to 0.4 of a turn of the fastest pair.

    Expected bit for bit: projections in bfloat16, turned in float32, then rounded once.
    """
    write_llada(tmp_path, dtype=torch.bfloat16)
    denoiser = load_folder(tmp_path, "llada", CPU, torch.bfloat16)
    attention = denoiser.network.model.layers[0].self_attn
    captured: list[tuple[Tensor, Tensor]] = []
    plain = networks.sdpa_attention_forward

    def watch(module: torch.nn.Module, q: Tensor, k: Tensor, *rest: object, **options: object) -> object:
        captured.append((q, k))
        return plain(module, q, k, *rest, **options)

    monkeypatch.setattr(networks, "sdpa_attention_forward", watch)
    inputs: list[Tensor] = []
    attention.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append(kwargs["hidden_states"]), with_kwargs=True
    )
    denoiser(torch.arange(100)[None] + 10)
    for projection, found in zip((attention.q_proj, attention.k_proj), captured[0], strict=True):
        plain_heads = split(projection(inputs[0]), HEADS).float()  # (1, T, H, d)
        half = plain_heads.shape[-1] // 2
        frequencies = 1.0 / (5e5 ** (torch.arange(0, 2 * half, 2, dtype=torch.float32) / (2 * half)))
        angles = (torch.arange(100)[:, None].float() * frequencies)[None, :, None]
        left, right = plain_heads.split(half, -1)
        cosines, sines = angles.cos(), angles.sin()
        turned = torch.cat([left * cosines + -right * sines, right * cosines + left * sines], -1)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, turned.to(torch.bfloat16).transpose(1, 2))
        rounded = torch.cat(
            [
                left.bfloat16() * cosines.bfloat16() - right.bfloat16() * sines.bfloat16(),
                right.bfloat16() * cosines.bfloat16() + left.bfloat16() * sines.bfloat16(),
            ],
            -1,
        )
        assert not torch.equal(found, rounded.transpose(1, 2)), "the precision matters, so the test means something"


@pytest.mark.parametrize("name", WRITERS)
def test_half_precision_stays_close(name: str, tmp_path: Path) -> None:
    """If it fails, a policy on a GPU is another one than on a CPU: rotary frequencies, say, were rounded to 8 bits.

    The same weights, rounded to bfloat16, in both precisions: activations round by 2 ** -9 in each of some 20 maps.
    """
    WRITERS[name](tmp_path, dtype=torch.bfloat16)
    half, full = (load_folder(tmp_path, name, CPU, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in half.buffers()} == {torch.float32}
    ids = torch.arange(100)[None] + 10
    found, expected = logits(half, ids), logits(full, ids)
    assert ((found - expected).norm() / expected.norm()).item() < 0.04
    if name == "llada":
        frequencies = 1.0 / (5e5 ** (torch.arange(0, 8, 2, dtype=torch.float32) / 8))
        assert torch.equal(half.network.model.rotary_emb.inv_freq, frequencies)
