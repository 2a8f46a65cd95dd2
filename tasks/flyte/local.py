"""What differs between local runs and pods: where data is kept, cached results that have vanished, threads, leftovers.

A local Flyte run stores paths in its cache (~/.flyte/local-cache). By default the data behind them lies in the system's
temporary folder, which gets cleaned. Here the data lies beside the cache, and a cached path that no longer exists is a
miss.
"""

import atexit
import logging
import math
import os
import shutil
import tempfile
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgpack
from flytekit import FlyteContextManager
from flytekit.configuration import Config
from flytekit.core.context_manager import ExecutionState
from flytekit.core.data_persistence import flyte_tmp_dir
from flytekit.core.local_cache import LocalTaskCache
from flytekit.models.literals import Literal, LiteralMap

logger = logging.getLogger(__name__)

CGROUP = Path("/sys/fs/cgroup")  # as a container sees its own


def home() -> Path:
    """Returns the folder of local run data: GDSD_HOME, by default ~/.flyte/gdsd."""
    return Path(os.environ.get("GDSD_HOME") or "~/.flyte/gdsd").expanduser().absolute()


def new_folder(name: str) -> Path:
    """Returns a new empty folder for a task's outputs: under `home()` in a local run, temporary in a pod."""
    if in_pod():
        return Path(tempfile.mkdtemp(prefix=f"{name}-"))
    folder = home() / f"{name}-{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    return folder


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


def forget_vanished_results() -> None:
    """Makes flytekit's local cache treat an entry as a miss when a file or folder it points to is gone.

    flytekit returns the stored paths unchecked, and the next task fails on them.
    """
    remembered = LocalTaskCache.get

    def get(name: str, version: str, inputs: LiteralMap, ignored: tuple[str, ...]) -> LiteralMap | None:
        found = remembered(name, version, inputs, ignored)
        if found is None:
            return None
        missing = [uri for literal in found.literals.values() for uri in _uris(literal) if not _exists(uri)]
        if missing:
            logger.warning("a cached result of %s is gone (%s); computing it again", name, missing[0])
            return None
        return found

    if remembered.__name__ != get.__name__ or remembered.__module__ != __name__:
        LocalTaskCache.get = staticmethod(get)  # flytekit has no hook for this


def leave_nothing_behind() -> None:
    """Removes, when this process ends, what it has put into the system's temporary folder.

    flytekit makes two folders there whenever it is imported, and torch an empty one. What is worth keeping of a local
    run lies under `home()`.
    """
    for folder in (flyte_tmp_dir, Config.local_sandbox_path):
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(_remove_empty, "torchinductor_*")


def _remove_empty(pattern: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(pattern):
        with suppress(OSError):  # it is not empty
            folder.rmdir()


def _uris(literal: Literal) -> list[str]:
    """The files and folders that a literal points to, also from inside a pydantic model."""
    if literal.collection is not None:
        return [uri for item in literal.collection.literals for uri in _uris(item)]
    if literal.map is not None:
        return [uri for item in literal.map.literals.values() for uri in _uris(item)]
    if literal.scalar is None:
        return []
    if literal.scalar.blob is not None:
        return [literal.scalar.blob.uri]
    if literal.scalar.binary is not None:
        return _paths(msgpack.loads(literal.scalar.binary.value))
    return []


def _paths(value: object) -> list[str]:
    """The files and folders in a model: flytekit writes one as its `path`, and `metadata` of a file.

    A mapping with more keys is a model of ours that has a `path`, such as that of a user's own domain.
    """
    if isinstance(value, list):
        return [path for item in value for path in _paths(item)]
    if isinstance(value, dict):
        if isinstance(value.get("path"), str) and set(value) <= {"path", "metadata"}:
            return [value["path"]]
        return [path for item in value.values() for path in _paths(item)]
    return []


def _exists(uri: str) -> bool:
    """Whether data is still there; cleaners of temporary folders take files and may leave the folders."""
    path = Path(uri)
    return "://" in uri or path.is_file() or any(item.is_file() for item in path.rglob("*"))
