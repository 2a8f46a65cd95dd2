"""Drift: the same sample by both engines, its numbers by hand, the limits, and what a run says of them."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from tasks.gdsd import tables
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.sampler import (
    Approximate,
    DriftConfig,
    DualCacheConfig,
    PrefixCacheConfig,
    RolloutEngine,
    SamplerConfig,
)
from tasks.gdsd.config.train import RolloutConfig, TrainConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.evaluate import drift
from tasks.gdsd.records import DriftStats, Estimate, RolloutStats
from tasks.gdsd.report import comparison
from tasks.gdsd.rollout import engines
from tasks.gdsd.rollout.engines.base import Completion, Engine, Finished, Request
from tasks.gdsd.rollout.engines.cached import Cached
from tasks.gdsd.rollout.engines.unmasking import Unmasking
from tests.gdsd.config.test_config import load
from tests.gdsd.report import test_comparison
from tests.gdsd.report.records import cells, pairs, record, rendered, rewarded
from tests.gdsd.reward.test_rewards import Reader
from tests.gdsd.scripted import choice
from tests.gdsd.series import rollout

SETTINGS = SamplerConfig(length=16, block_length=8, steps_per_block=4, temperature=1.0)
DUAL = RolloutEngine(DualCacheConfig())
COSTS = [
    RolloutStats(completions=3, tokens=12, positions=positions, seconds=0.5, ended_unix_seconds=0.0)
    for positions in (30, 120)
]
Rows = list[dict[str, object]]


def sampled(denoiser: Denoiser, train: pa.Table, size: int = 3, batch_size: int = 8, seed: int = 0) -> Rows:
    rows, costs = drift.sample(denoiser, train, SETTINGS, DUAL, size=size, batch_size=batch_size, seed=seed)
    assert 0 < costs[0].positions < costs[1].positions
    return rows


def by(rows: Rows, engine: str) -> Rows:
    return [row for row in rows if row["engine"] == engine]


# The sample


def test_both_engines_complete_the_same_problems_by_the_same_draws(
    denoiser: Denoiser, puzzles: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, the difficulty of problems or the luck of a draw counts as drift, and even an engine that computes
    all anew is given up."""
    rows = sampled(denoiser, puzzles)
    ours, exact = by(rows, "dual_cache"), by(rows, "exact")
    assert len(rows) == 6 and len({str(row["prompt_id"]) for row in exact}) == 3
    shared = ("prompt_id", "sample", "problem", "reference", "prompt_ids")
    assert [[row[name] for name in shared] for row in ours] == [[row[name] for name in shared] for row in exact]
    assert [row["completion_ids"] for row in ours] != [row["completion_ids"] for row in exact]
    monkeypatch.setattr(Cached, "resolve", Unmasking.resolve)  # which refuses none
    all_anew = RolloutEngine(PrefixCacheConfig(refresh_every=1))
    again, costs = drift.sample(denoiser, puzzles, SETTINGS, all_anew, size=3, batch_size=8, seed=0)
    assert [row["completion_ids"] for row in by(again, "prefix_cache")] == [row["completion_ids"] for row in exact]
    assert costs[0].positions == costs[1].positions


def test_the_sample_is_the_run_s(denoiser: Denoiser, other_denoiser: Denoiser, puzzles: pa.Table) -> None:
    """If it fails, drift differs between rounds because the problems do, or all runs measure the same ones."""
    rows = sampled(denoiser, puzzles)
    again = sampled(denoiser, puzzles, batch_size=1)
    for row in (*rows, *again):
        row.pop("uncertainty")  # which is rounded otherwise in another batch
    assert again == rows
    later = sampled(other_denoiser, puzzles)
    assert [row["prompt_id"] for row in later] == [row["prompt_id"] for row in rows]
    assert [row["completion_ids"] for row in later] != [row["completion_ids"] for row in rows]
    other = sampled(denoiser, puzzles, seed=1)
    assert [row["completion_ids"] for row in other] != [row["completion_ids"] for row in rows]
    assert len(sampled(denoiser, puzzles, size=100)) == 2 * puzzles.num_rows


# The numbers


def made(ours: list[tuple[list[int], str]], exact: list[tuple[list[int], str]]) -> pa.Table:
    """Both engines' completions, as (tokens, text), of problems 0, 1, 2, ..."""
    rows = [
        rollout(prompt_id=str(index), completion_ids=ids, unmasked_at=[0] * len(ids), completion=text, engine=engine)
        for engine, completions in (("dual_cache", ours), ("exact", exact))
        for index, (ids, text) in enumerate(completions)
    ]
    return pa.Table.from_pylist(rows, tables.ROLLOUTS)


