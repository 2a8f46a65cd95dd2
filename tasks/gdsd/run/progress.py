"""Says in words how far a run is, while it goes on."""

import hashlib
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from tasks.gdsd.records import EpochStats, Progress, RewardStats

RECENT = 5  # rounds by which the next ones are judged, so that a slow one does not count for all that are left


def work(reward: RewardStats, epoch: EpochStats) -> float:
    """Returns the seconds of a round's work."""
    return reward.rollout_busy_seconds + reward.reward_seconds + epoch.seconds


def round_line(reward: RewardStats, epoch: EpochStats, rounds: int, before: Sequence[float] = ()) -> str:
    """Returns the one line that is said of a round, of `rounds` in all.

    What is left is told by the work of this round and those before, without the validations.

    Args:
        before: seconds of the rounds before; the last ones count, by their median.
    """
    applied = epoch.applied()
    last = applied[-1] if applied else None
    seconds = work(reward, epoch)
    usual = statistics.median([*before[1 - RECENT :], seconds])
    measured = {
        "shift": last.shift_abs if last else None,
        "KL": last.kl_ref if last else None,
        "gradient": last.grad_norm if last else None,
    }
    skipped = len(epoch.steps) - len(applied)
    updates = "update" if len(applied) == 1 else "updates"
    parts = [
        f"reward {reward.reward_mean:.3f}",
        *([] if reward.solved is None else [f"{reward.solved:.0%} solved"]),
        *([f"{reward.judged:.0%} judged"] if reward.judged < 1 else []),
        f"{reward.frac_zero_std:.0%} of groups without spread",
        *(f"{name} {value:.3g}" for name, value in measured.items() if value is not None),
        *([f"{skipped} skipped"] if skipped else []),
        f"{len(applied)} {updates} ({seconds:.1f} s, {reward.tokens / reward.rollout_seconds:,.0f} tokens/s)",
        *([f"{duration(usual * (rounds - epoch.round))} left"] if epoch.round < rounds else []),
    ]
    return f"round {epoch.round} of {rounds}: {', '.join(parts)}"


def folder(name: str, run: Progress) -> str:
    """Returns the name of the folder for the page of a local run, in the form of all folders of local runs.

    Its first round says which run it is. That has the same times when it comes from the cache, so a run that goes on,
    or has more rounds, keeps its page. A run that computes its own has another page, also under the same name.
    """
    first = run.epochs[0]
    key = hashlib.sha256(f"{run.rewards[0].model_dump_json()}{first.model_dump_json()}".encode()).hexdigest()
    return f"progress-{name}-{datetime.fromtimestamp(first.ended_unix_seconds, UTC):%Y%m%d-%H%M%S}-{key[:8]}"


def times(progress: Progress, rounds: int) -> str:
    """Says what the stages of a round take, and how long the rest may take: as long as the last rounds each."""
    rewards, epochs = progress.rewards[-10:], progress.epochs[-10:]
    if not epochs:
        return ""
    said = (
        f"A round takes {statistics.fmean(reward.rollout_seconds for reward in rewards):.1f} s of rollouts, "
        f"{statistics.fmean(reward.reward_seconds for reward in rewards):.1f} s of verdicts and "
        f"{statistics.fmean(epoch.seconds for epoch in epochs):.1f} s of updates"
    )
    left = rounds - epochs[-1].round
    # Between the ends of rounds, with the validations in between.
    gaps = [later.ended_unix_seconds - earlier.ended_unix_seconds for earlier, later in pairwise(epochs)]
    if not gaps or left <= 0:
        return f"{said}."
    seconds = statistics.median(gaps)
    return f"{said}, {seconds:.1f} s in all; about {duration(seconds * left)} are left."


def duration(seconds: float) -> str:
    """Writes a time in the unit that it has a few of."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
