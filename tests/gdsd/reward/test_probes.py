"""The check of verdicts: each mistake in a reward is told from a sound one, and by the words of who made it."""

import random
import sys
from collections.abc import Callable
from typing import ClassVar

import pyarrow as pa
import pytest

from tasks.gdsd import tables
from tasks.gdsd.domains import Domain, Verdict
from tasks.gdsd.errors import DataError, SilentServiceError
from tasks.gdsd.report import verdicts
from tasks.gdsd.reward import probes
from tasks.gdsd.reward.probes import KINDS, Kind, Probed
from tests.gdsd.scripted import Scripted, choice


class Sound(Scripted):
    """The reference is the right answer, and no other has a share."""

    parts: ClassVar[dict[str, float]] = {"share": 1.0}

    def solution(self, problem: str, reference: str) -> str | None:
        return reference

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return verdict(answer == reference)


def verdict(solved: bool | None, share: float | None = None) -> Verdict:
    return Verdict({"share": float(bool(solved)) if share is None else share}, solved)


class Constant(Sound):
    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return verdict(answer == reference, 0.5)


class Partial(Sound):
    """It looks at the problem alone."""

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return verdict(answer == reference, int(problem) / 10)


class Aimless(Constant):
    def solution(self, problem: str, reference: str) -> str | None:
        return None


class Deaf(Sound):
    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return verdict(False, len(answer) / 100_000)


class HalfDeaf(Sound):
    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return verdict(answer == reference and int(problem) % 2 == 0)


class Mute(Sound):
    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return Verdict({"share": 0.5}, None, "nobody\nthere")


class Forgetful(Sound):
    """It forgets the `return` of the part for every answer but the right one; another part counts nothing."""

    parts: ClassVar[dict[str, float]] = {"near": 1.0, "spare": 0.0}

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return Verdict({"near": 1.0 if answer == reference else None, "spare": None}, answer == reference)


class Unweighed(Sound):
    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return Verdict({"share": None}, answer == reference)


class Backward(Sound):
    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return verdict(answer == reference, float(answer != reference))


class Generous(Sound):
    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return verdict(not answer or answer == reference)


class Talkative(Sound):
    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        print("looking at", problem)
        print("!", file=sys.stderr)
        return super().verify(problem, reference, answer)


class Lottery(Sound):
    """It draws by a seed, so that each new one begins with the same numbers."""

    def __init__(self) -> None:
        self._source = random.Random(0)

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return verdict(answer == reference, self._source.random())


class Jealous(Sound):
    """It gives nothing for an answer that it has seen."""

    seen: ClassVar[set[tuple[str, str]]] = set()

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        is_new = (problem, answer) not in self.seen
        self.seen.add((problem, answer))
        return verdict(answer == reference, float(is_new))


class Judge(Lottery):
    varies = True


class Shaky(Sound):
    """A service that rounds, and does not answer each second time."""

    asked: ClassVar[int] = 0

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        Shaky.asked += 1
        right = answer == reference
        return (
            verdict(right, right * 0.5 + 1e-4 * (Shaky.asked % 7))
            if Shaky.asked % 2
            else Verdict({"share": None}, None)
        )


class Overrun(Sound):
    """A service that fails on long answers."""

    longest: ClassVar[int] = 1000

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        if len(answer) > self.longest:
            raise SilentServiceError("http://judge does not answer: status 500")
        return super().verify(problem, reference, answer)


class Down(Overrun):
    longest = -1


class Unknown(Sound):
    def solution(self, problem: str, reference: str) -> str | None:
        return None


class Lost(Sound):
    def solution(self, problem: str, reference: str) -> str | None:
        raise KeyError(problem)


class Numeric(Sound):
    def solution(self, problem: str, reference: str) -> str | None:
        return int(reference)  # type: ignore[return-value]  # as a user may write it


class Broken(Sound):
    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        return verdict(answer == reference, len(answer) / len(answer))


PROBLEMS = pa.Table.from_pylist(
    [
        {
            "id": f"train-{number}",
            "prompt": f"say {number + 10}:",
            "problem": str(number),
            "reference": str(number + 10),
        }
        for number in range(9)
    ],
    tables.PROMPTS,
)


def probe(kind: type[Domain], completions: int | None = 100, kinds: tuple[Kind, ...] = KINDS) -> Probed:
    return probes.probe("train", choice(kind), PROBLEMS, number=3, completions=completions, kinds=kinds)


