"""A folder in a file system or an object store, for several writers at once.

Readers never see half a file. A file can be created only where there is none: of any number of writers that create the
same name at the same moment, exactly one succeeds. On a local disk a finished file is linked to its name. The stores of
S3, Google and Azure check a condition themselves. `require_exclusive` refuses a store that ignores it.
"""

import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from tasks.gdsd.errors import GdsdError, RegistryError

EXCLUSIVE = ("abfs", "abfss", "file", "gs", "memory", "s3")  # where creation can be so
SHARED = ("abfs", "abfss", "gs", "s3")  # of these, where all machines find the same
BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9.-]+)?"  # of Azure with its account
FOLDER = r"(?!\.{1,2}(/|$))[\w.=+@:~-]+"
PLACE = re.compile(rf"{BUCKET}(/{FOLDER})*/?")
CHUNK = 2**23
ATTEMPTS = 3
PARTIAL = "partial"  # files that are being written, on a local disk; may be emptied when nobody writes
_MEMORY = threading.Lock()  # fsspec's store in memory looks and then writes


def require_shared(url: str) -> None:
    """Makes sure that a URL names a place that every machine finds, and that outlives a pod.

    Raises:
        RegistryError: it names none: it is empty, a path, of another kind, or has no bucket or characters of no folder.
    """
    protocol, separator, rest = url.partition("://")
    if not separator or protocol not in SHARED:
        what = f"{_shown(url)} is no address in an object store" if url.strip() else "is empty"
        raise RegistryError(
            f"{what}, so that what is promoted would be lost with its pod; name a place such as s3://BUCKET/registry, "
            f"by {', '.join(f'{name}://' for name in SHARED)}"
        )
    if not PLACE.fullmatch(rest):
        raise RegistryError(
            f"{_shown(url)} is no address in an object store: behind {protocol}:// come a bucket and folders, such as "
            "BUCKET/registry, of letters, digits and . _ - = + @ : ~"
        )


@contextmanager
def in_words(url: str) -> Iterator[None]:
    """Says in a sentence what keeps a person's command from a store. Who can try again wants the error itself.

    Raises:
        RegistryError: in place of what the store's library raises.
    """
    try:
        yield
    except GdsdError:
        raise
    except Exception as error:  # each library raises what it likes
        if type(error).__module__ == "builtins" and not isinstance(error, OSError):
            raise  # a fault of our own
        raise RegistryError(
            f"{_shown(url)} cannot be read or written ({_cause(error)}); check the address, the connection and your "
            "rights there"
        ) from error


