"""System calls that Python has no function for; at the level `full` bubblewrap makes them."""

import ctypes
import os

from tasks.gdsd.sandbox.guest import seccomp

SET_NO_NEW_PRIVS, SET_SECCOMP, SET_CHILD_SUBREAPER = 38, 22, 36
SECCOMP_FILTER = 2
CAPABILITY_VERSION = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


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
