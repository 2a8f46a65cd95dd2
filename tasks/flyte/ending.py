"""How a command ends on a person's machine: within seconds of a signal, and with nothing left behind."""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from flytekit.configuration import Config
from flytekit.core.data_persistence import flyte_tmp_dir

from tasks.flyte import folders, interrupts
from tasks.flyte.console import runs_here

MADE = [Path(flyte_tmp_dir), Path(Config.local_sandbox_path)]  # by flytekit, whenever it is imported


def end_well() -> None:
    """Lets this process end at a signal and take its temporary files along, where it is the command `pyflyte`.

    What is worth keeping of a local run lies in `folders.home()`,
    which `make clean-runs` leaves alone from here on, and what torch has compiled where it would be otherwise.
    """
    is_command = Path(sys.argv[0]).name == "pyflyte"  # neither a pod nor a test
    if not is_command or multiprocessing.parent_process() is not None:
        return
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_uid_{os.getuid()}")
    folders.gather(MADE)
    if runs_here():
        folders.use()
        words = "interrupted; the same command goes on from here, with what is finished taken from the cache"
        interrupts.handle(folders.leave, words)
    else:
        interrupts.handle(folders.leave, "interrupted; what a cluster has begun goes on there")


def end_command_well() -> None:
    """Does the same for a command of the project that is not `pyflyte` and runs nothing itself."""
    folders.gather(MADE)
    interrupts.handle(folders.leave, "stopped")
