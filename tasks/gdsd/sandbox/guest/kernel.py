"""System calls that Python has no function for; needed where bubblewrap does not make them."""

import ctypes
import os

from tasks.gdsd.sandbox.guest import seccomp

SET_NO_NEW_PRIVS, SET_SECCOMP, SET_CHILD_SUBREAPER = 38, 22, 36
SECCOMP_FILTER = 2
MOUNT_SETATTR = 442  # the same number on every machine
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
READ_ONLY, NO_SETUID = 1, 2
NOSUID, NODEV, BIND, RECURSIVE = 2, 4, 0x1000, 0x4000
DETACH = 2
ROOT = "/sys"  # a folder under which no interpreter lies, to build the new root on
BYTES_PER_FILE = 512  # of a temporary folder, each of whose files takes about a kilobyte that no other limit counts
CAPABILITY_VERSION = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


class Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def show_only(shown: list[str], covered: list[str], size: int) -> None:
    """Leaves of the host's files only some, read-only and under an empty root, with a temporary folder.

    Of what is shown, folders that are covered are empty. The file systems of the host are out of reach afterwards.
    """
    os.chdir(ROOT)
    _mount("tmpfs", ".", "tmpfs", NOSUID | NODEV, "size=1m,mode=755")
    os.chdir(ROOT)  # the folder that lies there now
    for path in (*shown, "/proc"):
        target = path[1:]
        os.makedirs(os.path.dirname(target) or ".", 0o755, exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
            continue
        if os.path.isdir(path):
            os.makedirs(target, 0o755, exist_ok=True)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
        _mount(path, target, None, BIND | RECURSIVE)
    for path in covered:
        _mount("tmpfs", path[1:], "tmpfs", NOSUID | NODEV, "size=4k,nr_inodes=1,mode=555")
    os.mkdir("tmp")
    attributes = Attributes(set=READ_ONLY | NO_SETUID)
    arguments = (AT_FDCWD, b".", AT_RECURSIVE, ctypes.byref(attributes), ctypes.sizeof(attributes))
    _check(libc.syscall(MOUNT_SETATTR, *arguments), "mount_setattr")
    options = f"size={size},nr_inodes={size // BYTES_PER_FILE},mode=1777"
    _mount("tmpfs", "tmp", "tmpfs", NOSUID | NODEV, options)
    _check(libc.pivot_root(b".", b"."), "pivot_root")
    _check(libc.umount2(b".", DETACH), "umount2")
    os.chdir("/tmp")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode())
    _check(libc.mount(*words), f"mount {target}")


def adopt_orphans() -> None:
    """Becomes the parent of descendants whose own parent ends."""
    _check(libc.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def forgo_privileges() -> None:
    """Gives up every capability, the way to new ones, and some system calls."""
    header, nothing = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    _check(libc.capset(header, nothing), "capset")
    _check(libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    if code := seccomp.instructions():
        program = Program(len(code) // 8, code)
        _check(libc.prctl(SET_SECCOMP, SECCOMP_FILTER, ctypes.byref(program), 0, 0), "seccomp")
