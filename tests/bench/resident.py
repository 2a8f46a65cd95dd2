"""The memory that some work needs: the kernel's high-water mark of resident memory (Linux)."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path


def resident_mib(field: str) -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 1024


def peak_mib(warm_up: Callable[[], object], work: Callable[[], object]) -> float:
    """Returns what the work needs above what is there already, threads and kernels' scratch memory included."""
    warm_up()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # or the work could reuse freed memory that counts as resident already
    before = resident_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    work()
    return resident_mib("VmHWM") - before
