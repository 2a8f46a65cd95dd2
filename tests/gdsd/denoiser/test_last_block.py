"""A network that is asked for some rows gives those of the whole, with the same gradients and less work."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill.memory import recomputed
from tests.gdsd.conftest import build
from tests.gdsd.denoiser.test_partial import FAMILIES, canvas, load

LENGTH = 12  # the last tokens, some of which are read
READ = torch.tensor([[1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]]).bool()


def states(denoiser: Denoiser, padding: int, skip: bool) -> Tensor:  # (R, D)
    """Of two sequences, of which the second one has padding; where all but its last tokens are, it has no prompt."""
    ids, attention = canvas(denoiser, padding > 0)
    if attention is not None:
        attention[1, :padding] = False
    return denoiser(ids, attention, READ) if skip else denoiser(ids, attention)[:, -LENGTH:][READ]


def gradients(denoiser: Denoiser, found: Tensor) -> list[Tensor]:
    parameters = [parameter for name, parameter in denoiser.trainable() if "lm_head" not in name]
    return list(torch.autograd.grad(found.square().sum(), parameters))


@pytest.mark.parametrize("padding", [0, 7, 60 - LENGTH], ids=["whole", "padded", "no prompt"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_are_read_equal_those_of_the_whole(folders: dict[str, Path], family: str, padding: int) -> None:
    """If it fails, scores are of another network than the rollouts, or the trust region compares the wrong rows."""
    denoiser = load(folders, family)
    denoiser.attach_adapter(AdapterConfig(rank=2), 0)
    with torch.no_grad():
        for _, parameter in denoiser.trainable():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    found, whole = (states(denoiser, padding, skip) for skip in (True, False))
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(gradients(denoiser, found), gradients(denoiser, whole), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=1e-3)


@pytest.mark.parametrize("recompute", [False, True])
def test_other_rows_cost_the_last_block_little(recompute: bool) -> None:
    """If it fails, updates compute what nobody reads: a third of the default network, forward and backward.

    Of the products with the last block's weights, keys and values are of all rows, queries of the last tokens, and the
    rest of 6 of 120 rows.
    """
    denoiser = build()
    sizes = {}
    for skip in (True, False):
        with FlopCounterMode(display=False) as counter, recomputed(denoiser, recompute) if recompute else nullcontext():
            states(denoiser, 0, skip).sum().backward()
        sizes[skip] = counter.get_total_flops()
    block = denoiser.network.model.layers[-1]
    attention, mlp, rows = block.self_attn, block.mlp, 120 - 6
    queries = 2 * (120 - 2 * LENGTH) * attention.q_proj.weight.numel()
    down = 2 * rows * mlp.down_proj.weight.numel()
    others = 2 * rows * sum(part.weight.numel() for part in (attention.o_proj, mlp.gate_proj, mlp.up_proj))
    # Forward, and backward by inputs and by weights; what is recomputed ends before the last product.
    expected = 3 * (queries + others + down) + (queries + others if recompute else 0)
    assert sizes[False] - sizes[True] == expected
