"""What differs between local runs and pods: where data is kept, and how many threads compute."""

import math
import os
import tempfile
from pathlib import Path

from flytekit import FlyteContextManager
from flytekit.core.context_manager import ExecutionState

from tasks.flyte import folders

CGROUP = Path("/sys/fs/cgroup")  # as a container sees its own


def new_folder(name: str) -> Path:
    """Returns a new empty folder for a task's outputs: in the folder of local runs, or temporary in a pod.

    Raises:
        StorageError: it cannot be made, on this machine.
    """
    return Path(tempfile.mkdtemp(prefix=f"{name}-")) if in_pod() else folders.new(name)


def keep(folder: Path) -> str:
    """Stores a folder that is no output of its task, such as the evidence of a failure, and says where it lies."""
    if in_pod():
        return str(FlyteContextManager.current_context().file_access.put_raw_data(str(folder)))
    return str(folder)


def in_pod() -> bool:
    """Whether this is a task on a cluster, also a dynamic one that unrolls, rather than a local run."""
    state, mode = FlyteContextManager.current_context().execution_state, ExecutionState.Mode
    return state is not None and state.mode in (mode.TASK_EXECUTION, mode.DYNAMIC_TASK_EXECUTION)


def limit_threads() -> None:
    """Lets this process compute with a thread for each core that its container may use, unless a user says how many.

    Libraries count the cores of the node: there more threads would wait for the container's share of time than work,
    and sums would be rounded as the node's cores divide them. Of use before torch is imported.
    """
    cores = core_limit(CGROUP)
    if cores is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def core_limit(root: Path) -> int | None:
    """Returns how many cores a control group may use, rounded up, by the files of version 2 or 1; None for no limit."""
    try:
        if (root / "cpu.max").is_file():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    except OSError:
        return None
    return math.ceil(int(quota) / int(period)) if quota != "max" and int(quota) > 0 else None
