"""Copies the files of a tracker into a folder of any store."""

from collections.abc import Mapping
from pathlib import Path

import fsspec

from tasks.gdsd.errors import PublishError, UnreachableError


def put(files: Mapping[str, Path], url: str, options: Mapping[str, object]) -> None:
    """Writes local files under their names into a folder, over older ones of the same names.

    Raises:
        PublishError: the folder is of no kind that can be written, or may not be.
        UnreachableError: its store does not answer.
    """
    try:
        system, root = fsspec.core.url_to_fs(url, **options)
        for name, file in files.items():
            target = f"{root.rstrip('/')}/{name}"
            system.makedirs(system._parent(target), exist_ok=True)
            system.put_file(str(file), target)
    except (ImportError, ValueError, PermissionError, NotADirectoryError, FileExistsError) as error:
        raise PublishError(
            f"{url} cannot be written to: {error}; correct the folder, or who may write there"
        ) from error
    except OSError as error:
        raise UnreachableError(f"{url} was not written to: {error}") from error
