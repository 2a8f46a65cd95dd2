"""LLaDA and iLLaDA against their architectures written out, and LLaDA's rotation in float32."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.gdsd.denoiser import networks
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tests.gdsd.official import HEADS, LAYERS, WRITERS, write_illada, write_llada
from tests.gdsd.official_maths import Weights, attend, in_float64, norm, rotate, split, stock, transformer

CPU = torch.device("cpu")
IDS = torch.tensor([[0, 2, 100, 3, 30, 77, 5, 5, 5], [9, 8, 5, 200, 5, 5, 41, 5, 1]])
OURS = {"norm_1": "attn_norm", "norm_2": "ff_norm", "gate": "ff_proj", "up": "up_proj", "down": "ff_out"}


def llada(weights: Weights, ids: Tensor, seen: Tensor, kv_heads: int = HEADS) -> Tensor:  # (B, T, V)
    """LLaDA as its paper and configuration have it: no causal mask, no biases, theta 5e5, epsilon 1e-5."""
    weights = in_float64(weights)

    def part(layer: int, name: str) -> Tensor:
        return weights[f"model.transformer.blocks.{layer}.{OURS.get(name, name)}.weight"]

    def attention(layer: int, x: Tensor) -> Tensor:
        q, k = (split(x @ part(layer, f"{name}_proj").T, count) for name, count in (("q", HEADS), ("k", kv_heads)))
        v = split(x @ part(layer, "v_proj").T, kv_heads)
        return attend(rotate(q, 5e5), rotate(k, 5e5), v, seen) @ part(layer, "attn_out").T

    x = transformer(weights["model.transformer.wte.weight"][ids], LAYERS, attention, part, 1e-5)
    head = weights.get("model.transformer.ff_out.weight", weights["model.transformer.wte.weight"])
    return norm(x, weights["model.transformer.ln_f.weight"], 1e-5) @ head.T


def illada(weights: Weights, ids: Tensor, seen: Tensor) -> Tensor:  # (B, T, V)
    """iLLaDA: grouped keys and values, a tied head."""
    weights = in_float64(weights)

    def attention(layer: int, x: Tensor) -> Tensor:
        place = f"model.layers.{layer}.self_attn"
        q, k, v = (
            split(x @ weights[f"{place}.{name}_proj.weight"].T, count)
            for name, count in (("q", HEADS), ("k", 2), ("v", 2))
        )
        return attend(rotate(q, 5e5), rotate(k, 5e5), v, seen) @ weights[f"{place}.o_proj.weight"].T

    x = transformer(weights["model.embed_tokens.weight"][ids], LAYERS, attention, stock(weights), 1e-6)
    return norm(x, weights["model.norm.weight"], 1e-6) @ weights["model.embed_tokens.weight"].T


@torch.no_grad()
def logits(denoiser: Denoiser, ids: Tensor, seen: Tensor | None = None) -> Tensor:
    return denoiser.head().logits(denoiser(ids, seen))


@pytest.mark.parametrize("config", [{}, {"n_kv_heads": 2}, {"weight_tying": True}], ids=str)
def test_logits_are_those_of_the_architecture(config: dict[str, object], tmp_path: Path) -> None:
    """If it fails, a published LLaDA runs as another model: what it writes is noise, or subtly worse."""
    weights = write_llada(tmp_path, **config)
    denoiser = load_folder(tmp_path, "llada", CPU)
    seen = torch.ones_like(IDS, dtype=torch.bool)
    expected = llada(weights, IDS, seen, kv_heads=2 if "n_kv_heads" in config else HEADS)
    torch.testing.assert_close(logits(denoiser, IDS), expected.float(), atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_padding_and_batch_are_not_read(tmp_path: Path) -> None:
    """If it fails, a prompt is understood differently beside another one."""
    weights = write_llada(tmp_path)
    denoiser = load_folder(tmp_path, "llada", CPU)
    seen = torch.ones(2, 9, dtype=torch.bool)
    seen[1, :4] = False
    found = logits(denoiser, IDS, seen)
    torch.testing.assert_close(found, llada(weights, IDS, seen).float(), atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(found[1, 4:], logits(denoiser, IDS[1:, 4:])[0], atol=1e-5, rtol=1e-5)


def test_logits_of_illada(tmp_path: Path) -> None:
    """If it fails, iLLaDA's grouped heads or its tied head are read as something else."""
    weights = write_illada(tmp_path)
    denoiser = load_folder(tmp_path, "illada", CPU)
    seen = torch.ones(2, 9, dtype=torch.bool)
    seen[1, :3] = False
    torch.testing.assert_close(logits(denoiser, IDS, seen), illada(weights, IDS, seen).float(), atol=2e-5, rtol=2e-5)
    assert denoiser.head().weight is denoiser.network.model.embed_tokens.weight, "one tensor, trained as one"


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


@pytest.mark.parametrize("name", ["llada", "illada"])
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
    expected_frequencies = 1.0 / (5e5 ** (torch.arange(0, 8, 2, dtype=torch.float32) / 8))
    assert torch.equal(half.network.model.rotary_emb.inv_freq, expected_frequencies)