THREE = made(
    [([1, 2, 3, 4], "1"), ([1, 2, 9, 9], "0.25"), ([9, 9, 9, 9], "?")],
    [([1, 2, 3, 4], "1"), ([1, 2, 3, 4], "0.5"), ([1, 2, 3, 4], "0")],
)


def judged(table: pa.Table = THREE, **limits: float) -> tuple[DriftStats, RolloutEngine]:
    return drift.measure(table, COSTS, [], DUAL, DriftConfig.model_validate(limits), choice(Reader), 4)


def test_the_numbers_by_hand() -> None:
    """If it fails, a run goes on with an engine that is too far off, or gives up one that is not.

    Equal tokens: 4, 2 and 0 of 4. The last problem has no verdict on one side, so the rewards of the others count:
    1 and 0.25 against 1 and 0.5, on average 0.125 less.
    """
    stats, engine = judged(agreement=0.5, reward_gap=0.125)
    assert stats.agreement is not None and stats.reward_gap is not None
    assert stats.agreement.mean == pytest.approx(0.5) and 0 <= stats.agreement.low < 0.5 < stats.agreement.high <= 1
    assert stats.reward_gap.mean == -0.125 and stats.reward_gap.low < -0.125 < stats.reward_gap.high
    assert stats.exact_reward == 0.75
    assert (stats.round, stats.engine, stats.completions) == (5, "dual_cache", 3)
    assert (stats.positions, stats.exact_positions) == (30, 120) and stats.seconds >= 1.0
    # At a limit is within it.
    assert not stats.fell_back and engine == DUAL and stats.reason == "within the limits"


WORSE = made([([1], "0")] * 16 + [([1], "1")] * 4, [([1], "1")] * 20)
BETTER = made([([1], "1")] * 20, [([1], "0")] * 16 + [([1], "1")] * 4)


def test_beyond_the_limit_of_tokens_the_exact_engine_follows() -> None:
    """If it fails, an engine that was found to drift makes the rollouts all the same, or nobody learns why not."""
    found = judged()[0].agreement
    assert found is not None and 0.5 < found.high < 1
    for agreement in (0.51, found.high):  # the mean is below, the interval is not
        assert judged(agreement=agreement)[1] == DUAL
    stats, engine = judged(agreement=1.0)
    assert stats.fell_back and engine == drift.EXACT
    words = ("50.0 % (", "rollout.engine.drift.agreement 100 %", "smaller rollout.engine.refresh_every")
    assert all(word in stats.reason for word in words), stats.reason


@pytest.mark.parametrize("table, gap", [(WORSE, "-0.800 ("), (BETTER, "+0.800 (")], ids=["worse", "better"])
def test_a_gap_counts_either_way(table: pa.Table, gap: str) -> None:
    """If it fails, an engine is trusted that writes worse, or better, answers than the policy does."""
    found = judged(table)[0].reward_gap
    assert found is not None
    nearest = min(abs(found.low), abs(found.high))
    assert 0.5 < nearest < 0.8
    assert judged(table, reward_gap=nearest)[1] == DUAL
    stats, engine = judged(table, reward_gap=nearest - 0.01)
    assert stats.fell_back and engine == drift.EXACT
    assert gap in stats.reason and "more than rollout.engine.drift.reward_gap" in stats.reason


def test_an_engine_as_good_as_the_exact_one_is_kept() -> None:
    """If it fails, chance gives an engine up that is none the worse, and each round is another chance.

    Rewards of 0 and 1 that half of the problems get, from either engine, and by chance alone: their mean difference
    over 64 problems has a deviation of sqrt(2 / 4 / 64) = 0.088, so it exceeds 0.1 in a quarter of the rounds.
    """
    source, limits = np.random.default_rng(0), DriftConfig()
    agreed = Estimate(mean=1.0, low=0.9, high=1.0)
    gaps = [drift.gap((source.integers(2, size=64) - source.integers(2, size=64)).tolist()) for _ in range(100)]
    means = [abs(gap.mean) for gap in gaps if gap is not None]
    assert limits.sample == 64 and sum(mean > limits.reward_gap for mean in means) > 15
    assert [drift.exceeded(agreed, gap, limits) for gap in gaps] == [None] * 100


def test_what_follows_both_ends_is_no_agreement() -> None:
    """If it fails, short answers agree because their padding does, and an engine that writes other ones is kept.

    Token 0 ends. In the first pair the later end is the fourth token, and the first and fourth are equal; in the second
    the first two count, of which one is; the third pair has an end on one side only.
    """
    ours = [([1, 2, 0, 0, 0, 0], "1"), ([5, 0, 7, 7, 7, 7], "1"), ([1, 2, 3, 4, 5, 6], "1")]
    exact = [([1, 3, 4, 0, 0, 0], "1"), ([4, 0, 8, 8, 8, 8], "1"), ([1, 2, 3, 0, 0, 0], "1")]
    stats, _ = drift.measure(made(ours, exact), COSTS, [0], DUAL, DriftConfig(), choice(Reader), 0)
    assert stats.agreement is not None and stats.agreement.mean == pytest.approx((2 / 4 + 1 / 2 + 3 / 6) / 3)
    whole, _ = judged(made(ours, exact))
    assert whole.agreement is not None and whole.agreement.mean == pytest.approx((4 / 6 + 1 / 6 + 3 / 6) / 3)


