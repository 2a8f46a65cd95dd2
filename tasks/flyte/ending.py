"""How the command `pyflyte` ends on a person's machine: within seconds of a signal, and with nothing left behind."""

import multiprocessing
import sys
from pathlib import Path

from flytekit.configuration import Config
from flytekit.core.data_persistence import flyte_tmp_dir

from tasks.flyte import folders, interrupts


def end_well() -> None:
    """Lets this process end at a signal and take its temporary files along, where it is the command `pyflyte`.

    flytekit makes two folders whenever it is imported. What is worth keeping of a local run lies in `folders.home()`.
    """
    is_command = Path(sys.argv[0]).name == "pyflyte"  # neither a pod nor a test
    if is_command and multiprocessing.parent_process() is None:
        folders.gather([Path(flyte_tmp_dir), Path(Config.local_sandbox_path)])
        interrupts.handle(folders.leave)
