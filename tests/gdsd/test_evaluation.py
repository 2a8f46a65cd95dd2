"""Evaluation: the same answers for the same protocol, intervals as published, and a gate that cannot be argued with."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pytest

from tasks.gdsd import evaluation, tables
from tasks.gdsd.checkpoint import base_state
from tasks.gdsd.config import EvaluationConfig, EvaluationSamplerConfig, JudgeConfig, PromptConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.domains import DOMAINS, Verdict
from tasks.gdsd.errors import DataError
from tasks.gdsd.records import Estimate, EvalReport, Protocol

FREE = EvaluationSamplerConfig(length=16, block_length=16, steps_per_block=2, temperature=1.0)
GREEDY = EvaluationSamplerConfig(length=16, block_length=16, steps_per_block=2, temperature=0.0)
JUDGE = JudgeConfig(margin=0.0, confidence=0.95, resamples=2000)
PROTOCOL = Protocol(domain="sudoku", sampler=GREEDY, seed=0, problems=10, prompts_sha256="0" * 64)


# Intervals


@pytest.mark.parametrize(
    "successes, trials, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(successes: int, trials: int, low: float, high: float) -> None:
    """If it fails, the reported intervals are not Wilson's. Values: Newcombe 1998, Statistics in Medicine, table I."""
    estimate = evaluation.wilson(successes, trials, 0.95)
    assert estimate.mean == successes / trials
    assert estimate.low == pytest.approx(low, abs=5e-5)
    assert estimate.high == pytest.approx(high, abs=5e-5)


def test_wilson_holds_its_share() -> None:
    """If it fails, an interval misses its own mean by rounding, and the report's error bars, which refuse negative
    lengths, end the run in its last stage; most easily where nothing or everything is solved."""
    missed = [
        (successes, trials)
        for trials in range(1, 300)
        for successes in {0, 1, trials // 2, trials - 1, trials}
        for estimate in [evaluation.wilson(successes, trials, 0.95)]
        if not 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
    ]
    assert missed == []


def test_wilson_is_not_empty_at_the_ends_and_widens_with_confidence() -> None:
    """If it fails, ten right answers of ten are reported as certainty."""
    assert evaluation.wilson(10, 10, 0.95).low == pytest.approx(0.7225, abs=1e-4)
    assert evaluation.wilson(0, 10, 0.95).high == pytest.approx(0.2775, abs=1e-4)
    widths = [
        estimate.high - estimate.low
        for confidence in (0.8, 0.9, 0.95, 0.99)
        for estimate in [evaluation.wilson(7, 10, confidence)]
    ]
    assert widths == sorted(widths)


def test_normal_by_hand() -> None:
    """If it fails, the reported interval of the reward is wrong.

    Values 0, 1, 0.5, 0.5: mean 0.5, unbiased variance 0.5 / 3, so 1.959964 * sqrt(0.5 / 3) / 2 = 0.400076 each side.
    """
    estimate = evaluation.normal([0.0, 1.0, 0.5, 0.5], 0.95)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.5, 0.099924, 0.900076), abs=1e-6)
    assert evaluation.normal([0.7], 0.95) == Estimate(mean=0.7, low=0.7, high=0.7)


@pytest.mark.parametrize("confidence, low, high", [(0.51, 0.0, 2 / 3), (0.9, 0.0, 2 / 3), (0.95, 0.0, 1.0)])
def test_bootstrap_against_enumeration(confidence: float, low: float, high: float) -> None:
    """If it fails, the gate decides on another interval than the one it names.

    Resampling 0, 0, 1 gives means k/3 with k binomial (3, 1/3): cumulative 8/27 = 0.296, 20/27 = 0.741, 26/27 = 0.963,
    1. Quantiles 0.245 and 0.755 are 0 and 2/3; 0.05 and 0.95 are 0 and 2/3; 0.025 and 0.975 are 0 and 1.
    """
    config = JudgeConfig(confidence=confidence, resamples=10_000)
    estimate = evaluation.bootstrap(np.array([0.0, 0.0, 1.0]), config)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((1 / 3, low, high))


def test_bootstrap_of_many_is_nearly_normal() -> None:
    """If it fails, intervals are too narrow or too wide.

    For 400 differences the percentile interval is mean -+ 1.96 sd / sqrt(400) up to skewness and the noise of 2,000
    resamples, which moves a 2.5 % quantile by about 3 % of the half-width; 15 % is allowed.
    """
    differences = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], size=400, p=[0.1, 0.6, 0.3])
    estimate = evaluation.bootstrap(differences, JUDGE)
    half = 1.96 * differences.std() / 20
    assert estimate.mean == pytest.approx(differences.mean())
    assert estimate.mean - estimate.low == pytest.approx(half, rel=0.15)
    assert estimate.high - estimate.mean == pytest.approx(half, rel=0.15)


