"""A distillation epoch from files to files, as one process or several of them do it."""

from dataclasses import dataclass
from pathlib import Path

from tasks.console import speak
from tasks.gdsd import checkpoint, devices, distiller, parallel, tables
from tasks.gdsd.config import DistillConfig
from tasks.gdsd.digests import digest
from tasks.gdsd.records import EpochStats


@dataclass(frozen=True)
class Epoch:
    """What an epoch reads, and where it puts what comes of it."""

    policy: Path
    base: Path | None  # where the objective needs a reference that the policy does not have inside
    scored: Path
    config: DistillConfig
    group_size: int
    round_index: int
    seed: int
    trained: Path  # the new checkpoint, not there yet
    evidence: Path  # what is left of an epoch whose updates were not finite


def train(epoch: Epoch) -> EpochStats:
    """Trains a policy on a round's scored completions, in as many processes as configured, and saves it.

    Raises:
        GdsdError: see `distiller.distill` and `parallel.launch`.
    """
    return parallel.launch(_train, epoch, distiller.compute_of(epoch.config).processes)


def _train(epoch: Epoch) -> EpochStats:
    """What each process does; only the first one writes."""
    speak()
    device = devices.device()
    state = checkpoint.load(epoch.policy, device)
    trained, stats = distiller.distill(
        state,
        None if epoch.base is None else checkpoint.load(epoch.base, device),
        tables.read(epoch.scored, tables.SCORED),
        epoch.config,
        round_index=epoch.round_index,
        group_size=epoch.group_size,
        seed=epoch.seed,
        parent=digest(epoch.policy),
        evidence=epoch.evidence,
    )
    if parallel.place()[0] == 0:
        checkpoint.save(epoch.trained, trained)
    return stats
