"""The answer to "did it get better?": true of solved problems and reward, and the same wherever it is said."""

import pytest

from tasks.gdsd.errors import DataError
from tasks.gdsd.publish.trackers import base as trackers
from tasks.gdsd.records import Estimate
from tasks.gdsd.registry.kept import Night
from tasks.gdsd.run.answer import answer
from tasks.gdsd.run.run_record import RunRecord
from tests.gdsd.evaluate.test_gate import JUDGE, answers, compare
from tests.gdsd.registry.conftest import NIGHT
from tests.gdsd.report.records import decided, evaluated, guard, pairs, record, rendered

UP, DOWN, UNCLEAR = (
    Estimate(mean=mean, low=low, high=high) for mean, low, high in ((0.2, 0.1, 0.3), (-0.2, -0.3, -0.1), (0.1, 0, 0.2))
)
NONE = Estimate(mean=0.0, low=-0.1, high=0.1)
# Solved, reward, whether anything is solved: what is said, and its tone.
SAID: dict[tuple[str, Estimate, Estimate, bool], tuple[str, str]] = {
    ("both up", UP, UP, True): ("better by +20.0 points solved and +0.200 reward", "good"),
    ("solved up", UP, UNCLEAR, True): ("better by +20.0 points solved; no clear difference in reward", "good"),
    ("solved up, reward down", UP, DOWN, True): ("+20.0 points solved, but -0.200 reward", ""),
    ("reward up", UNCLEAR, UP, True): ("better by +0.200 reward; no clear difference in solved problems", "good"),
    ("reward up, none", NONE, UP, False): ("better by +0.200 reward; nothing is solved yet", "good"),
    ("neither", UNCLEAR, UNCLEAR, True): ("no difference that the test can tell", ""),
    ("neither, none", NONE, UNCLEAR, False): ("no difference that the test can tell; nothing is solved yet", ""),
    ("reward down", UNCLEAR, DOWN, True): ("worse by 0.200 reward; no clear difference in solved problems", "bad"),
    ("reward down, none", NONE, DOWN, False): ("worse by 0.200 reward; nothing is solved yet", "bad"),
    ("solved down, reward up", DOWN, UP, True): ("-20.0 points solved, but +0.200 reward", ""),
    ("solved down", DOWN, UNCLEAR, True): ("worse by 20.0 points solved; no clear difference in reward", "bad"),
    ("both down", DOWN, DOWN, True): ("worse by 20.0 points solved and 0.200 reward", "bad"),
}


def made(solved: Estimate, reward: Estimate, some: bool = True, **changed: object) -> RunRecord:
    solve = (3, 5) if some else (0, 0)
    whole = {"judged": 1.0, "known": 1.0}
    base, trained = (evaluated(number, own).model_copy(update=whole) for number, own in zip((0, 2), solve, strict=True))
    reached = {"base": base, "trained": trained}
    return record(decision=decided(solved_difference=solved, reward_difference=reward, **changed), **reached)


@pytest.mark.parametrize(("case", "expected"), SAID.items(), ids=lambda value: value[0] if len(value) == 4 else "")
def test_every_outcome_has_its_sentence(case: tuple[str, Estimate, Estimate, bool], expected: tuple[str, str]) -> None:
    """If it fails, a reward that clearly rose is headed "no difference", or one that fell is hidden by what is solved.

    The same is at the top of the page, among the last lines of the run, and what trackers are told.
    """
    _, solved, reward, some = case
    words, tone = expected
    for promoted in (True, False):
        run = made(solved, reward, some, promoted=promoted, reason="of the gate")
        assert (run.answer().words, run.answer().tone) == (words, tone)
        verdict = f"{'promoted' if promoted else 'not promoted'}: of the gate"
        lines = run.summary("/x").splitlines()
        assert f"result    {words}" in lines and f"decision  {verdict}" in lines
        assert f"gain      {solved.points()} points solved, {reward.signed()} reward" in lines
        page = rendered(run, pairs()).partition("<h2>Outcome")[0]
        assert f"{words[:1].upper()}{words[1:]}</b>" in page and f"{verdict[:1].upper()}{verdict[1:]}." in page
        shown = f"{reward.low:+.3f} to {reward.high:+.3f}" if "reward" in words[:23] else f"{100 * solved.low:+.1f} to "
        assert shown in page
        assert trackers.ended(run).verdict == f"{words}; {verdict}"


def test_a_guard_that_fails_is_part_of_the_answer() -> None:
    """If it fails, a policy that unlearned something else looks like a better one at first sight."""
    found = made(UP, UP, guards=[guard("kept", True), guard("lost", False), guard("gone", False)]).answer()
    assert found.words.endswith("+0.200 reward; fails the guard lost, gone") and found.tone == ""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"judged": 37 / 60}, {"judged": 37 / 60}, "; 61.7 % of the answers judged"),
        ({"judged": 1.0}, {"judged": 0.5}, "; 100.0 % of the answers judged before, 50.0 % after"),
        ({"known": 0.5}, {"known": 0.5}, "; 50.0 % of the answers known to be right or wrong"),
        ({"known": None}, {"known": None}, ""),  # of a record from before it was kept
    ],
)
def test_what_was_not_judged_is_part_of_the_answer(
    before: dict[str, float | None], after: dict[str, float | None], said: str
) -> None:
    """If it fails, a share of a few answers is read as one of all of them."""
    plain = made(UP, UP)
    base, trained = plain.base.model_copy(update=before), plain.trained.model_copy(update=after)
    found = answer(base, trained, plain.decision)
    assert found.words == f"{plain.answer().words}{said}"
    guarded = answer(base, trained, decided(guards=[guard("lost", False)])).words
    assert guarded.endswith(f"{said}; fails the guard lost")


def test_where_nothing_is_judged_there_is_no_answer() -> None:
    """If it fails, a run without a verdict for any problem of both policies has a gain of 0."""
    with pytest.raises(DataError, match="no problem has a verdict for both policies"):
        compare(answers([None, None]), answers([None, None]), JUDGE)


def test_a_night_speaks_of_the_reward_too() -> None:
    """If it fails, the mail of a night says +0.0 points where the reward rose. Nights of before have no reward."""
    values = {"due": NIGHT, "ended": NIGHT, "who": "f0", "promoted": False, "champion": None, "reason": "no"}
    night = Night.model_validate(values | {"gain": NONE, "reward": UP})
    said = "not promoted, +0.0 (-10.0 to +10.0) points of solved test problems"
    assert night.outcome() == f"{said}, +0.200 (+0.100 to +0.300) reward; there is no champion yet"
    assert night.model_copy(update={"reward": None}).outcome() == f"{said}; there is no champion yet"