def test_bootstrap_is_reproducible_and_takes_any_number_of_resamples() -> None:
    """If it fails, judging twice can decide differently, or `resamples` is rounded to the size of a chunk."""
    differences = np.linspace(-0.2, 0.9, 30)
    assert evaluation.bootstrap(differences, JUDGE) == evaluation.bootstrap(differences, JUDGE)
    found = {
        evaluation.bootstrap(differences, JudgeConfig(resamples=count)).low for count in (100, 999, 1000, 1001, 2500)
    }
    assert len(found) == 5
    assert evaluation.bootstrap(np.full(5, 0.25), JUDGE) == Estimate(mean=0.25, low=0.25, high=0.25)


# The gate


def answers(solved: Sequence[bool | None], prefix: str = "test", **changed: object) -> pa.Table:
    rows = [
        {
            "prompt_id": f"{prefix}-{index:06d}",
            "sample": 0,
            "problem": f"problem {index}",
            "reference": f"reference {index}",
            "completion": "c",
            "reward": None if right is None else float(right),
            "solved": right,
        }
        | changed
        for index, right in enumerate(solved)
    ]
    return pa.Table.from_pylist(rows, tables.SAMPLES)


def mixed(share: float, size: int = 40) -> list[bool | None]:
    return [index < share * size for index in range(size)]


@pytest.mark.parametrize(
    "other",
    [
        answers(mixed(0.5), prefix="validation"),
        answers(mixed(0.5, size=39)),
        answers(mixed(0.5)).take(list(range(39, -1, -1))),
        answers(mixed(0.5), sample=1),
        answers(mixed(0.5), problem="another problem"),
        answers(mixed(0.5), reference="another reference"),
    ],
    ids=["ids", "number", "order", "sample", "problem", "reference"],
)
def test_answers_to_different_problems_are_not_compared(other: pa.Table) -> None:
    """If it fails, a policy is promoted for easier problems: ids, test-000000 and on, are alike in every run."""
    with pytest.raises(DataError, match="not evaluated on the same problems"):
        evaluation.compare(answers(mixed(0.5)), other, JUDGE)


def test_promotion_needs_the_whole_interval_above_the_margin() -> None:
    """If it fails, a gain within the noise, or below the asked margin, is promoted.

    Compared with the decision's own lower end: a margin just below it is cleared, it itself is not.
    """
    base, trained = answers(mixed(0.4)), answers(mixed(0.8))
    decision = evaluation.compare(base, trained, JUDGE)
    low = decision.solved_difference.low
    assert decision.promoted and decision.solved_difference.mean == pytest.approx(0.4) and low > 0.2
    assert "clears the margin of 0.0 points" in decision.reason
    below = evaluation.compare(base, trained, JUDGE.model_copy(update={"margin": low - 1e-9}))
    at = evaluation.compare(base, trained, JUDGE.model_copy(update={"margin": low}))
    assert below.promoted and not at.promoted
    assert "does not clear" in at.reason


@pytest.mark.parametrize("base, trained", [(0.5, 0.5), (0.8, 0.4), (0.5, 0.525), (1.0, 1.0), (0.0, 0.0)])
def test_no_clear_gain_is_not_promoted(base: float, trained: float) -> None:
    """If it fails, a policy that is no better replaces its base."""
    assert not evaluation.compare(answers(mixed(base)), answers(mixed(trained)), JUDGE).promoted


def test_the_comparison_is_paired() -> None:
    """If it fails, the difficulty of problems counts as noise, and real gains are not found.

    Gains of 1 on 8 of 40 problems and losses nowhere: the paired interval is that of a share of 0.2, whatever the base.
    """
    solved = mixed(0.5)
    better = [right or index >= 32 for index, right in enumerate(solved)]
    paired = evaluation.compare(answers(solved), answers(better), JUDGE)
    alone = evaluation.bootstrap(np.array([0.0] * 32 + [1.0] * 8), JUDGE)
    assert paired.solved_difference.mean == pytest.approx(0.2)
    assert paired.solved_difference.low == pytest.approx(alone.low, abs=0.03)
    assert paired.promoted


def test_problems_without_both_verdicts_are_left_out() -> None:
    """If it fails, an answer that could not be judged counts for or against a policy."""
    base: list[bool | None] = [False, False, None, True, None]
    trained: list[bool | None] = [True, None, True, True, None]
    decision = evaluation.compare(answers(base), answers(trained), JUDGE)
    assert decision.solved_difference.mean == pytest.approx(0.5)  # problems 0 and 3
    assert decision.reward_difference.mean == pytest.approx(0.5)
    with pytest.raises(DataError, match="no problem has a verdict for both"):
        evaluation.compare(answers([None, True]), answers([True, None]), JUDGE)


# Choosing the best round


def report(solved: float, reward: float, round_index: int) -> EvalReport:
    return EvalReport(
        round=round_index,
        protocol=PROTOCOL,
        solved=Estimate(mean=solved, low=0.0, high=1.0),
        reward=Estimate(mean=reward, low=0.0, high=1.0),
        tokens=160,
        seconds=1.0,
    )


