"""Content digests of files and folders."""

import hashlib
from pathlib import Path


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, or of a folder's relative names and bytes in order of name.

    Raises:
        FileNotFoundError: there is nothing at the path.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist, so its content has no digest")
    total = hashlib.sha256()
    for item in sorted(item for item in path.rglob("*") if item.is_file()):
        total.update(f"{item.relative_to(path).as_posix()}\0{digest(item)}\0".encode())
    return total.hexdigest()
