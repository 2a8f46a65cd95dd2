"""Which folders on this machine are a local run's own: by their names in `home()`, by a mark in the temporary folder.

Nothing here needs a library, so that `make clean-runs` works without the environment.
"""

import atexit
import fcntl
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path

from tasks.gdsd.errors import StorageError

MARK = ".gdsd-run"  # a file that is locked for as long as the run lives
PREFIX = "gdsd-"
_STAMP = re.compile(r".+-[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")
_held: list[Path] = []  # temporary folders of this process


def home() -> Path:
    """Returns the folder of local run data: GDSD_HOME, by default ~/.flyte/gdsd."""
    return Path(os.environ.get("GDSD_HOME") or "~/.flyte/gdsd").expanduser().absolute()


def new(name: str) -> Path:
    """Returns a new empty folder in `home()`, with a name by which `clean` knows it as a run's.

    Raises:
        StorageError: it cannot be made.
    """
    place = home()
    try:
        place.mkdir(parents=True, exist_ok=True)
        use()
        folder = place / f"{name}-{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
    except OSError as error:
        raise StorageError(
            f"{place}, where runs keep their data, takes no folder ({error.strerror}); set GDSD_HOME to a folder that "
            "does"
        ) from error
    return folder


def use() -> None:
    """Keeps `clean` away from `home()`, if that is there, for as long as this process lives."""
    if home().is_dir():
        _hold(home())


@cache
def _hold(place: Path) -> None:
    with suppress(OSError):  # where nothing can be locked, `clean` removes nothing
        fcntl.flock(os.open(place, os.O_RDONLY), fcntl.LOCK_SH)


def clean(place: Path) -> Iterator[Path]:
    """Removes what runs have made in a folder such as `home()`, and names it; what others have put there stays.

    Raises:
        StorageError: a run of this machine is going on there, or nobody can know whether one is.
    """
    held = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(f"a run that is going on has its data in {place}; wait for its end, or end it") from None
        except OSError as error:
            raise StorageError(
                f"{place} cannot be locked ({error.strerror}), so a run may be going on there; when none is, remove "
                "the folders by hand"
            ) from error
        for folder in sorted(path for path in place.iterdir() if path.is_dir() and not path.is_symlink()):
            if _STAMP.fullmatch(folder.name):
                shutil.rmtree(folder)
                yield folder
    finally:
        os.close(held)


def gather(others: Iterable[Path]) -> None:
    """Puts the temporary files of this process, and of those that it starts, into one folder, which goes with it.

    A folder that a killed run has left is removed by the next one. The kernel frees the lock of a mark whenever its
    process ends.

    Args:
        others: temporary folders that this process has already.
    """
    for folder in left_behind(Path(tempfile.gettempdir())):
        remove(folder)
    own = Path(tempfile.mkdtemp(prefix=PREFIX))
    tempfile.tempdir = os.environ["TMPDIR"] = str(own)
    _held.extend([own, *others])
    for folder in _held:
        with suppress(OSError):  # where nothing can be locked, only a run that ends by itself leaves nothing
            _mark(folder)
    atexit.register(leave)
    os.register_at_fork(after_in_child=_held.clear)  # they are not a copy's to remove


def leave() -> None:
    """Removes the temporary folders of this process."""
    for folder in _held:
        remove(folder)


def remove(folder: Path) -> bool:
    """Removes a temporary folder, and its mark last: what a thread or process still writes, the next run removes.

    Returns:
        whether it is gone
    """
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != MARK:
                path.unlink(missing_ok=True)
        (folder / MARK).unlink(missing_ok=True)
        try:
            folder.rmdir()
        except OSError:
            (folder / MARK).touch()
    return not folder.exists()


def left_behind(place: Path) -> list[Path]:
    """Returns the temporary folders in `place` that are marked, by this user, and whose process has ended."""
    return [mark.parent for pattern in (PREFIX, "flyte") for mark in place.glob(f"{pattern}*/{MARK}") if _is_free(mark)]


def _mark(folder: Path) -> None:
    """Leaves a locked file in a folder; its descriptor stays open, and no process that is started gets it."""
    new = folder / f"{MARK}.new"
    fcntl.flock(os.open(new, os.O_CREAT | os.O_WRONLY, 0o600), fcntl.LOCK_EX)
    os.replace(new, folder / MARK)  # so that no mark is ever seen unlocked while its process lives


def _is_free(mark: Path) -> bool:
    """Whether nobody holds a mark of this user."""
    try:
        if mark.parent.is_symlink() or mark.parent.stat().st_uid != os.geteuid():
            return False
        seen = os.open(mark, os.O_WRONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(seen, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(seen)
    return True