def test_best_is_by_solved_then_reward_then_round() -> None:
    """If it fails, another round than the documented one is published."""
    assert evaluation.best([report(0.5, 0.9, 1), report(0.6, 0.1, 2), report(0.4, 1.0, 3)]) == 1
    assert evaluation.best([report(0.5, 0.7, 1), report(0.5, 0.8, 2), report(0.5, 0.6, 3)]) == 1
    assert evaluation.best([report(0.5, 0.7, 10), report(0.5, 0.7, 20), report(0.4, 0.9, 30)]) == 1
    assert evaluation.best([report(0.0, 0.0, 1)]) == 0


# Fingerprints


def test_a_fingerprint_is_of_the_content(puzzles: pa.Table) -> None:
    """If it fails, numbers from different problems pass as comparable, or equal problems as different."""
    rows = puzzles.to_pylist()
    same = [
        puzzles,
        pa.Table.from_pylist(rows),
        puzzles.select(["reference", "id", "problem", "prompt"]),
        pa.concat_tables([puzzles.slice(0, 2), puzzles.slice(2)]),
        puzzles.append_column("note", pa.array(["x"] * 5)),
    ]
    assert len({evaluation.fingerprint(table) for table in same}) == 1
    changed = [puzzles.slice(1), puzzles.take([1, 0, 2, 3, 4])]
    for name in ("id", "prompt", "problem", "reference"):
        changed.append(pa.Table.from_pylist([rows[0] | {name: "other"}, *rows[1:]]))
    assert len({evaluation.fingerprint(table) for table in [puzzles, *changed]}) == 7


# Evaluating a policy


def test_batches_change_no_answer(denoiser: Denoiser, puzzles: pa.Table) -> None:
    """If it fails, a smaller GPU reports another result."""
    policy = base_state(denoiser)
    expected, samples = evaluation.evaluate(
        policy, puzzles, "sudoku", EvaluationConfig(batch_size=64, sampler=FREE), seed=0
    )
    for size in (1, 2):
        found, again = evaluation.evaluate(
            policy, puzzles, "sudoku", EvaluationConfig(batch_size=size, sampler=FREE), seed=0
        )
        assert again == samples
        assert found.model_copy(update={"seconds": 0.0}) == expected.model_copy(update={"seconds": 0.0})


def test_the_seed_matters_only_where_there_is_a_draw(denoiser: Denoiser, puzzles: pa.Table) -> None:
    """If it fails, a greedy evaluation is not a property of the policy."""

    def completions(sampler: EvaluationSamplerConfig, seed: int) -> list[object]:
        _, samples = evaluation.evaluate(
            base_state(denoiser), puzzles, "sudoku", EvaluationConfig(batch_size=8, sampler=sampler), seed
        )
        return [sample["completion"] for sample in samples]

    assert completions(GREEDY, 0) == completions(GREEDY, 1)
    assert completions(FREE, 0) != completions(FREE, 1)


class Scripted:
    """A domain that judges problems by their text: `1` solved, `0` not, `?` cannot say."""

    def problems(self, config: PromptConfig) -> Iterator[tuple[str, str]]:
        return iter([])

    def phrase(self, problem: str) -> str:
        return problem

    def fault(self, problem: str, reference: str) -> str | None:
        return None

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return Verdict(None, None) if problem == "?" else Verdict(float(problem) / 2, problem == "1")


def problems(texts: str) -> pa.Table:
    rows = [
        {"id": str(i), "prompt": text.replace("?", "x"), "problem": text, "reference": "r"}
        for i, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(rows, tables.PROMPTS)


def test_the_report_counts_what_was_judged(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, the reported share is not that of the samples, or unjudged answers count as wrong.

    Of 1, 0, 1, ? two of three judged are solved, with mean reward (0.5 + 0 + 0.5) / 3.
    """
    monkeypatch.setitem(DOMAINS, "scripted", Scripted())
    config = EvaluationConfig(batch_size=3, sampler=GREEDY)
    report, samples = evaluation.evaluate(base_state(denoiser), problems("101?"), "scripted", config, seed=5)
    assert report.solved == evaluation.wilson(2, 3, 0.95)
    assert report.reward.mean == pytest.approx(1 / 3)
    assert (report.round, report.tokens) == (0, 4 * 16)
    assert report.protocol == Protocol(
        domain="scripted",
        sampler=GREEDY,
        seed=5,
        problems=4,
        prompts_sha256=evaluation.fingerprint(problems("101?")),
    )
    table = pa.Table.from_pylist(samples, tables.SAMPLES)
    assert table["solved"].to_pylist() == [True, False, True, None]
    assert table["reward"].to_pylist() == [0.5, 0.0, 0.5, None]
    assert table["problem"].to_pylist() == ["1", "0", "1", "?"]


def test_an_evaluation_without_any_verdict_is_refused(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a verifier that is out of order reports 0 % solved."""
    monkeypatch.setitem(DOMAINS, "scripted", Scripted())
    with pytest.raises(DataError, match="none of the 2 answers could be judged"):
        evaluation.evaluate(
            base_state(denoiser), problems("??"), "scripted", EvaluationConfig(batch_size=3, sampler=GREEDY), seed=0
        )
