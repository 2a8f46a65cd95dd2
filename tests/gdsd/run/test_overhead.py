"""The time of rounds beyond their work, from records made by hand."""

import pytest

from tasks.gdsd.evaluate.drift import unmeasured
from tasks.gdsd.records import EpochStats
from tasks.gdsd.run.overhead import Overhead, RoundTime, overhead
from tasks.gdsd.run.run_record import RunRecord
from tests.gdsd.report.records import evaluated, pairs, record, rendered, rewarded

BEGAN = 1000.0


def rounds(count: int) -> dict[str, object]:
    """Rounds that end every 10 s and work for 4 of them: 1.5 in rollouts, 0.5 in scoring, 2 in updates."""
    ends = [BEGAN + 10 * (index + 1) for index in range(count)]
    return {
        "rewards": [rewarded(0.5, began=end - 5) for end in ends],
        "epochs": [
            EpochStats(round=index + 1, sequences=0, steps=[], seconds=2.0, ended_unix_seconds=end)
            for index, end in enumerate(ends)
        ],
        "drifts": [],
        "validations": [evaluated(count, 6)],
        "began_unix_seconds": BEGAN,
    }


def timed(**changed: object) -> list[float | None]:
    return [None if each is None else each.share for each in record(**rounds(4) | changed).round_times()]


def test_a_round_lasts_from_the_end_of_the_one_before() -> None:
    """If it fails, what a round waits for is nobody's, or a validation, a drift sample or a night is overhead.

    A run that begins while round 2 is under way has rounds 1 and 2 from the cache, whole or in part. So has one with
    rollouts of before it began, or with updates that took longer than the round.
    """
    given = rounds(4)
    rewards, epochs = given["rewards"], given["epochs"]
    assert isinstance(rewards, list) and isinstance(epochs, list)
    assert timed() == pytest.approx([None, 0.6, 0.6, 0.6])
    assert timed(validations=[evaluated(2, 6), evaluated(4, 6)]) == pytest.approx([None, 0.6, None, 0.6])
    drift = unmeasured(2).model_copy(update={"seconds": 3.0})
    assert timed(drifts=[drift]) == pytest.approx([None, 0.6, 0.3, 0.6])
    assert timed(began_unix_seconds=BEGAN + 12) == pytest.approx([None, None, 0.6, 0.6])
    assert timed(began_unix_seconds=BEGAN + 50) == [None] * 4
    old = [*rewards[:2], rewarded(0.5, began=BEGAN - 100), rewards[3]]
    assert timed(rewards=old) == pytest.approx([None, 0.6, None, 0.6])
    long = [*epochs[:3], epochs[3].model_copy(update={"seconds": 60.0})]
    assert timed(epochs=long) == pytest.approx([None, 0.6, 0.6, None])


def test_the_advice_reaches_its_aim() -> None:
    """If it fails, a person makes rounds larger than there is need, or not large enough.

    6 s of 10 are overhead, 4 are work. 13 times the work is 52 s, of 58; 14 times is 56 s, of 62, and 6 / 62 < 10 %.
    A share of one half needs nine times the work: 1 / (1 + 9) is 10 %.
    """
    found = overhead([None, RoundTime(10.0, 4.0), RoundTime(30.0, 12.0)])
    assert found is not None and found.rounds == 2
    assert [found.seconds, found.share] == pytest.approx([20.0, 0.6])
    assert found.larger == 14 and 6 / (6 + 14 * 4) <= 0.1 < 6 / (6 + 13 * 4)
    assert str(found) == (
        "60% of the 20.0 s of a round, on average over 2 timed rounds; 14 times as many rollouts a round would make it "
        "at most 10%"
    )
    assert Overhead(1, 2.0, 0.5).larger == 9
    assert str(Overhead(1, 2.0, 0.1)) == "10% of the 2.0 s of a round, in the one that was timed"
    assert overhead([None]) is None


def test_report_and_summary_say_it() -> None:
    """If it fails, nobody learns that a run mostly waits."""
    said = "60% of the 10.0 s of a round, on average over 3 timed rounds; 14 times"
    given: RunRecord = record(**rounds(4))
    assert f"overhead  {said}" in given.summary("/x")
    assert f"waiting are {said}" in rendered(given, pairs())
    cached = record(**rounds(4) | {"began_unix_seconds": BEGAN + 50})
    assert "overhead" not in cached.summary("/x")
    assert "beyond this work is not known" in rendered(cached, pairs())
