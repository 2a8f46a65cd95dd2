"""System calls that Python has no function for; needed where bubblewrap does not make them."""

import ctypes
import os

from tasks.gdsd.guests import seccomp

SET_NO_NEW_PRIVS, SET_SECCOMP, SET_CHILD_SUBREAPER = 38, 22, 36
SECCOMP_FILTER = 2
MOUNT_SETATTR = 442  # the same number on every machine
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
READ_ONLY, NO_SETUID = 1, 2
NOSUID, NODEV = 2, 4
CAPABILITY_VERSION = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


class Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def hide_files(size: int) -> None:
    """Makes every mounted file system read-only, and covers what programs share with an empty temporary folder."""
    attributes = Attributes(set=READ_ONLY | NO_SETUID)
    arguments = (AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(attributes), ctypes.sizeof(attributes))
    _check(libc.syscall(MOUNT_SETATTR, *arguments), "mount_setattr")
    for folder, mode in ((b"/tmp", 1777), (b"/run", 755)):
        if os.path.isdir(folder):
            options = f"size={size},mode={mode}".encode()
            _check(libc.mount(b"tmpfs", folder, b"tmpfs", NOSUID | NODEV, options), "mount")


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
