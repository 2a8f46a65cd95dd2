"""The command that makes the sandbox of the level `full`, by bubblewrap.

A program in it sees system folders, the interpreter and the folder `guest` of this room, all read-only. It also has a
few devices, and a temporary folder in memory. It has no /proc, no network, and no process but its own. Folders of
packages, the project's and the user's own are empty where they lie in what is shown. Tests also see numpy.
"""

import glob
import importlib.util
import os
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tasks.gdsd.sandbox.guest import seccomp, start

SCRIPT = os.path.realpath(start.__file__)
ROOT = str(Path(SCRIPT).parents[4])  # of the project
GUEST = "/guest/tasks/gdsd/sandbox/guest"  # where the folder `guest` lies inside
PACKAGES = "/guest/packages"  # where numpy lies inside, for tests
DEVICES = ("null", "zero", "urandom")


class Files(NamedTuple):
    """What a sandbox sees of the host, read-only, and which folders in it are empty to it."""

    shown: tuple[str, ...]
    covered: tuple[str, ...]


def command(temporary: int, privileged: bool, numpy: bool, descriptor: int) -> list[str]:
    """Returns the command, up to the one that runs inside.

    Args:
        temporary: bytes that the temporary folder may hold.
        privileged: root makes the namespaces, and the program may become another user inside.
        numpy: the program sees this package.
        descriptor: of a file with the filter of system calls.

    Raises:
        FileNotFoundError: bubblewrap is not installed.
    """
    path = shutil.which("bwrap")
    if path is None:
        raise FileNotFoundError("there is no bwrap on the PATH")
    words = [path, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--as-pid-1", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if privileged else ["--unshare-user"]
    words += _view()
    for path in numpy_files() if numpy else ():
        words += ["--ro-bind", path, f"{PACKAGES}/{os.path.basename(path)}"]
    for folder in files().covered:
        words += ["--perms", "0555", "--size", "4096", "--tmpfs", folder, "--remount-ro", folder]
    words += ["--perms", "1777", "--size", str(temporary), "--tmpfs", "/tmp", "--remount-ro", "/"]
    return [*words, "--seccomp", str(descriptor)] if seccomp.instructions() else words


def interpreter() -> str:
    """Returns the path of the interpreter itself, behind any virtual environment."""
    return os.path.realpath(str(vars(sys)["_base_executable"]))


@cache
def numpy_files() -> list[str]:
    """Returns the folder of the pipeline's own numpy, and that of its libraries where it has one.

    Raises:
        FileNotFoundError: numpy is not installed.
    """
    spec = importlib.util.find_spec("numpy")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("numpy, which tests may import, is not installed")
    folder = os.path.realpath(os.path.dirname(spec.origin))
    return [path for path in (folder, f"{folder}.libs") if os.path.isdir(path)]


@cache
def files() -> Files:
    """Finds out what there is on this machine to show and to cover."""
    prefixes = [
        prefix
        for prefix in dict.fromkeys(map(os.path.realpath, (sys.base_prefix, sys.base_exec_prefix)))
        if not _inside(prefix, "/usr")
    ]
    system = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", *prefixes, "/etc/ld.so.cache")
    shown = [path for path in system if os.path.lexists(path)]
    packages = [
        os.path.realpath(path)
        for prefix in ("/usr", "/usr/local", *prefixes)
        for kind in ("site-packages", "dist-packages")
        for path in glob.glob(f"{glob.escape(prefix)}/lib*/python*/{kind}")
    ]
    # Data sets come as packages, too, and an image may have its project in /usr/src.
    own = [
        ROOT,
        os.path.expanduser("~"),
        os.environ.get("GDSD_HOME") or "~/.flyte/gdsd",
        sys.prefix,
        *sys.path,
    ]
    library = os.path.dirname(os.__file__)
    needed = {os.path.realpath(path) for path in (*shown, library, interpreter())}
    covered = {
        path
        for path in map(os.path.realpath, map(os.path.expanduser, filter(None, own)))
        if not any(_inside(one, path) for one in needed) and not _inside(path, library)
    } | set(packages)
    inner = sorted(path for path in covered if os.path.isdir(path) and any(_inside(path, one) for one in shown))
    outermost = [path for path in inner if not any(_inside(path, one) for one in inner if one != path)]
    return Files((*shown, *(f"/dev/{device}" for device in DEVICES)), tuple(outermost))


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _view() -> list[str]:
    """The options that show the host's files and the folder `guest`, read-only."""
    shown = files().shown
    # Folders that bubblewrap makes on its own are its user's only.
    above = {str(parent) for path in (*shown, GUEST, f"{PACKAGES}/numpy") for parent in Path(path).parents}
    view = [part for folder in sorted(above - {"/"}) for part in ("--dir", folder)]
    for path in shown:
        if os.path.islink(path):
            view += ["--symlink", os.readlink(path), path]
        else:
            view += ["--dev-bind" if path.startswith("/dev/") else "--ro-bind", path, path]
    return [*view, "--symlink", "urandom", "/dev/random", "--ro-bind", os.path.dirname(SCRIPT), GUEST]