def test_without_verdicts_only_tokens_are_compared() -> None:
    """If it fails, a domain that cannot judge the sample stops the run, or its silence counts as agreement."""
    silent = made([([1, 2], "?"), ([1, 2], "1")], [([1, 2], "1"), ([1, 3], "?")])
    stats, engine = judged(silent, agreement=0.75)
    assert stats.reward_gap is None and stats.exact_reward is None and engine == DUAL
    assert "no rewards" in stats.reason
    assert judged(silent, agreement=1.0)[1] == drift.EXACT


def test_rewards_beyond_one_have_an_interval_around_them() -> None:
    """If it fails, the interval of a domain whose weights sum to more than 1 lies beside its mean."""
    gap = drift.gap([3.0, 3.0])
    assert gap is not None and gap.mean == 3.0 and gap.low < 3.0 <= gap.high


# An engine from elsewhere


class ServerConfig(Approximate):
    name: Literal["server"] = "server"


class Server(Engine):
    """Answers with one token over and over, without the policy."""

    def resolve(self, settings: SamplerConfig) -> SamplerConfig:
        return settings

    def generate(self, requests: Sequence[Request], settings: SamplerConfig, batch_size: int) -> Iterator[Finished]:
        for place in range(len(requests)):
            self.work.positions += 1
            yield {place: Completion([3] * settings.length, [0] * settings.length, [0.5] * settings.length, 1)}


