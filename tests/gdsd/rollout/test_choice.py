"""The draw: its distribution, its edges, and what is left out of it."""

import math

import pytest
import torch
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.config.sampler import SamplerConfig
from tasks.gdsd.denoiser.head import Head
from tasks.gdsd.rollout.engines.choice import Rules, choose, keep_likeliest
from tests.gdsd.plain_sampler import choose_plainly

NOTHING = torch.empty(0, dtype=torch.int64)


def rules(temperature: float = 1.0, order: str = "confidence", top_p: float = 1.0, top_k: int | None = None) -> Rules:
    return Rules(temperature, order, top_p, top_k, NOTHING)  # type: ignore[arg-type]  # one of the two literals


def chosen(logits: Tensor, uniform: Tensor, by: Rules) -> tuple[Tensor, Tensor]:  # (N, V), (N,)
    """Chooses from given logits: states of width 1 and a head of their own would be another test."""
    return choose(logits, Head(torch.eye(logits.shape[-1])), uniform, by)


def draw(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:  # (V,), (N,)
    finite = logits.clamp(min=-1e30)  # a product with the identity must not make NaN of an infinity
    return chosen(finite.expand(len(uniform), -1), uniform, rules(temperature))[0]


def test_the_draw_has_the_softmax_distribution() -> None:
    """If it fails, the policy that is trained is not the one that made the rollouts.

    Expected counts of 40,000 draws are softmax(logits / T); 6 tokens of positive mass, hence chi-square with 5 degrees
    of freedom, 30 is exceeded once in 70,000. The token of no mass must never come.
    """
    count, logits = 40_000, torch.tensor([1.0, -2.0, 0.3, -math.inf, -4.0, 0.0, 2.0])
    uniform = seeds.uniform(torch.arange(count), 0)
    for temperature in (0.5, 1.0, 2.0):
        drawn = draw(logits, temperature, uniform)
        counts = torch.bincount(drawn.flatten(), minlength=7).double()
        expected = count * (logits.double() / temperature).softmax(0)
        assert counts[3] == 0
        possible = expected > 0
        assert ((counts - expected)[possible] ** 2 / expected[possible]).sum().item() < 30, f"T = {temperature}"


CHUNKED = 2 * 512 + 77  # tokens of several chunks, the last of which is not full


def test_every_token_of_a_large_vocabulary_is_drawn_with_its_probability() -> None:
    """If it fails, some tokens of a published model's vocabulary come too often, or rare ones never.

    The least uniform number that draws a token or a later one is found by bisection, to the last bit; the token's
    probability is the distance to the next. It is the softmax's in float64 up to 3 millionths of itself, though
    probabilities go down to 1e-9: d = logit - peak is rounded to float32, and where |d| < 22 that moves exp(d) by 1e-6.
    """
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(CHUNKED, generator=generator)
    logits[5], logits[511], logits[1024], logits[-1] = -math.inf, -math.inf, logits.max() + 3, -3.0
    head, by, count = Head(logits[:, None]), rules(), CHUNKED + 1
    low, high = torch.zeros(count, dtype=torch.float64), torch.ones(count, dtype=torch.float64)
    wanted = torch.arange(count)
    for _ in range(60):
        middle = (low + high) / 2
        reached = choose(torch.ones(count, 1), head, middle.clamp(max=1 - 2.0**-53), by)[0] >= wanted
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    found = torch.cat([low[1:-1], torch.ones(1)]) - torch.cat([torch.zeros(1), low[1:-1]])
    expected = logits.double().softmax(0)
    possible = expected > 1e-9
    assert possible.sum() > CHUNKED / 2 and found[[5, 511]].max() < 1e-15
    assert found[possible].tolist() == pytest.approx(expected[possible].tolist(), rel=3e-6)


def test_what_a_large_vocabulary_says_of_the_draw() -> None:
    """If it fails, what is unmasked first, and what training takes for unsure, is wrong for published models only.

    Ranks in float64 by the formulas, for each temperature; their errors stay below those of the logits.
    """
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(64, CHUNKED, generator=generator)
    logits[:, 7] += torch.linspace(0, 40, 64)  # from unsure rows to sure ones
    uniform = torch.rand(64, generator=generator, dtype=torch.float64)
    for temperature in (0.0, 0.7, 1.0):
        tokens, ranks = chosen(logits, uniform, rules(temperature))
        plain = logits.double().softmax(-1).gather(1, tokens[:, None]).squeeze(1)
        assert ranks.tolist() == pytest.approx(plain.tolist(), rel=3e-6)
        heated = (logits.double() / (temperature or 1.0)).softmax(-1)
        ranks = chosen(logits, uniform, rules(temperature, "entropy"))[1]
        assert ranks.tolist() == pytest.approx(torch.xlogy(heated, heated).sum(-1).tolist(), abs=1e-5)


def test_draws_of_a_large_vocabulary_by_its_cumulative_sums() -> None:
    """If it fails, a token depends on how its vocabulary is cut; the middle of each token's own interval gives it."""
    logits = 2 * torch.randn(CHUNKED, generator=torch.Generator().manual_seed(1))
    mass = logits.double().softmax(0)
    uniform = mass.cumsum(0) - mass / 2
    assert draw(logits, 1.0, uniform).tolist() == list(range(CHUNKED))
    ends = draw(logits, 1.0, torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64))
    assert ends.tolist() == [0, CHUNKED - 1]


