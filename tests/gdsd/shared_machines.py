"""Machines that share work, for tests: threads of this process, each of which starts processes of its own."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.distill import processes
from tasks.gdsd.distill.launcher import launch
from tasks.gdsd.distill.machines import Machines
from tasks.gdsd.errors import CheckpointError


def free_endpoint() -> str:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def on_machines(count: int, work: Callable[[Machines], object]) -> list[object]:
    """Does the work on so many machines at once; returns what each returns or raises, in order of their numbers."""
    endpoint = free_endpoint()

    def be() -> tuple[int, object]:
        machines = Machines(endpoint, count, 60)
        try:
            return machines.number, work(machines)
        except Exception as error:
            return machines.number, error

    with ThreadPoolExecutor(count) as pool:
        found = dict(future.result() for future in [pool.submit(be) for _ in range(count)])
    return [found[number] for number in range(count)]


def launched(work: Callable[[str], object], argument: str, count: int = 1) -> Callable[[Machines], object]:
    return partial(launch, work, argument, count)


def count_up(words: str) -> str:
    """What a process does: it says who it is, having met the others."""
    import torch

    torch.distributed.init_process_group("gloo")
    found = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, processes.place()[0])
    return f"{words} {found}"


def patience(words: str) -> str:
    """What a process does: it says how many seconds it would wait for the others."""
    import torch
    from torch.distributed.distributed_c10d import _get_default_group

    processes.accelerator(torch.device("cpu"), ComputeConfig())
    waits = _get_default_group()._get_backend(torch.device("cpu")).options._timeout
    return f"{words} {waits.total_seconds():.0f}"


def refuse(words: str) -> str:
    """All processes find the same fault."""
    raise CheckpointError(words)


def break_last(words: str) -> str:
    """The last process crashes while the others wait for it."""
    return _raise_last(KeyError(words), met=True)


def break_early(words: str) -> str:
    """The last process crashes before the others can know of it by a broken connection."""
    return _raise_last(KeyError(words), met=False)


def refuse_last(words: str) -> str:
    """The last process finds a fault in its own copy of what all read; the others wait to meet it."""
    return _raise_last(CheckpointError(words), met=False)


def refuse_late(words: str) -> str:
    """The last process finds a fault that the others do not, who have met it."""
    return _raise_last(CheckpointError(words), met=True)


def _raise_last(error: Exception, met: bool) -> str:
    import torch

    rank, world = processes.place()
    if met:
        torch.distributed.init_process_group("gloo")
        torch.distributed.barrier()
    if rank == world - 1:
        raise error
    if not met:
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=90))
    torch.distributed.barrier()
    return "all went well"
