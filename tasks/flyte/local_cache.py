"""The cache of a local run's results: one that has vanished or is damaged is a miss, and a damaged cache a refusal.

A local Flyte run stores paths in its cache (~/.flyte/local-cache). By default the data behind them lies in the system's
temporary folder, which gets cleaned. Here the data lies beside the cache; see `tasks.flyte.folders`.
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
from flytekit.core.local_cache import CACHE_LOCATION, LocalTaskCache
from flytekit.models.literals import Literal, LiteralMap
from google.protobuf.message import DecodeError

from tasks.flyte import folders, hits
from tasks.flyte.inputs import in_words
from tasks.gdsd.errors import StorageError

logger = logging.getLogger(__name__)


def check_results() -> None:
    """Makes flytekit's local cache treat an entry as a miss when it is damaged or a file or folder of it is gone.

    flytekit returns the stored paths unchecked, and the next task fails on them. Where the cache itself cannot be used,
    a run ends with a `StorageError`, since it could not go on after an interruption.
    """
    remembered, remember = LocalTaskCache.get, LocalTaskCache.set

    def get(name: str, version: str, inputs: LiteralMap, ignored: tuple[str, ...]) -> LiteralMap | None:
        folders.use()  # a result that is found must not be cleaned away before it is read
        with _usable():
            try:
                found = remembered(name, version, inputs, ignored)
                uris = [] if found is None else [uri for literal in found.literals.values() for uri in _uris(literal)]
            except (DecodeError, ValueError) as error:
                logger.warning("a cached result of %s is damaged (%s); computing it again", name, error)
                return None
        missing = [uri for uri in uris if not _exists(uri)]
        if missing:
            logger.warning("a cached result of %s is gone (%s); computing it again", name, missing[0])
            return None
        if found is not None:
            hits.take(name, inputs)
        return found

    def set_(name: str, version: str, inputs: LiteralMap, ignored: tuple[str, ...], value: LiteralMap) -> None:
        with _usable():
            remember(name, version, inputs, ignored, value)

    if remembered.__module__ != __name__:
        LocalTaskCache.get, LocalTaskCache.set = staticmethod(get), staticmethod(set_)  # flytekit has no hook for this


@contextmanager
def _usable() -> Iterator[None]:
    """Says what to do where the cache cannot be read or written."""
    from diskcache import Timeout  # flytekit imports it late too

    with in_words():
        try:
            yield
        except (OSError, Timeout, sqlite3.Error) as error:
            folder = Path(CACHE_LOCATION).expanduser()
            raise StorageError(
                f"{folder}, the cache of results, cannot be read and written ({error}). If it is damaged, remove that "
                "folder: its results are computed again. If this disk is full or read-only, set HOME to a folder on "
                "another"
            ) from error


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