NO, TAIL = -math.inf, math.log(1e-12)
BY_HAND: dict[str, tuple[list[float], float, list[float], list[int]]] = {
    # Four tokens of equal mass, 1, 2, 4 and 5, own a quarter of [0, 1) each, closed below and open above.
    "ends and tokens of no mass": (
        [NO, 0.0, 0.0, NO, 0.0, 0.0, NO],
        1.0,
        [0.0, 0.2, 0.25, 0.49, 0.5, 0.7, 0.75, 1 - 2.0**-53],
        [1, 1, 2, 2, 4, 4, 5, 5],
    ),
    # A first token of probability about 1e-12 owns u < 1e-12, and the last one u > 1 - 1e-12.
    "rare tokens": ([TAIL, 0.0, TAIL], 1.0, [0.5e-12, 0.5, 1 - 0.5e-12], [0, 1, 2]),
    "no overflow": ([-1e4, 3e4, 2.9e4, NO], 0.001, [0.0, 0.999], [1, 1]),
    "greedy": ([-1e4, 3e4, 2.9e4, NO], 0.0, [0.0, 0.999], [1, 1]),
    "greedy takes the first of equals": ([0.0, 2.0, 2.0, 1.0], 0.0, [0.0], [1]),
}


@pytest.mark.parametrize(("logits", "temperature", "uniform", "tokens"), BY_HAND.values(), ids=BY_HAND)
def test_draws_by_hand(logits: list[float], temperature: float, uniform: list[float], tokens: list[int]) -> None:
    """If it fails, tokens at the ends of the vocabulary, rare or impossible ones come too often or never."""
    found = draw(torch.tensor(logits), temperature, torch.tensor(uniform, dtype=torch.float64))
    assert found.tolist() == tokens


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0, 1.7])
@pytest.mark.parametrize("order", ["confidence", "entropy"])
@pytest.mark.parametrize("top_p, top_k", [(1.0, None), (0.5, None), (1e-6, None), (1.0, 4), (0.8, 6)])
@pytest.mark.parametrize("chunk, error", [(512, 1e-12), (5, 1e-6)], ids=["one chunk", "chunks"])
def test_tokens_and_ranks_equal_the_plain_ones(
    temperature: float,
    order: str,
    top_p: float,
    top_k: int | None,
    chunk: int,
    error: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If it fails, what is drawn or unmasked first is not what the options say; also where rows are cut into chunks.

    Rows are cut, and the vocabulary is: 17 tokens are three chunks of 5 and a rest, in float32.
    """
    monkeypatch.setattr("tasks.gdsd.rollout.engines.choice.CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40, 17, generator=generator)
    uniform = torch.rand(40, generator=generator, dtype=torch.float64)
    monkeypatch.setattr("tasks.gdsd.rollout.engines.choice.LOGITS_BYTES", 4 * 17 * 9)
    monkeypatch.setattr("tasks.gdsd.rollout.engines.choice.CHUNK_BYTES", {"cpu": 8 * 17 * 4})
    monkeypatch.setattr("tasks.gdsd.rollout.engines.choice.SORTED", 3)  # some nuclei end among them, others later
    config = SamplerConfig.model_construct(temperature=temperature, order=order, top_p=top_p, top_k=top_k)
    tokens, ranks = chosen(logits, uniform, rules(temperature, order, top_p, top_k))
    plain = [choose_plainly(row, number, config) for row, number in zip(logits, uniform.tolist(), strict=True)]
    assert tokens.tolist() == [token for token, _ in plain]
    assert ranks.tolist() == pytest.approx([rank for _, rank in plain], abs=error)


@pytest.mark.parametrize("order", ["confidence", "entropy"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_has_a_token_and_no_rank(bad: float, temperature: float, order: str) -> None:
    """If it fails, a token outside the vocabulary stops a GPU for good, or nobody can tell that there was nothing."""
    states = torch.tensor([[0.0, 1.0, 2.0], [0.0, bad, 2.0]])
    for top_p, top_k in ((1.0, None), (0.9, 2)):
        by = rules(temperature, order, top_p, top_k)
        tokens, ranks = chosen(states, torch.tensor([0.5, 0.5]).double(), by)
        assert tokens.min() >= 0 and tokens.max() < 3
        assert ranks.isnan().tolist() == [False, True]


def test_banned_tokens_have_no_mass() -> None:
    """If it fails, a banned token is drawn, or its probability counts in the order of unmasking."""
    by = Rules(1.0, "confidence", 1.0, None, torch.tensor([1, 3]))
    tokens, ranks = chosen(torch.tensor([[0.0, 9.0, 0.0, 9.0]]).expand(2, -1), torch.tensor([0.2, 0.8]).double(), by)
    assert tokens.tolist() == [0, 2]
    assert ranks.tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("first", [1, 4, 100], ids=lambda first: f"{first} sorted")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nucleus_among_equals_and_negative_logits(
    first: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a nucleus has too many tokens or too few where logits are equal, negative, zero or minus infinity.

    Whole logits of a few values have many equals; the plain way is a stable sort.
    """
    monkeypatch.setattr("tasks.gdsd.rollout.engines.choice.SORTED", first)
    logits = torch.randint(-3, 3, (200, 23), generator=torch.Generator().manual_seed(1)).to(dtype)
    logits[:, 5], logits[::2, 7], logits[1::2, 7] = -math.inf, 0.0, -0.0
    mass = (logits - logits.amax(-1, keepdim=True)).double().exp()
    for top_p in (0.01, 0.3, 0.77, 0.999):
        order = logits.argsort(dim=-1, descending=True, stable=True)
        falling = mass.gather(1, order)
        before = falling.cumsum(-1) - falling
        plain = torch.zeros_like(mass).scatter_(1, order, falling * (before < top_p * falling.sum(-1, keepdim=True)))
        tokens, kept = keep_likeliest(logits, mass, top_p, None)
        assert torch.equal(torch.zeros_like(mass).scatter_(1, tokens, kept), plain)
