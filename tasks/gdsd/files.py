"""Files: opens any URI that fsspec knows, and makes and checks digests of their content."""

import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsspec.core import OpenFile

OWN = ("file", "local", "memory")  # fsspec's names of what is this machine's, or this process's
SMALL = 2**24  # bytes of files that are digested before threads would have started
SUMS = "SHA256SUMS"  # digests of a folder's files, in it, as `sha256sum --check` reads them

Options = Callable[[str], Mapping[str, object]]
Signs = tuple[int, int]  # nanoseconds of the last change, bytes


def _none(uri: str) -> Mapping[str, object]:
    return {}


_options: Options = _none


def use(options: Options) -> None:
    """Says for all of this process with which options the file system of a URI is opened, such as an endpoint."""
    global _options
    _options = options


def open_file(path: str) -> "OpenFile":
    """Returns a file to be entered and read as bytes; of a chain, such as simplecache::s3://, each link has options.

    Raises:
        Exception: it cannot be read; each store's library raises what it likes.
    """
    import fsspec

    links = [link for link in path.split("::") if "://" in link]
    return fsspec.open(path, "rb", **{link.split("://", 1)[0]: dict(_options(link)) for link in links})


def absolute(path: str, folder: str | Path = "") -> str:
    """Returns a path that is the same from everywhere; an address stays as it is.

    Of a chain, such as zip://problems.csv::data.zip, the last link says where the data lies.

    Args:
        folder: what the path is relative to; by default, the working directory.
    """
    links, chained, place = path.rpartition("::")
    if "://" in place:
        return path
    return f"{links}{chained}{Path(folder, os.path.expanduser(place)).absolute()}"


def is_shared(uri: str) -> bool:
    """Whether a URI names a place that fsspec knows and that other machines find as well, such as a bucket or a host.

    Of a chain, such as simplecache::s3://, the last link says where the data lies.
    """
    from fsspec import available_protocols

    protocol, _, place = uri.rpartition("::")[2].partition("://")
    return protocol in available_protocols() and protocol not in OWN and bool(place.partition("/")[0].strip())


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


def signs(path: Path) -> Signs:
    """Returns that by which a change of a source is noticed without reading it."""
    state = path.stat()
    return state.st_mtime_ns, state.st_size


def seal(folder: Path) -> None:
    """Writes the digests of all of a folder's files beside them."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    (folder / SUMS).write_text(sums(files))


def sums(files: Mapping[str, Path]) -> str:
    """Returns the digests of files by the names that they have in a folder, in the form of `SUMS`."""
    names = sorted(files)
    return "".join(f"{found}  {name}\n" for name, found in zip(names, _digests(files, names), strict=True))


def listed(text: str) -> dict[str, str] | None:
    """Returns the digests that a `SUMS` has, by name; None where it is damaged."""
    lines = [line.partition("  ") for line in text.splitlines()]
    if not lines or any(len(expected) != 64 or not name for expected, _, name in lines):
        return None
    return {name: expected for expected, _, name in lines}


def damage(folder: Path, unread: Collection[str] = ()) -> str | None:
    """Says what is wrong with a sealed folder, if anything is. Of one that is not sealed nothing is known.

    Args:
        unread: names of files that are not wanted, and not read.
    """
    if not (folder / SUMS).is_file():
        return None
    sealed = listed((folder / SUMS).read_text(errors="replace"))
    if sealed is None:
        return f"{folder / SUMS} is damaged"
    wanted = {name: expected for name, expected in sealed.items() if name not in unread}
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        return f"{folder / missing[0]} is missing"
    places = {name: folder / name for name in wanted}
    for (name, expected), found in zip(wanted.items(), _digests(places, list(wanted)), strict=True):
        if found != expected:
            return f"{folder / name} is damaged: its SHA-256 is {found[:12]}, and {SUMS} has {expected[:12]}"
    return None


def _digests(files: Mapping[str, Path], names: list[str]) -> list[str]:
    if sum(files[name].stat().st_size for name in names) < SMALL:
        return [digest(files[name]) for name in names]
    with ThreadPoolExecutor() as threads:  # Python lets several files be digested at once
        return list(threads.map(lambda name: digest(files[name]), names))
