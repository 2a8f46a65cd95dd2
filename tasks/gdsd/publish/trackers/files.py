"""Files of a tracker in a folder of any store."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tasks.gdsd import transient
from tasks.gdsd.errors import PublishError, UnreachableError
from tasks.gdsd.files import is_shared


def names(url: str, options: Mapping[str, object]) -> set[str]:
    """Returns the names of the files in a folder, none where there is no such folder yet.

    Raises:
        PublishError: the folder is of no kind that can be read, may not be, or its disk refuses.
        UnreachableError: its store does not answer.
    """
    with _told(url):
        system, root = fsspec.core.url_to_fs(url, **options)
        try:
            return {str(name).rpartition("/")[2] for name in system.ls(root, detail=False, refresh=True)}
        except FileNotFoundError:
            return set()


def put(files: Mapping[str, Path], url: str, options: Mapping[str, object]) -> None:
    """Writes local files under their names into a folder, over older ones of the same names; each whole or not at all.

    Raises:
        PublishError: the folder is of no kind that can be written, may not be, or its disk refuses.
        UnreachableError: its store does not answer.
    """
    with _told(url):
        system, root = fsspec.core.url_to_fs(url, **options)
        for name, file in files.items():
            target = f"{root.rstrip('/')}/{name}"
            parent = system._parent(target)
            system.makedirs(parent, exist_ok=True)
            if isinstance(system, LocalFileSystem):  # a disk may be full in the middle; a store has no half files
                part = f"{parent}/.{uuid4().hex}.part"  # another run may write here too
                try:
                    system.put_file(str(file), part)
                    os.replace(part, target)
                finally:
                    Path(part).unlink(missing_ok=True)
            else:
                system.put_file(str(file), target)


@contextmanager
def _told(url: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, ValueError, OSError) as error:
        refused = isinstance(error, ImportError | ValueError | PermissionError | NotADirectoryError | FileExistsError)
        if not refused and (is_shared(url) or transient.may_pass(error)):
            raise UnreachableError(f"{url} was not written to: {error}") from error
        raise PublishError(
            f"{url} cannot be written to: {error}; correct the folder, who may write there, or the room on its disk"
        ) from error