class Store:
    """A folder by its path or URL.

    Args:
        url: a path, or a URL that fsspec knows, such as s3://bucket/folder.
        options: what fsspec's file system takes, such as an endpoint.

    Raises:
        RegistryError: of no kind that can create exclusively, or its library is not there.
    """

    def __init__(self, url: str, options: Mapping[str, object] | None = None):
        if not url.strip():
            raise RegistryError(
                "the registry's address is empty; name a folder, or a place such as s3://BUCKET/registry"
            )
        protocol = url.split("://", 1)[0] if "://" in url else "file"
        if protocol not in EXCLUSIVE:
            raise RegistryError(
                f"{_shown(url)}: of {protocol!r} it is not known that two writers at once cannot both create a file; "
                f"use a path, or one of {', '.join(f'{name}://' for name in EXCLUSIVE)}"
            )
        try:
            # Others write too, so a list that was kept says nothing.
            self._fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **(options or {}))
        except (ImportError, ValueError) as error:
            raise RegistryError(f"{_shown(url)} cannot be used: {error}") from error
        self._local = isinstance(self._fs, LocalFileSystem)
        self._root = str(Path(root).expanduser().absolute()) if self._local else root.rstrip("/")
        self.url = self._root if self._local else url.rstrip("/")

    def address(self, name: str) -> str:
        """Returns the path or URL of what has a name here."""
        return f"{self.url}/{name}"

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def names(self, folder: str) -> list[str]:
        """Returns the names of what is in a folder, in order; of no folder there are none."""
        self._fs.invalidate_cache(self._path(folder))
        try:
            found = self._fs.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted({path.rstrip("/").rsplit("/", 1)[-1] for path in found})

    def files(self, folder: str) -> list[str]:
        """Returns the names of all files in a folder and in those inside it, in order; of no folder there are none."""
        self._fs.invalidate_cache(self._path(folder))
        try:
            found = self._fs.find(self._path(folder))
        except FileNotFoundError:
            return []
        return sorted(path.removeprefix(f"{self._root}/") for path in found)

    def read(self, name: str) -> bytes | None:
        """Returns what a file holds, None where there is none."""
        try:
            return self._fs.cat_file(self._path(name))
        except FileNotFoundError:
            return None

    def stream(self, name: str) -> Iterator[bytes]:
        """Yields what a file holds, piece by piece.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._fs.open(self._path(name), "rb") as file:
            while piece := file.read(CHUNK):
                yield piece

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, or replaces it as a whole."""
        if self._local:
            os.replace(self._write_partial(data), self._parent(name))
        else:
            self._fs.pipe_file(self._path(name), data)

    def upload(self, name: str, source: Path) -> None:
        """Writes a file as a copy of a local one, or replaces it as a whole."""
        if self._local:
            partial = self._parent(f"{PARTIAL}/{uuid.uuid4().hex}")
            shutil.copyfile(source, partial)
            _settle(partial)
            os.replace(partial, self._parent(name))
        else:
            self._fs.put_file(str(source), self._path(name))

    def create(self, name: str, data: bytes) -> bool:
        """Writes a file where there is none, and says whether it did; what is there stays as it is.

        False is also said by a store that answers twice to one request whose first answer was lost, so a writer who is
        refused should see whether the file is its own.

        Raises:
            RegistryError: this disk has no links to files.
        """
        if self._local:
            partial = self._write_partial(data)
            try:
                os.link(partial, self._parent(name))
            except FileExistsError:
                return False
            except OSError as error:
                raise RegistryError(
                    f"{self.url} cannot be shared by several writers, since its disk cannot link files ({error}); use "
                    "another disk or an object store"
                ) from error
            finally:
                partial.unlink()
            _settle(self._parent(name).parent)
            return True
        attempt = 0
        while True:
            attempt += 1
            try:
                if isinstance(self._fs, MemoryFileSystem):
                    with _MEMORY:
                        self._fs.pipe_file(self._path(name), data, mode="create")
                else:
                    self._fs.pipe_file(self._path(name), data, mode="create")
                return True
            except FileExistsError:
                return False
            except (FileNotFoundError, PermissionError):
                raise
            except OSError:
                # S3 refuses one of two at once for no more than this time, and stores that only speak its language name
                # the failed condition in other words. Asking again is safe, since nothing is ever replaced.
                if self._fs.exists(self._path(name)):
                    return False
                if attempt == ATTEMPTS:
                    raise

    def require_exclusive(self, name: str, data: bytes) -> None:
        """Creates a file that never changes, and makes sure that the store will not create it again.

        Raises:
            RegistryError: it would, or it cannot be written to.
        """
        try:
            self.create(name, data)
            again = self.create(name, data)
        except RegistryError:
            raise
        except Exception as error:  # each store's library raises what it likes
            raise RegistryError(
                f"{self.url} cannot be written to ({_cause(error)}); create the bucket or folder, or give the right to "
                "write to it"
            ) from error
        if again:
            raise RegistryError(
                f"{self.url} is in a store that creates a file over another although asked not to, so that one of two "
                "writers at once would be lost; use a store that knows conditional writes (If-None-Match), or a folder"
            )

    def _parent(self, name: str) -> Path:
        """The local path of a file, in a folder that is there."""
        path = Path(self._path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write_partial(self, data: bytes) -> Path:
        partial = self._parent(f"{PARTIAL}/{uuid.uuid4().hex}")
        partial.write_bytes(data)
        _settle(partial)
        return partial


def _shown(url: str) -> str:
    """Quotes an address without what stands before an @, which may be a key."""
    head, separator, host = url.rpartition("@")
    protocol, slashes, _ = head.rpartition("://")
    return repr(f"{protocol}{slashes}...@{host}" if separator else url)


def _cause(error: Exception) -> str:
    """Says on a line what a library has raised, of which some say a page."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.500}"


def _settle(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk: a name must not outlive its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
