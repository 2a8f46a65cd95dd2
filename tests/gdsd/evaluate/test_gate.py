"""The gate: promotion on the whole interval of a paired difference, and only where every guard holds."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from tasks.gdsd import tables
from tasks.gdsd.config.evaluate import GateConfig
from tasks.gdsd.config.sampler import SamplerConfig, ThresholdConfig
from tasks.gdsd.errors import DataError
from tasks.gdsd.evaluate import gate, intervals
from tasks.gdsd.records import Decision, Estimate, EvalReport, GuardReport
from tests.gdsd.series import answer, validation

JUDGE = GateConfig(margin=0.0, confidence=0.95, resamples=2000)


def answers(solved: Sequence[bool | None], prefix: str = "test", **changed: object) -> pa.Table:
    rows = []
    for index, right in enumerate(solved):
        asked = {name: f"{name} {index}" for name in ("prompt", "problem", "reference")}
        verdict = {"reward": None if right is None else float(right), "solved": right}
        rows.append(answer(**{"prompt_id": f"{prefix}-{index:06d}", **asked, **verdict, **changed}))
    return pa.Table.from_pylist(rows, tables.SAMPLES)


def compare(base: pa.Table, trained: pa.Table, config: GateConfig, guards: Sequence[GuardReport] = ()) -> Decision:
    return gate.decide(base, trained, list(guards), config)


def mixed(share: float, size: int = 40) -> list[bool | None]:
    return [index < share * size for index in range(size)]


@pytest.mark.parametrize(
    "other",
    [
        answers(mixed(0.5), prefix="validation"),
        answers(mixed(0.5, size=39)),
        answers(mixed(0.5)).take(list(range(39, -1, -1))),
        answers(mixed(0.5), sample=1),
        answers(mixed(0.5), prompt="another prompt"),
        answers(mixed(0.5), problem="another problem"),
        answers(mixed(0.5), reference="another reference"),
    ],
    ids=["ids", "number", "order", "sample", "prompt", "problem", "reference"],
)
def test_answers_to_different_problems_are_not_compared(other: pa.Table) -> None:
    """If it fails, a policy is promoted for easier problems: ids, test-000000 and on, are alike in every run."""
    with pytest.raises(DataError, match="not evaluated on the same problems"):
        compare(answers(mixed(0.5)), other, JUDGE)


def test_promotion_needs_the_whole_interval_above_the_margin() -> None:
    """If it fails, a gain within the noise, or below the asked margin, is promoted.

    Compared with the decision's own lower end: a margin just below it is cleared, it itself is not.
    """
    base, trained = answers(mixed(0.4)), answers(mixed(0.8))
    decision = compare(base, trained, JUDGE)
    low = decision.solved_difference.low
    assert decision.promoted and decision.solved_difference.mean == pytest.approx(0.4) and low > 0.2
    assert "clears the margin of 0.0 points" in decision.reason
    below = compare(base, trained, JUDGE.model_copy(update={"margin": low - 1e-9}))
    at = compare(base, trained, JUDGE.model_copy(update={"margin": low}))
    assert below.promoted and not at.promoted
    assert "does not clear" in at.reason
    for shares in ((0.5, 0.5), (0.8, 0.4), (0.5, 0.525), (1.0, 1.0), (0.0, 0.0)):
        assert not compare(*(answers(mixed(share)) for share in shares), JUDGE).promoted


def test_the_comparison_is_paired() -> None:
    """If it fails, the difficulty of problems counts as noise, and real gains are not found.

    Gains of 1 on 8 of 40 problems and losses nowhere: the paired interval is that of a share of 0.2, whatever the base.
    """
    solved = mixed(0.5)
    better = [right or index >= 32 for index, right in enumerate(solved)]
    paired = compare(answers(solved), answers(better), JUDGE)
    alone = intervals.bootstrap(np.array([0.0] * 32 + [1.0] * 8), JUDGE)
    assert paired.solved_difference.mean == pytest.approx(0.2)
    assert paired.solved_difference.low == pytest.approx(alone.low, abs=0.03)
    assert paired.promoted


def test_problems_without_both_verdicts_are_left_out() -> None:
    """If it fails, an answer that could not be judged counts for or against a policy."""
    base: list[bool | None] = [False, False, None, True, None]
    trained: list[bool | None] = [True, None, True, True, None]
    decision = compare(answers(base), answers(trained), JUDGE)
    assert decision.solved_difference.mean == pytest.approx(0.5)  # problems 0 and 3
    assert decision.reward_difference.mean == pytest.approx(0.5)
    with pytest.raises(DataError, match="no problem has a verdict for both"):
        compare(answers([None, True]), answers([True, None]), JUDGE)


def test_each_gain_is_of_the_problems_for_which_it_is_known() -> None:
    """If it fails, a policy whose wrong answers have no reward gains by answers of which is known that they are wrong.

    Solved of three problems: 0, 0, 1 before and 1, 0, 0 after. Of the first two the reward is not known after.
    """
    base, trained = answers([False, False, True]), answers([True, False, False])
    place = trained.column_names.index("reward")
    open_ = trained.set_column(place, trained.schema.field("reward"), pa.array([None, None, 0.25], pa.float32()))
    decision = compare(base, open_, JUDGE)
    assert decision.solved_difference == compare(base, trained, JUDGE).solved_difference
    assert (decision.solved_difference.mean, decision.reward_difference.mean) == (0.0, -0.75)


# Several answers to each problem


def repeated(solved: Sequence[Sequence[bool | None]]) -> pa.Table:
    """Answers in the order of an evaluation's samples: by problem, then by sample."""
    columns = [answers([own[sample] for own in solved], sample=sample) for sample in range(len(solved[0]))]
    order = [("prompt_id", "ascending"), ("sample", "ascending")]
    return pa.concat_tables(columns).sort_by(order).combine_chunks()


