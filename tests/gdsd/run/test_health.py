"""A run that is not learning says so, and one that learns is left in peace."""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tasks.gdsd.records import EvalReport, Progress
from tasks.gdsd.run import health
from tests.gdsd.series import run, validation

Rows = Sequence[dict[str, object]]
ROUNDS = 60


def noisy(slope: float, rounds: int = ROUNDS, start: float = 0.3) -> list[dict[str, object]]:
    """A reward that rises by `slope` a round, with the default experiment's noise."""
    source = random.Random(0)
    return [{"reward_mean": start + slope * index + source.gauss(0, 0.01)} for index in range(rounds)]


LEARNING = noisy(0.005)


def with_all(rows: Rows, since: int = 0, **values: object) -> Rows:
    return [row | values if index >= since else row for index, row in enumerate(rows)]


def steps(since: int = ROUNDS, **values: object) -> Rows:
    return with_all([{"kl_ref": 0.01 + 0.01 * index} for index in range(ROUNDS)], since, **values)


def names(progress: Progress) -> list[str]:
    return [concern.name for concern in health.concerns(progress)]


VALIDATIONS = [validation(10 * number, 0.1 * number) for number in range(1, 5)]
FALLEN = [*VALIDATIONS, validation(50, 0.25), validation(60, 0.3)]
BEHIND = [*VALIDATIONS, validation(50, 0.5), validation(60, 0.5)]
CASES: dict[str, tuple[Rows, Rows, list[EvalReport]]] = {
    "no spread": (with_all(LEARNING, 40, frac_zero_std=0.95), steps(), []),
    "problems solved": (with_all(LEARNING, 40, frac_zero_std=0.85, solved=0.8), steps(), []),
    "reward flat": (noisy(0.0), steps(), []),
    "validation fell": (LEARNING, steps(), FALLEN),
    "learned by heart": (with_all(LEARNING, 20, solved=0.6), steps(), BEHIND),
    "shift": (LEARNING, steps(50, shift_abs=0.2), []),
    "divergence": (LEARNING, steps(50, kl_ref=5.0), []),
    "gradient": (LEARNING, steps(50, grad_norm=3.0), []),
    "policy too sure": (LEARNING, steps(20, nll=0.05), []),
    "policy too random": (LEARNING, steps(20, nll=1.5), []),
    "completions alike": (with_all(LEARNING, 40, distinct=0.3), steps(), []),
    "completions empty": (with_all(LEARNING, 40, empty=0.3), steps(), []),
    "completions cut off": (with_all(LEARNING, 40, truncated=0.5), steps(), []),
    "not judged": (with_all(LEARNING, 40, judged=0.9), steps(), []),
    "updates skipped": (LEARNING, steps(40, skipped=True), []),
}


@pytest.mark.parametrize("name", health.CHECKS)
def test_each_concern_is_raised_and_nothing_else(name: str) -> None:
    """If it fails, hours are spent on a run that its own numbers say is lost, or a reader is sent the wrong way."""
    (concern,) = health.concerns(run(*CASES[name]))
    assert concern.name == name and 1 <= concern.since <= ROUNDS
    what, remedy = concern.said()
    assert f"since round {concern.since}: " in what and remedy.startswith("Try: ")
    rewards, *others = CASES[name]
    unknown = health.concerns(run(with_all(rewards, solved=None), *others))
    assert "nan" not in " ".join(found.seen for found in unknown), "nobody knows what is solved"


def test_a_base_that_solves_nothing_is_told_what_to_do() -> None:
    """If it fails, a newcomer whose first run stands still does not learn that the warm start was too short."""
    rounds = health.RECENT + health.HELD - 1
    (concern,) = health.concerns(run([{"frac_zero_std": 0.97, "solved": 0.003}] * rounds))
    assert (concern.name, concern.since) == ("no spread", health.RECENT)
    assert "97% of the groups" in concern.seen and "with 0% of the rollouts solved" in concern.seen
    assert "policy.warm_start.steps" in concern.remedy


def test_a_round_in_which_much_has_no_reward_is_told_at_once() -> None:
    """If it fails, a run of few rounds trains on a part of its answers, and says so nowhere."""
    (concern,) = health.concerns(run([{"judged": 1.0}, {"judged": 37 / 60}]))
    assert (concern.name, concern.since) == ("not judged", 2)
    assert concern.seen.startswith("62% of the completions of the last round have a reward")
    assert names(run([{"judged": 1.0}, {"judged": 0.8}])) == []
    told = run([{"judged": 0.5, "unrewarded": "it is\x1baway"}, {"judged": 0.5}])
    assert health.concerns(told)[0].seen.endswith(r"teach nothing; of one the domain says: 'it is\x1baway'")


