"""The values that travel between tasks."""

import hashlib
from pathlib import Path
from typing import Annotated

from flytekit.core.hash import HashMethod
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from tasks.gdsd.digests import digest


def _content(value: FlyteFile | FlyteDirectory | str) -> str:
    """Keys a value by its content, so that recomputing it identically does not recompute what follows.

    One that lies in an object store is keyed by its address: flytekit asks for the key also where a value only passes
    through, and downloading a checkpoint for that would cost more than it saves. Flyte never writes an address twice.
    """
    path = value if isinstance(value, str) else str(value.remote_source or value.path)
    if "://" in path:
        return hashlib.sha256(path.encode()).hexdigest()
    return digest(Path(path))


# A Parquet file with one of the schemas of `tasks.gdsd.tables`.
Table = Annotated[FlyteFile, HashMethod(_content)]
# A folder written by `tasks.gdsd.checkpoint`.
Checkpoint = Annotated[FlyteDirectory, HashMethod(_content)]
