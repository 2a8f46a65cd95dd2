"""Which folders on this machine are a local run's own: by a list in `home()`, and by a mark in the temporary folder.

Nothing here needs a library, so that `make clean-runs` works without the environment.
"""

import atexit
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path

from tasks.gdsd.errors import StorageError

MARK = ".gdsd-run"  # a file that is locked for as long as the run lives
PREFIX = "gdsd-"
HOUR_S = 3600
LIST = ".made"  # a folder in `home()`, with an empty file for each folder there that a run has made, of the same name
_STAMP = re.compile(r".+-[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")
_OF_FLYTEKIT = re.compile("flyte-?[a-z0-9_]{8}")
_held: list[Path] = []  # temporary folders of this process


def home() -> Path:
    """Returns the folder of local run data: GDSD_HOME, by default ~/.flyte/gdsd."""
    return Path(os.path.expanduser(os.environ.get("GDSD_HOME") or "~/.flyte/gdsd")).absolute()


def new(name: str) -> Path:
    """Returns a new empty folder in `home()`, which `clean` knows as a run's.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        return named(f"{name}-{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}")
    except OSError as error:
        raise StorageError(
            f"{home()}, where runs keep their data, takes no folder ({error.strerror}); set GDSD_HOME to a folder that "
            "does"
        ) from error


def named(name: str) -> Path:
    """Returns a run's folder in `home()`, which is made and put on the list if it is not there.

    The list stands beside the folders, so that results have no file that is not theirs. A folder that a person has
    renamed or copied is not on it.

    Raises:
        OSError: it cannot be made.
    """
    folder = home() / name
    if not folder.is_dir():
        (home() / LIST).mkdir(parents=True, exist_ok=True)
        use()
        (home() / LIST / name).touch()  # before the folder, which would be nobody's if this process were killed
        folder.mkdir(exist_ok=True)  # another run may have the same page
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
    """Removes what runs have made in a folder such as `home()`; what others have put there stays.

    Yields:
        each folder, which is still there if it could not be removed as a whole

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
        for line in sorted((place / LIST).glob("*")):
            folder = place / line.name
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)
                yield folder
            if not folder.is_dir() or folder.is_symlink():
                line.unlink()
    finally:
        os.close(held)


def alike(place: Path) -> list[Path]:
    """Returns the folders in `place` with names like those of runs that are not on the list.

    A person has renamed or copied them, or an earlier version has made them, which kept no list.
    """
    return sorted(
        path
        for path in place.glob("*")
        if _STAMP.fullmatch(path.name)
        and path.is_dir()
        and not path.is_symlink()
        and not (place / LIST / path.name).exists()
    )


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
    """Returns the temporary folders in `place` that are marked, by this user, and whose process has ended.

    Those that flytekit makes are without a mark where their process was ended while it loaded flytekit. They are empty.
    """
    marked = [mark.parent for name in (PREFIX, "flyte") for mark in place.glob(f"{name}*/{MARK}") if _is_free(mark)]
    return [*marked, *filter(_is_forgotten, place.glob("flyte*"))]


def _mark(folder: Path) -> None:
    """Leaves a locked file in a folder; its descriptor stays open, and no process that is started gets it."""
    new = folder / f"{MARK}.new"
    fcntl.flock(os.open(new, os.O_CREAT | os.O_WRONLY, 0o600), fcntl.LOCK_EX)
    os.replace(new, folder / MARK)  # so that no mark is ever seen unlocked while its process lives


def _is_forgotten(folder: Path) -> bool:
    """Whether flytekit has made a folder for this user, an hour ago or more, and nothing has come into it since."""
    try:
        seen = folder.lstat()
        return (
            _OF_FLYTEKIT.fullmatch(folder.name) is not None
            and stat.S_ISDIR(seen.st_mode)
            and seen.st_uid == os.geteuid()
            and time.time() - seen.st_mtime > HOUR_S
            and all(path.is_dir() and not path.is_symlink() for path in folder.rglob("*"))
        )
    except OSError:
        return False


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
