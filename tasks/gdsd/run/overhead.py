"""The time that rounds take beyond their work: starts of processes, imports, loads, transfers, waits for a machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from tasks.gdsd.records import Progress

AIM = 0.1  # a share of overhead that nobody needs to mind


@dataclass(frozen=True)
class RoundTime:
    """How long a round took, from the end of the updates of the round before to the end of its own."""

    seconds: float
    work: float  # time in which a drift sample, a shard of rollouts, the rewards or the updates were being computed

    @property
    def share(self) -> float:
        """The overhead's."""
        return 1 - self.work / self.seconds


@dataclass(frozen=True)
class Overhead:
    """The overhead of the rounds that were timed."""

    rounds: int
    seconds: float  # of a round, on average
    share: float

    @property
    def larger(self) -> int:
        """How many times the work a round needs for its overhead, which stays, to be no more than `AIM`."""
        return ceil(round(self.share / (1 - self.share) * (1 - AIM) / AIM, 6))

    def __str__(self) -> str:
        timed = "in the one that was timed" if self.rounds == 1 else f"on average over {self.rounds} timed rounds"
        said = f"{self.share:.0%} of the {self.seconds:.1f} s of a round, {timed}"
        advice = f"; {self.larger} times as many rollouts a round would make it at most {AIM:.0%}"
        return said + (advice if self.share > AIM else "")


def round_times(began: float, rounds: Progress) -> list[RoundTime | None]:
    """Times each round of a run; None where that says nothing.

    That is so of the first round, of rounds of which something came from the cache, and of those that follow a
    validation, which a run on one machine does in between.

    Args:
        began: when the run began its rounds, in seconds since 1970; what was made before came from the cache.
    """
    validated = {report.round for report in rounds.validations}
    drifted = {drift.round: drift.seconds for drift in rounds.drifts}
    times: list[RoundTime | None] = [None for _ in rounds.epochs[:1]]
    for (last, epoch), reward in zip(pairwise(rounds.epochs), rounds.rewards[1:], strict=True):
        # The stages follow one another; only the shards of rollouts may overlap.
        work = drifted.get(epoch.round, 0.0) + reward.rollout_busy_seconds + reward.reward_seconds + epoch.seconds
        seconds = epoch.ended_unix_seconds - last.ended_unix_seconds
        is_new = min(last.ended_unix_seconds, reward.rollout_began_unix_seconds) >= began and seconds >= work
        times.append(RoundTime(seconds, work) if is_new and last.round not in validated else None)
    return times


def overhead(times: Sequence[RoundTime | None]) -> Overhead | None:
    """Returns the overhead of all rounds that were timed, None where none was."""
    timed = [each for each in times if each is not None]
    if not timed:
        return None
    seconds = sum(each.seconds for each in timed)
    return Overhead(len(timed), seconds / len(timed), 1 - sum(each.work for each in timed) / seconds)
