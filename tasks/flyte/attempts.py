"""What an attempt at a task on a cluster leaves for the next one: a file, which Flyte keeps as the checkpoint."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from flytekit import FlyteContextManager, current_context
from flytekit.core.checkpointer import SyncCheckpoint
from flytekit.exceptions.base import FlyteException

logger = logging.getLogger(__name__)
PATIENCE = (1.0, 10.0, 60.0)  # seconds between tries to fetch a state


@dataclass(frozen=True)
class Sender:
    """Stores a file where Flyte looks for the checkpoint of this attempt; also from a process that the task started."""

    destination: str

    def __call__(self, file: Path) -> None:
        SyncCheckpoint(self.destination).save(file)


def states(first: bool, name: str) -> tuple[Path | None, Sender]:
    """Returns the state that the attempt before this one has stored, if any, and what stores those of this one.

    Args:
        first: whether this is the first of the machines that share the task.
        name: of the file.

    The first machine stores it anew at once, unread: the attempt after this one looks nowhere else, and this one may
    end soon.
    """
    from tasks.gdsd.distill import resume

    kept = current_context().checkpoint
    if not isinstance(kept, SyncCheckpoint):
        raise TypeError(f"Flyte gave a {type(kept).__name__}, but a checkpoint is kept as by SyncCheckpoint")
    folder = None
    for patience in (*PATIENCE, 0.0):
        try:
            folder = kept.restore()
            break
        except FlyteException as error:  # flytekit does not say whether there is none or the store is not reached
            if _is_none(kept._checkpoint_src):
                logger.info("the attempt before this one has left no state")
                break
            logger.warning("the state of the attempt before this one cannot be fetched (%s)", error)
            time.sleep(patience)
    # The object itself cannot go to another process.
    sender = Sender(kept._checkpoint_dest)
    if folder is None or not (folder / name).is_file():
        return None, sender
    if first:
        resume.store(folder / name, sender)
    return folder / name, sender


def _is_none(address: str) -> bool:
    """Whether a store says for sure that nothing lies at an address."""
    try:
        return not FlyteContextManager.current_context().file_access.get_filesystem_for_path(address).exists(address)
    except Exception as error:
        logger.warning("%s cannot be looked at (%s)", address, error)
        return False
