"""The files that travel between tasks, which Flyte's cache knows by their content."""

import hashlib
import re
from pathlib import Path
from typing import Annotated

from flytekit import FlyteContextManager
from flytekit.core.hash import HashMethod
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

import tasks.flyte.model_types  # noqa: F401  # before any task names a model
from tasks.flyte.local import in_pod
from tasks.gdsd.files import digest

_NAMED = re.compile("/sha256-([0-9a-f]{64})/*$")


def _content(value: FlyteFile | FlyteDirectory | str) -> str:
    """Keys a value by its content, so that recomputing it identically does not recompute what follows.

    One that lies in an object store is keyed by its address: flytekit asks for the key also where a value only passes
    through, and downloading a checkpoint for that would cost more than it saves. Flyte never writes an address twice.
    The address of a `stored` one says what its content is.
    """
    path = value if isinstance(value, str) else str(value.remote_source or value.path)
    if "://" in path:
        if (named := _NAMED.search(path)) is not None:
            return named[1]
        return hashlib.sha256(path.encode()).hexdigest()
    return digest(Path(path))


def stored(folder: Path) -> FlyteDirectory:
    """Returns a task's new folder; in a pod, to be kept where its address ends with the digest of its content.

    So it has one key, whether it goes from task to task or through a dynamic task, which knows only the address.
    """
    return FlyteDirectory(str(folder), remote_directory=_address(folder))


def stored_file(file: Path) -> FlyteFile:
    """Returns a task's new file, kept as `stored` keeps a folder."""
    return FlyteFile(str(file), remote_path=_address(file))


def _address(place: Path) -> str | None:
    if not in_pod():
        return None
    access = FlyteContextManager.current_context().file_access
    return access.join(access.get_random_remote_directory(), f"sha256-{digest(place)}")


# A Parquet file with one of the schemas of `tasks.gdsd.tables`.
Table = Annotated[FlyteFile, HashMethod(_content)]
# A file written by `tasks.gdsd.records.Progress`. As a value, what a long run has recorded would be more than a cluster
# takes: it would be part of each leg's workflow.
ProgressFile = Annotated[FlyteFile, HashMethod(_content)]
# A folder written by `tasks.gdsd.denoiser.checkpoint`.
Checkpoint = Annotated[FlyteDirectory, HashMethod(_content)]
