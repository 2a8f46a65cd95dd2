"""The answer to "did it get better?": of the solved problems and of the reward, each by the interval of its gain.

It says what was measured. Whether the policy is promoted is the gate's decision, which judges what it is set to judge.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tasks.gdsd.records import Decision, Estimate, EvalReport

Way = Literal["up", "down", "unclear"]


@dataclass(frozen=True)
class Answer:
    """What became of the solved problems and of the reward."""

    solved: Way
    reward: Way
    guarded: bool  # whether every guard holds
    words: str

    @property
    def by_reward(self) -> bool:
        """Whether only the reward says something."""
        return self.solved == "unclear" and self.reward != "unclear"

    @property
    def tone(self) -> Literal["good", "bad", ""]:
        """Whether it got better, worse, or both or neither of them."""
        ways = {self.solved, self.reward} - {"unclear"}
        if ways == {"up"} and self.guarded:
            return "good"
        return "bad" if ways == {"down"} else ""


def answer(base: EvalReport, trained: EvalReport, decision: Decision) -> Answer:
    """Returns what the test problems say of a trained policy and its base."""
    solved, reward = _way(decision.solved_difference), _way(decision.reward_difference)
    points, value = 100 * decision.solved_difference.mean, decision.reward_difference.mean
    none = "; nothing is solved yet" if base.solved.mean == trained.solved.mean == 0 else ""
    match solved, reward:
        case "up", "up":
            words = f"better by {points:+.1f} points solved and {value:+.3f} reward"
        case "up", "unclear":
            words = f"better by {points:+.1f} points solved; no clear difference in reward"
        case "unclear", "up":
            words = f"better by {value:+.3f} reward{none or '; no clear difference in solved problems'}"
        case "down", "down":
            words = f"worse by {-points:.1f} points solved and {-value:.3f} reward"
        case "down", "unclear":
            words = f"worse by {-points:.1f} points solved; no clear difference in reward"
        case "unclear", "down":
            words = f"worse by {-value:.3f} reward{none or '; no clear difference in solved problems'}"
        case "unclear", "unclear":
            words = f"no difference that the test can tell{none}"
        case _:
            words = f"{points:+.1f} points solved, but {value:+.3f} reward"
    failing = ", ".join(guard.name for guard in decision.guards if not guard.held)
    said = [words, *_covered(base, trained), *([f"fails the guard {failing}"] if failing else [])]
    return Answer(solved, reward, not failing, "; ".join(said))


def _covered(base: EvalReport, trained: EvalReport) -> Iterator[str]:
    """Yields over how many of the answers the reward and the solved share are, where that is not all of them."""
    shares = [
        ("of the answers judged", base.judged, trained.judged),
        ("of the answers known to be right or wrong", base.known, trained.known),
    ]
    for words, before, after in shares:
        if before is None or after is None or before == after == 1:
            continue
        yield f"{100 * before:.1f} % {words}" + ("" if before == after else f" before, {100 * after:.1f} % after")


def _way(difference: Estimate) -> Way:
    return "up" if difference.low > 0 else "down" if difference.high < 0 else "unclear"
