"""What the benchmarks share: turns, fresh processes, peaks of memory (Linux), and a table with its line of JSON."""

import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


def clock() -> float:
    """Returns seconds, of the processor where torch has one thread: other work on the machine adds little to them.

    With several threads they are of the wall, since threads that wait for each other use the processor.
    """
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def in_turns(works: Mapping[str, Callable[[], object]], turns: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Returns the seconds of several kinds of work, which take turns, so that whatever slows one slows all."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(turns + warm_up):
        for name, work in works.items():
            began = clock()
            work()
            taken[name].append(clock() - began)
    return {name: seconds[warm_up:] for name, seconds in taken.items()}


def apart(measure: Callable[..., T], *arguments: str | float, **environment: str) -> T:
    """Calls a function of a module in a new process; what it takes and returns is JSON."""
    command = [sys.executable, "-m", __name__, measure.__module__, measure.__name__, json.dumps(arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found: T = json.loads(done.stdout.splitlines()[-1])
    return found


def resident_mib(field: str) -> float:
    """Returns a field of the kernel's account of this process, such as VmRSS, in MiB."""
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


def show(title: str, rows: Mapping[str, Mapping[str, float | str]]) -> None:
    """Prints rows as a table, in which a row may lack columns, and as one line of JSON."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    print(f"\n{title}\n| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |")
    print(json.dumps(rows))


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


if __name__ == "__main__":
    module, name, given = sys.argv[1:]
    print(json.dumps(getattr(importlib.import_module(module), name)(*json.loads(given))))