def test_an_engine_that_nothing_else_knows_is_measured(
    denoiser: Denoiser, puzzles: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, an engine that asks a server cannot be added by its own file, configuration and name alone."""
    given = engines.make
    monkeypatch.setattr(
        engines, "make", lambda root, policy: Server() if isinstance(root, ServerConfig) else given(root, policy)
    )
    served = RolloutEngine.model_construct(root=ServerConfig())
    assert served.drift == DriftConfig()
    rows, costs = drift.sample(denoiser, puzzles, SETTINGS, served, size=3, batch_size=8, seed=0)
    assert [row["completion_ids"] for row in by(rows, "server")] == [[3] * SETTINGS.length] * 3
    table, limits = pa.Table.from_pylist(rows, tables.ROLLOUTS), DriftConfig(agreement=0.9)
    stats, following = drift.measure(table, costs, denoiser.end_ids, served, limits, load().prompts.domain, 0)
    assert stats.engine == "server" and stats.positions == 3 and following == drift.EXACT


# What is said of it


def measured(number: int, agreement: float, gap: float | None, **changed: object) -> DriftStats:
    counts = {"round": number, "completions": 32, "positions": 25, "exact_positions": 100}
    means = {
        "agreement": Estimate(mean=agreement, low=agreement - 0.125, high=1.0),
        "reward_gap": None if gap is None else Estimate(mean=gap, low=gap - 0.25, high=gap + 0.25),
        "exact_reward": 0.5,
    }
    outcome = {"engine": "dual_cache", "fell_back": False, "reason": "within the limits", "seconds": 2.0}
    return DriftStats.model_validate(counts | means | outcome | changed)


KEPT = [measured(1, 0.875, -0.25), measured(2, 0.75, None)]
GIVEN_UP = [measured(1, 0.25, 0.5, fell_back=True, reason="25 % <of> the tokens"), drift.unmeasured(1)]


def test_a_run_shows_the_drift_of_each_round() -> None:
    """If it fails, nobody sees what the speed of an approximate engine costs."""
    given = record(drifts=KEPT, rewards=[rewarded(0.5).model_copy(update={"engine": "dual_cache"})] * 2)
    _, first, second, _ = given.metrics()
    assert first["rollout/engine"] == "dual_cache"
    names = ("drift/agreement", "drift/reward_gap", "drift/frac_positions", "time/drift_s")
    assert [first[name] for name in names] == [0.875, -0.25, 0.25, 2.0]
    assert [second[name] for name in names] == [0.75, None, 0.25, 2.0]
    assert given.stage_seconds()["drift"] == 4.0
    said = given.summary("/x")
    assert "engine    dual_cache: at least 75.0% of the tokens are the exact engine's" in said
    assert "the mean reward is at most 0.250 off, for 25% of the positions" in said
    page = rendered(given, pairs())
    assert cells(page, "least agreement") == ["2", "75.0 % (62.5 to 100.0)", "0.500", "not judged", "25%"]
    assert cells(page, "largest difference")[3] == "-0.250 (-0.500 to +0.000)"
    assert "given up" not in page


def test_a_run_that_gave_its_engine_up_says_so_first() -> None:
    """If it fails, a person believes that the fast engine made rollouts which the exact one made."""
    given = record(drifts=GIVEN_UP)
    headline = (page := rendered(given, pairs()))[: page.index("<h2>")]
    assert "The rollout engine dual_cache was given up in round 1" in headline
    assert "25 % &lt;of&gt; the tokens" in headline and "<of>" not in page
    assert "engine    exact from round 1 on, in place of dual_cache: 25 %" in given.summary("/x")
    assert ["drift/agreement" in row for row in given.metrics()] == [False, True, False, False]
    exact = record()
    text = rendered(exact, pairs()).split("<summary>Configuration")[0]
    assert "drift" not in text and "engine" not in exact.summary("/x") and "drift" not in exact.stage_seconds()


@pytest.mark.parametrize(
    "drifts, words", [(KEPT, "which no run gave up"), (GIVEN_UP, "in a at 0.001, seed 0, from round 1 on")]
)
def test_a_comparison_says_which_runs_gave_the_engine_up(drifts: list[DriftStats], words: str) -> None:
    """If it fails, objectives are compared of which some had exact rollouts and others had not, and nobody knows."""
    found = test_comparison.record(*test_comparison.RUNS)
    assert "rollouts by" not in comparison.summary(found)
    first, *others = found.series
    series = [first.model_copy(update={"drifts": drifts}), *others]
    config = found.config.model_copy(update={"rollout": RolloutConfig(engine=DUAL)})
    changed = found.model_copy(update={"config": config, "series": series})
    said = comparison.summary(changed).replace("but exact, because of drift, ", "")
    assert f"rollouts by dual_cache, {words}" in said
    assert words in comparison.render(changed, "")


# What is refused when a configuration is loaded


@pytest.mark.parametrize(
    "engine, sampler, said",
    [
        ({"name": "dual_cache", "refresh_every": 1}, {}, "refresh_every 1 computes all anew in every step"),
        (
            {"name": "dual_cache", "refresh_every": 5},
            {},
            "in the 5 denoiser calls of a block; use 2 to 4",
        ),
        ({"name": "prefix_cache"}, {"steps_per_block": 1}, "steps_per_block 1 there are none"),
        ({"name": "prefix_cache", "refresh_every": 2}, {"steps_per_block": 2}, "calls of a block; use null"),
        # Dream's schedule unmasks int(3 * 0.333) = 0 tokens in its first step, which then asks for nothing.
        (
            {"name": "dual_cache", "refresh_every": 2},
            {"length": 3, "block_length": 3, "steps_per_block": 3, "order": "entropy"},
            "never reached in the 2 denoiser calls of a block",
        ),
        ({"name": "dual_cache", "drift": {"sample": 33}}, {}, "drift.sample 33 exceeds prompts.train_size 32"),
        ({"name": "dual_cash"}, {}, "did you mean 'dual_cache'"),
        ({"name": "threshold"}, {}, "rollout.engine.name: got 'threshold'"),
    ],
)
def test_engines_without_effect_are_refused(engine: dict[str, object], sampler: dict[str, object], said: str) -> None:
    """If it fails, a person pays for a cache that is never read, or believes in a refresh that never comes."""
    rollout: dict[str, object] = {"prompts_per_round": 8, "sampler": sampler}
    with pytest.raises(ConfigError) as refused:
        load(prompts={"train_size": 32}, rollout=rollout | {"engine": engine})
    assert said in str(refused.value)
    for taken in ({"name": "dual_cache", "refresh_every": 4}, {"name": "prefix_cache", "refresh_every": 2}):
        config = load(prompts={"train_size": 64}, rollout={"prompts_per_round": 8, "engine": taken})
        assert config.rollout.engine.drift == DriftConfig()


def test_training_on_what_was_never_written_is_refused() -> None:
    """If it fails, a policy is trained to follow its answers by end tokens that no policy sampled."""
    rollout = {"sampler": {"length": 32, "stop_at_end": True}}
    with pytest.raises(ConfigError, match=r"rollout\.sampler\.stop_at_end .*distill\.objective\.after_end 'counted'"):
        load(rollout=rollout)
    TrainConfig.model_validate(load(rollout=rollout, distill={"objective": {"after_end": "ignored"}}).model_dump())
    contestants = {"own": {"objective": {"after_end": "ignored"}}, "other": {}}
    compared = {"rollout": {**rollout, "prompts_per_round": 8}, "contestants": contestants}
    with pytest.raises(ValueError, match=r"contestants\.other\.objective\.after_end 'counted'"):
        CompareConfig.model_validate(compared)
    contestants.pop("other")
    CompareConfig.model_validate(compared)