def test_several_answers_are_paired_by_problem() -> None:
    """If it fails, answers to one problem count as independent evidence, and asking often enough promotes any policy.

    Shares per problem: base 0, 1/2, 1, of one judged answer 1; trained 1/2, 1/2, 1, 1. Gains 1/2, 0, 0, 0: mean 1/8.
    The resampled units are the four problems, so the interval is that of those four gains. However often each of four
    problems is asked, one that gained is one of four.
    """
    base = repeated([[False, False], [True, False], [True, True], [True, None]])
    trained = repeated([[True, False], [False, True], [True, True], [True, True]])
    decision = compare(base, trained, JUDGE)
    assert decision.solved_difference == intervals.difference(np.array([0.5, 0.0, 0.0, 0.0]), JUDGE)
    assert not decision.promoted
    often = compare(repeated([[False] * 64] * 4), repeated([[True] * 64, *[[False] * 64] * 3]), JUDGE)
    assert often.solved_difference.mean == 0.25 and often.solved_difference.low < 0 and not often.promoted


def test_pass_at_k_is_compared_by_problem_too() -> None:
    """If it fails, pass@k has no interval of its difference, or counts problems that one policy has too few answers to.

    pass@2 of three answers, one right: 1 - C(2,2)/C(3,2) = 2/3; two right: 1. The third problem has one judged answer.
    """
    base = repeated([[True, False, False], [False, False, False], [None, True, None]])
    trained = repeated([[True, True, False], [False, False, False], [True, True, True]])
    found = gate.decide(base, trained, [], JUDGE, [1, 2, 3])
    means = {each.k: each.share.mean for each in found.pass_at_differences}
    assert means == pytest.approx({1: (1 / 3 + 0 + 0) / 3, 2: (1 / 3 + 0) / 2, 3: 0.0})
    assert gate.paired_pass_at(base, trained, 4, JUDGE) is None


# Guards

REPORT = validation(1, 0.5)


def guarded(low: float, tolerance: float, name: str = "older-task") -> GuardReport:
    return gate.guard(name, REPORT, REPORT, Estimate(mean=low + 0.1, low=low, high=low + 0.2), tolerance)


@pytest.mark.parametrize(
    "changed, named",
    [
        ({"engine": ThresholdConfig()}, r"engine: .*'exact'.*'threshold'"),
        ({"sampler": SamplerConfig(steps_per_block=8)}, r"sampler: .*'steps_per_block': 5.*8"),
        ({"seed": 1}, "seed: 0 and 1"),
        ({"prompts_sha256": "1" * 64}, "prompts_sha256: 0+ and 1+"),
    ],
    ids=lambda value: "",
)
def test_numbers_of_two_protocols_are_not_compared(changed: dict[str, object], named: str) -> None:
    """If it fails, a policy is promoted for having been sampled in another way than its base."""
    other = REPORT.model_copy(update={"protocol": REPORT.protocol.model_copy(update=changed)})
    for pair in ((REPORT, other), (other, REPORT)):
        with pytest.raises(DataError, match=r"different protocols.*evaluate both under one"):
            gate.guard("older-task", *pair, Estimate(mean=0.0, low=0.0, high=0.0), 0.0)
    with pytest.raises(DataError, match=named):
        gate.require_one_protocol(REPORT, other)
    # What a stage hands on comes back as the plain kind of sampler, which is the same protocol.
    gate.require_one_protocol(REPORT, EvalReport.model_validate_json(REPORT.model_dump_json()))


def test_a_guard_holds_down_to_its_tolerance_and_each_that_fails_is_named() -> None:
    """If it fails, the gate tolerates another drop than the config says, or nobody learns what a policy forgot."""
    base, trained = answers(mixed(0.2)), answers(mixed(0.8))
    for low, tolerance in ((-0.25, 0.25), (0.0, 0.0), (0.1, 0.0)):
        decision = compare(base, trained, JUDGE, [guarded(low, tolerance)])
        assert decision.guards[0].held and decision.promoted and "older-task" not in decision.reason
    guards = [guarded(-0.1, 0.2, "kept"), guarded(-0.125, 0.02, "lost"), guarded(-1e-9, 0.0, "lost-too")]
    for failing in (guards, guards[1:2], guards[2:]):
        decision = compare(base, trained, JUDGE, failing)
        assert not decision.promoted and "clears the margin" in decision.reason and "kept" not in decision.reason
    decision = compare(base, trained, JUDGE, guards)
    assert [found.held for found in decision.guards] == [True, False, False]
    assert "guard lost it may be worse by 12.5 points, of which 2.0 are tolerated" in decision.reason
    assert "guard lost-too it may be worse by 0.0 points, of which 0.0 are tolerated" in decision.reason
    assert not compare(base, base, JUDGE, [guarded(0.5, 0.0)]).promoted, "no harm is no gain"