def test_a_run_that_learns_raises_none() -> None:
    """If it fails, people learn to ignore the warnings."""
    assert names(run(LEARNING, steps(), VALIDATIONS)) == []
    # A single bad round, or two, alarm nobody; neither does what was not measured.
    assert names(run(with_all(LEARNING, ROUNDS - 1, empty=1.0, frac_zero_std=1.0), steps(), VALIDATIONS)) == []
    unknown = with_all(LEARNING, 0, distinct=None)
    assert names(run(unknown, steps(0, nll=None, shift_abs=None, grad_norm=None, kl_ref=None))) == []
    assert names(Progress()) == names(run(LEARNING[:1], [{}])) == []
    # Of twenty validations one lies below its interval by chance.
    assert names(run(LEARNING, steps(), [*VALIDATIONS, validation(50, 0.25), validation(60, 0.4)])) == []


def test_a_concern_says_since_when_and_passes() -> None:
    """If it fails, a reader looks for the cause in the wrong rounds, or is warned of what is over."""
    (concern,) = health.concerns(run(*CASES["completions empty"]))
    assert 41 <= concern.since <= 45  # the mean of five rounds from round 41 on
    over = with_all(with_all(LEARNING, 20, empty=0.3), 40, empty=0.0)
    assert names(run(over, steps())) == []


def test_a_flat_reward_is_told_from_one_that_noise_hides() -> None:
    """If it fails, a slow run is given up, or one that stands still goes on."""
    (never,) = health.concerns(run(noisy(0.0, health.LEARNS + 3)))
    assert "has not risen" in never.seen
    then = [*noisy(0.01, 30), *noisy(0.0, 60, start=0.6)]
    (stopped,) = health.concerns(run(then))
    assert "no longer rises" in stopped.seen
    assert names(run(noisy(0.0, health.LEARNS - 1))) == []  # too early to tell
    assert names(run([*noisy(0.01, 30), *noisy(0.001, 60, start=0.6)])) == []  # slow, but it rises


def test_a_flat_reward_is_told_by_what_the_run_shows() -> None:
    """If it fails, who has a reward that hardly differs is told to look for a base that solves nothing."""
    for solved, spread, told in ((0.48, 0.1, False), (0.0, 0.25, True)):
        rows = with_all(noisy(0.0), solved=solved, reward_std=spread)
        (concern,) = health.concerns(run(rows))
        assert ("spread by 0.100 only" in concern.remedy and "reward.scale_by_std" in concern.remedy) is not told
        assert ("see that the base solves some problems" in concern.remedy) is told


def test_rollouts_far_above_one_validation_alarm_nobody() -> None:
    """If it fails, chance in a small validation is taken for a policy that has learned its problems by heart."""
    once = [*VALIDATIONS, validation(50, 0.6), validation(60, 0.5)]
    assert names(run(with_all(LEARNING, 20, solved=0.6), steps(), once)) == []
    assert names(run(with_all(LEARNING, 20, solved=0.53), steps(), BEHIND)) == [], "within the interval"


def default_run() -> Progress:
    """Seed 1 of the default experiment, 150 rounds: 10 % solved before, 86 % after."""
    with Path(__file__).with_name("default_run.csv").open() as file:
        rows = list(csv.DictReader(file))
    of_updates, of_validations = ("shift_abs", "grad_norm"), ("validated", "low", "high")
    return run(
        [
            {name: float(value) for name, value in row.items() if name not in (*of_updates, *of_validations)}
            | {"distinct": None}
            for row in rows
        ],
        [{name: float(row[name]) for name in of_updates} | {"nll": None} for row in rows],
        [
            validation(number, float(row["validated"]), float(row["validated"]) - float(row["low"]))
            for number, row in enumerate(rows, start=1)
            if row["validated"]
        ],
    )


def test_the_default_run_is_told_only_what_is_so() -> None:
    """If it fails, the first run of a newcomer ends in false alarms, or hides that its problems have become easy.

    At its end four of five rollouts are solved, so that most groups teach nothing: that is true, and all there is.
    """
    whole = default_run()
    raised: set[tuple[str, int]] = set()
    for rounds in range(1, len(whole.epochs) + 1):
        part = Progress(
            rewards=whole.rewards[:rounds],
            epochs=whole.epochs[:rounds],
            validations=[report for report in whole.validations if report.round <= rounds],
        )
        raised |= {(concern.name, concern.since) for concern in health.concerns(part)}
    assert {name for name, _ in raised} == {"problems solved"}
    assert min(since for _, since in raised) > 80
    (last,) = health.concerns(whole)
    assert "88% of the groups" in last.seen and "80% of the rollouts are solved" in last.seen
