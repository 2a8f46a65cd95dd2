"""The system calls that a confined program has no business making, as a filter for the kernel.

Without them a program cannot make namespaces of its own, in which it could mount memory that no limit counts. It cannot
make files in memory, which no limit counts either, and it cannot reach rarely used parts of the kernel. It cannot let
other programs have the processor before it either, or it could be late without having used its time. On a machine that
is not listed there is no filter. The rest still holds.
"""

import platform
import struct

EPERM, ENOSYS = 1, 38
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # classic BPF
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, little-endian
NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
X32 = 0x40000000  # calls of the x32 ABI, which would go round the filter

# place of a machine's numbers in REFUSED, audit architecture, number of clone
MACHINES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}
REFUSED = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "memfd_create": (319, 279),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
}
EVERYWHERE = {  # the same number on every machine
    "io_uring_setup": 425,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
    "memfd_secret": 447,
}
CLONE3 = 435  # its flags lie in memory, where no filter can read them; the C library goes back to clone


def instructions() -> bytes:
    """Returns the filter as an array of struct sock_filter; empty on a machine that is not listed."""
    if platform.machine() not in MACHINES:
        return b""
    place, architecture, clone = MACHINES[platform.machine()]

    def step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("=HBBI", code, then, otherwise, value)

    def refuse(error: int = EPERM) -> bytes:
        return step(RETURN, ERRNO | error)

    parts = [step(LOAD, ARCHITECTURE), step(EQUAL, architecture, 1, 0), refuse(), step(LOAD, NUMBER)]
    parts += [step(AT_LEAST, X32, 0, 1), refuse(), step(EQUAL, CLONE3, 0, 1), refuse(ENOSYS)]
    for number in (*(numbers[place] for numbers in REFUSED.values()), *EVERYWHERE.values()):
        parts += [step(EQUAL, number, 0, 1), refuse()]
    parts += [step(EQUAL, clone, 1, 0), step(RETURN, ALLOW), step(LOAD, FIRST_ARGUMENT)]
    parts += [step(ANY_BIT, NEW_NAMESPACES, 0, 1), refuse(), step(RETURN, ALLOW)]
    return b"".join(parts)
