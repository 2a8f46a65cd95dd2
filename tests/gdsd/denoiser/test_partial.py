"""Reading at some places equals reading everything, and kept keys and values are those of the call that made them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.denoiser.partial import KeyValues, states_at
from tests.gdsd.checkpoints import CPU
from tests.gdsd.conftest import build
from tests.gdsd.official import WRITERS
from tests.gdsd.plain_cache import PlainCache

FAMILIES = [*WRITERS, "tiny"]
TOKENS, PADDING = 60, 7
PLACES = torch.tensor([[0, 1, 30, TOKENS - 1], [PADDING, PADDING + 1, 41, TOKENS - 1]])  # first and last ones included
PART = slice(30, 50)


def load(folders: dict[str, Path], family: str, dtype: torch.dtype = torch.float32) -> Denoiser:
    if family != "tiny":
        return load_folder(folders[family], family, CPU, dtype)
    denoiser = build()
    for parameter in denoiser.parameters():
        parameter.data = parameter.data.to(dtype)
    return denoiser


def canvas(denoiser: Denoiser, padded: bool) -> tuple[Tensor, Tensor | None]:
    """Two sequences with many hidden tokens; the second one's first `PADDING` tokens are padding, if any are."""
    ids = torch.randint(6, 50, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    ids[:, 25::2] = denoiser.mask_id
    attention = torch.ones(2, TOKENS, dtype=torch.bool)
    attention[1, :PADDING] = False
    return ids, attention if padded else None


def take(states: Tensor, places: Tensor) -> Tensor:  # (B, T, D), (B, R) -> (B, R, D)
    return states[torch.arange(len(places))[:, None], places]


@pytest.mark.parametrize("with_adapter", [False, True], ids=["base", "adapter"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_some_places_equal_the_whole(
    folders: dict[str, Path], family: str, dtype: torch.dtype, padded: bool, with_adapter: bool
) -> None:
    """If it fails, rollouts come from another network than the one that is trained and saved.

    In bfloat16 products of another shape may be rounded otherwise, here and there by a step of 0.03; were LLaDA's
    angles rounded as well, most states would differ, by 0.003 on average.
    """
    denoiser = load(folders, family, dtype)
    if with_adapter:
        denoiser.attach_adapter(AdapterConfig(rank=2), 0)
        for _, parameter in denoiser.trainable():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    ids, attention = canvas(denoiser, padded)
    found, whole = states_at(denoiser, ids, attention, PLACES), denoiser(ids, attention)
    assert found.dtype == whole.dtype == dtype
    limit = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(found, take(whole, PLACES), atol=limit, rtol=limit)
    assert (found - take(whole, PLACES)).float().abs().mean().item() < limit / 30


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_part_of_an_unchanged_canvas_equals_the_whole(folders: dict[str, Path], family: str, padded: bool) -> None:
    """If it fails, a cache is wrong even where nothing is stale: keys land in other places, or are turned otherwise."""
    denoiser = load(folders, family)
    ids, attention = canvas(denoiser, padded)
    places = torch.tensor([[31, 32, 49], [40, 41, 42]])
    kept = KeyValues()
    states_at(denoiser, ids, attention, places, None, kept)
    expected = take(denoiser(ids, attention), places)
    for part in (PART, slice(0, TOKENS), slice(30, TOKENS), slice(0, 50)):
        found = states_at(denoiser, ids, attention, places, part, kept)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_stale_keys_and_values_by_the_book(folders: dict[str, Path], family: str, padded: bool) -> None:
    """If it fails, a cache keeps something else than the states of its last reading outside the part.

    Tokens change inside the part, then inside another one: each call reads what the calls before left outside of it.
    The result is close to the exact one and not equal to it, or nothing would be kept.
    """
    denoiser = load(folders, family)
    ids, attention = canvas(denoiser, padded)
    kept, plain = KeyValues(), PlainCache.of(denoiser)
    states_at(denoiser, ids, attention, PLACES, None, kept)
    plain.read(ids, attention)
    for part in (PART, slice(40, TOKENS)):
        ids[:, part.start + 3 : part.stop : 4] = 6 + ids[:, part.start + 3 : part.stop : 4] % 40
        places = torch.tensor([[part.start + 1, part.start + 5, part.stop - 1]]).expand(2, -1)
        found = states_at(denoiser, ids, attention, places, part, kept)
        expected = take(plain.read(ids, attention, part), places)
        torch.testing.assert_close(found, expected.float(), atol=5e-5, rtol=5e-5)
        gap = (found - take(denoiser(ids, attention), places)).abs().max().item()
        assert gap > 1e-3, f"places {part} differ from the exact ones by {gap:.1e}: nothing is stale"


@torch.no_grad()
def test_kept_keys_have_the_precision_of_the_weights(folders: dict[str, Path]) -> None:
    """If it fails, a cache of LLaDA, whose keys are turned in float32, takes half as much memory again as planned."""
    denoiser = load(folders, "llada", torch.bfloat16)
    ids, attention = canvas(denoiser, False)
    kept = KeyValues()
    states_at(denoiser, ids, attention, PLACES, None, kept)
    assert {tensor.dtype for tensor in (*kept.keys, *kept.values)} == {torch.bfloat16}


@pytest.mark.parametrize("kept", [None, KeyValues()], ids=["no cache", "an empty one"])
def test_a_part_without_the_others_is_refused(denoiser: Denoiser, kept: KeyValues | None) -> None:
    """If it fails, tokens are predicted from the block alone, as if there were no prompt."""
    ids, _ = canvas(denoiser, False)
    with pytest.raises(ValueError, match=r"places 30 to 50 of 60, needs"):
        states_at(denoiser, ids, None, PLACES[:, 2:3], PART, kept)