@pytest.mark.parametrize(
    ("kind", "warned"),
    [
        (Sound, []),
        (Unknown, []),
        (Shaky, ["answers without a reward"]),
        (Judge, ["any"]),
        (Constant, ["reward always the same"]),
        (Partial, ["reward always the same"]),
        (Aimless, ["reward always the same"]),
        (HalfDeaf, ["right answers not solved"]),
        (Overrun, ["over-long answers not judged"]),
        (Generous, ["empty answers solved", "empty answers as good as right ones"]),
        (
            Backward,
            [
                "empty answers as good as right ones",
                "junk answers as good as right ones",
                "over-long answers as good as right ones",
            ],
        ),
        (Forgetful, ["wrong answers without a reward"]),
        (Talkative, ["prints"]),
    ],
)
def test_what_looks_wrong_is_a_warning(kind: type[Domain], warned: list[str]) -> None:
    """If it fails, a sound reward is complained of, or one that teaches nothing is trained on without a word."""
    found = probe(kind)
    assert found.fault is None
    if warned != ["any"]:
        assert [warning.name for warning in found.warnings] == warned, found.warnings


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            Deaf,
            "takes none of 3 right answers for one, such as '10' to the problem '0' (train): it says solved False, ",
        ),
        (
            Mute,
            "says of none of 15 answers whether it is right, such as '10' to the problem '0' (train): it says solved "
            "None, share 0.5 ("
            "'nobody\\nthere'); ",
        ),
        (
            Unweighed,
            "gives none of 15 answers a reward, such as '10' to the problem '0' (train): it says solved True, share "
            "None",
        ),
        (
            Lottery,
            "has two verdicts on one answer, such as '10' to the problem '0' (train): it says solved True, share ",
        ),
        (Jealous, "share 1, and when asked again solved True, share 0; wanted is the same one"),
    ],
)
def test_what_nobody_could_train_on_is_refused(kind: type[Domain], said: str) -> None:
    """If it fails, the mistake is found after hours of training, or its message has no answer to look at."""
    Jealous.seen.clear()
    with pytest.raises(DataError) as caught:
        probe(kind).require()
    assert said in str(caught.value) and f"test_probes:{kind.__name__}' " in str(caught.value)
    assert "; wanted is " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Broken, "raised ZeroDivisionError: division by zero on the answer '' to '0'"),
        (Lost, "solution raised KeyError: '0' on the problem '0' ("),
        (Numeric, "solution gave 10 on the problem '0'; wanted is a text, or None"),
    ],
)
def test_an_error_names_domain_problem_and_answer(kind: type[Domain], said: str) -> None:
    """If it fails, a reward that raises on an empty answer ends a run at the first policy that writes one."""
    with pytest.raises(DataError) as caught:
        probe(kind)
    assert f"test_probes:{kind.__name__}'" in str(caught.value) and said in str(caught.value)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (["", "10"], "2 of 12 answers have no reward; of one the domain says: "),  # of which one is empty, one right
        (["10"], None),
        ([probes.OVER_LONG], "right answers have a reward, but none of 3 answers that are over-long has one, since"),
    ],
)
def test_answers_without_a_reward_are_told_with_a_remark(
    lost: list[str], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a service that loses every sixth answer passes the check, and nobody reads why."""

    def verify(self: Sound, problem: str, reference: str, answer: str) -> Verdict:
        away = answer in lost and (problem == "0" or answer == probes.OVER_LONG)
        return Verdict({"share": None}, None, "it is\naway") if away else verdict(answer == reference)

    monkeypatch.setattr(Sound, "verify", verify)
    warned = [warning.said for warning in probe(Sound).warnings]
    assert len(warned) == (said is not None)
    assert all(text.startswith(said or "") and r"; of one the domain says: 'it is\naway'" in text for text in warned)


def test_a_service_that_answers_nothing_may_do_so_later() -> None:
    """If it fails, a server that is just starting counts as a reward that nobody can train on."""
    with pytest.raises(SilentServiceError, match="http://judge does not answer"):
        probe(Down)


def test_a_forgotten_return_names_the_part_and_the_answers() -> None:
    """If it fails, wrong answers teach nothing in a whole run, since the reward has no value for them."""
    (warning,) = probe(Forgetful).warnings
    assert "none of 12 answers that are empty, junk, over-long, repeated has one, since the part near is None" in (
        warning.said
    )
    (row,) = [line.split() for line in verdicts.text([probe(Forgetful)]).splitlines() if " 0 of 3 " in line][:1]
    assert row[:6] == ["empty", "0", "of", "3", "0", "?"]


def test_what_is_printed_reaches_nobody_but_the_warning(capfd: pytest.CaptureFixture[str]) -> None:
    """If it fails, a run's console is full of a reward's prints, or nobody learns that it prints."""
    (warning,) = probe(Talkative).warnings
    assert "for 30 answers, beginning with 'looking at 0'" in warning.said
    assert capfd.readouterr() == ("", "")


def clocked(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[str], float]) -> type[Domain]:
    """A domain by whose verdicts alone time passes."""
    now = [0.0]
    monkeypatch.setattr(probes.time, "perf_counter", lambda: now[0])

    def verify(self: Sound, problem: str, reference: str, answer: str) -> Verdict:
        now[0] += seconds(answer)
        return verdict(answer == reference)

    monkeypatch.setattr(Sound, "verify", verify)
    return Sound


def test_slow_verdicts_are_told_with_what_a_round_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a run of an hour takes a week, or a reward that only loads something at first is called slow.

    100 verdicts at 1.5 s are 150 s, more than 120, and 80 are not. Nothing is said where no round is known.
    """
    kind = clocked(monkeypatch, lambda answer: 1.5)
    (warning,) = probe(kind).warnings
    assert warning.said.startswith("a verdict takes 1.5 s, so that the 100 of a round take 2.5 minutes; above 120 s")
    assert probe(kind, 80).warnings == probe(kind, None).warnings == []
    assert probe(kind).seconds == dict.fromkeys(KINDS, 1.5)
    kind = clocked(monkeypatch, lambda answer: 1000.0 if len(answer) < 3 or len(answer) > 1000 else 0.0)
    assert probe(kind).warnings == []


def test_rows_are_spread_over_the_table() -> None:
    """If it fails, a file that is sorted by kind is checked by its first kind alone."""
    assert list(probe(Sound).prompts) == ["train-0", "train-3", "train-6"]
    assert probes.spread(2, 10) == [0, 1] and probes.spread(10, 10) == list(range(10)) and probes.spread(0, 3) == []


def test_only_right_answers_of_some_problems() -> None:
    """If it fails, the check of other splits costs as much as that of the training problems."""
    found = probe(Sound, kinds=("right",))
    assert list(found.probes) == ["right"] and found.warnings == []
    assert probe(Unknown, kinds=("right",)).probes == {}, "nothing is asked where no right answer is known"


# What is shown


def test_the_console_shows_prompts_verdicts_and_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, who checks a reward does not see what it was asked and what it said."""
    found = probe(clocked(monkeypatch, lambda answer: 0.25))
    lines = verdicts.text([found._replace(warnings=[probes.Warned("odd", "it is odd")])]).splitlines()
    assert lines[0].endswith("test_probes:Sound: 3 problems of train")
    start = lines.index("problem 'train-3'")
    assert lines[start + 1] == "  | say 13:"
    assert lines[start + 2].split() == ["answer", "reward", "solved", "share", "text"]
    assert lines[start + 3].split() == ["right", "1.000", "yes", "1.000", "'13'"]
    assert lines[start + 4].split() == ["empty", "0.000", "no", "0.000", "''"]
    assert lines[start + 6].endswith("[21000 characters]") and len(lines[start + 6]) < 120
    assert lines[start + 7].split() == ["repeated", "0.000", "no", "0.000", r"'13\n13'"]
    (row,) = [line.split() for line in lines if line.startswith("  right") and " of " in line]
    assert row == ["right", "3", "of", "3", "3", "1.000", "0.25"]
    assert "warning: it is odd" in lines
    shown = verdicts.text([probe(Mute)])
    assert "  right       0.500       ?  0.500  '10'" in shown and "text" in shown
    assert next(line for line in shown.splitlines() if line.startswith("  empty ")).endswith(r"  nobody\nthere")
    assert "names no right answer" not in shown
    assert "names no right answer (method `solution`)" in verdicts.text([probe(Unknown)])


def test_hostile_prompts_reach_neither_terminal_nor_page() -> None:
    """If it fails, a data set moves the cursor of whoever checks it, or runs a script in the console of Flyte."""
    hostile = "\x1b[2J<script>alert(1)</script>"
    row = {"id": hostile, "prompt": f"{hostile}\nnext", "problem": hostile, "reference": hostile}
    found = probes.probe("train", choice(Sound), pa.Table.from_pylist([row], tables.PROMPTS), number=1)
    text, page = verdicts.text([found]), verdicts.page([found])
    assert "\x1b" not in text and r"| \x1b[2J<script>" in text and "  | next" in text
    assert "<script>" not in page and "&lt;script&gt;" in page
