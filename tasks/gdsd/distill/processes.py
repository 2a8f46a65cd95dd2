"""Several processes that share an epoch, on one machine or more, each with a part of the groups, agreeing by sums."""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import AutocastKwargs, InitProcessGroupKwargs
from torch import Tensor
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.tensor import DTensor

from tasks.gdsd import transient
from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.distill.machines import HEAR_SECONDS, ElsewhereError, Machines, Told, VanishedError, cause, speaker
from tasks.gdsd.errors import ConfigError, GdsdError

PRELOADED = "tasks.gdsd.distill.epoch"
PASSING = ".passing"  # ends the name of a report of an error that may not come again
LOST = "was killed, or lost what may be there the next time"
BUCKET_BYTES = 2**26  # gradients that travel at once: few messages, and little memory beside the gradients


class ProcessError(RuntimeError):
    """Processes that share an epoch have failed: the message has what they said."""


class LostProcessError(ProcessError):
    """One was killed from outside, or lost what may be there the next time, such as its GPU."""


Arguments = TypeVar("Arguments")
Result = TypeVar("Result")


def accelerator(device: torch.device, compute: ComputeConfig) -> Accelerator:
    """Returns accelerate's view of this process, among others where it was launched with them."""
    # accelerate keeps one precision per process, but the epochs of a comparison may differ in it.
    AcceleratorState._reset_state()
    precision = "bf16" if compute.precision == "bfloat16" else "no"
    # A pass uses each weight once, so copies of all in half precision would be kept for nothing.
    uncached = AutocastKwargs(cache_enabled=False)
    # The others wait while the first one stores an epoch's state. A machine that fails ends them all before that.
    patient = InitProcessGroupKwargs(timeout=timedelta(seconds=HEAR_SECONDS))
    return Accelerator(cpu=device.type == "cpu", mixed_precision=precision, kwargs_handlers=[uncached, patient])


def place() -> tuple[int, int]:
    """Returns this process's number, from 0, and how many share the work."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def add_up(numbers: Sequence[float], accelerator: Accelerator) -> list[float]:
    """Sums numbers over the processes, in float64; all processes get the same."""
    if accelerator.num_processes == 1:
        return list(numbers)
    mine = torch.tensor(numbers, dtype=torch.float64, device=accelerator.device)
    total: list[float] = accelerator.reduce(mine, "sum").tolist()
    return total


def gather(value: Result, accelerator: Accelerator) -> list[Result]:
    """Returns every process's value, in all processes."""
    if accelerator.num_processes == 1:
        return [value]
    values: list[Result | None] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(values, value)
    return cast(list[Result], values)


def add_up_gradients(
    parameters: Sequence[torch.nn.Parameter], present: Sequence[bool], accelerator: Accelerator
) -> None:
    """Sums gradients over the processes in place; all processes get the same.

    Args:
        present: whether any process has a gradient of each parameter; where none has, there is none afterwards.
    """
    if accelerator.num_processes == 1:
        return
    gradients: list[Tensor] = []
    for parameter, anywhere in zip(parameters, present, strict=True):
        if anywhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if not isinstance(parameter.grad, DTensor):  # the gradients of spread weights are sums already
                gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        total = accelerator.reduce(torch.cat([gradient.flatten() for gradient in bucket]), "sum")
        for gradient, summed in zip(bucket, total.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Puts tensors of one dtype together, in order, up to BUCKET_BYTES."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or sum(t.nbytes for t in bucket) + tensor.nbytes > BUCKET_BYTES):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def launch(
    work: Callable[[Arguments], Result], arguments: Arguments, processes: int, machines: Machines | None = None
) -> Result:
    """Does a piece of work in this process, or in several new ones that share it, and returns the first one's result.

    Args:
        work: a function of a module, which every process calls with the same arguments, as far as they are picklable.
        processes: how many on this machine.
        machines: those that share the work; all call this, each with arguments of its own, such as folders.

    Raises:
        ConfigError: there are GPUs, but fewer than processes.
        GdsdError: whatever the work raises of it.
        ProcessError: a process failed in another way; its traceback is in the message. On all machines.
        LostProcessError: it did so through no fault of the work. On all machines.
        ElsewhereError: another of the machines has the result, or raises the error of the project.
        VanishedError: this machine, or another, was taken away.
    """
    if processes == 1 and machines is None:
        return work(arguments)
    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise ConfigError(
            f"distill.compute.processes {processes} exceeds the {gpus} GPUs of this machine, and each process needs "
            f"one (a local run has those of all distill.compute.nodes here); use at most {gpus}, or a larger machine"
        )
    count = 1 if machines is None else machines.count
    config = LaunchConfig(
        min_nodes=count,
        max_nodes=count,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex if machines is None else machines.talk,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0" if machines is None else machines.endpoint,
        local_addr="127.0.0.1" if machines is None else machines.address,
        max_restarts=0,  # a failure is Flyte's to retry
        monitor_interval=0.1,
        start_method="spawn" if gpus else "forkserver",
    )
    # Copies of this process, with its threads and perhaps a GPU, would not work, and imports take longer than a small
    # epoch: without GPUs, processes are copies of one that has imported all this and done nothing, and is started once.
    # With them that is left alone, since a library that only asks for a GPU on import spoils it for the copies.
    multiprocessing.set_forkserver_preload(["__main__", PRELOADED])
    threads = max(1, torch.get_num_threads() // processes)
    results: dict[int, Result | GdsdError] = {}
    crash, began = None, time.time()
    with tempfile.TemporaryDirectory(prefix="gdsd-processes-") as reports, _importable():
        try:
            with nullcontext() if machines is None else machines.listening(_end):
                results = elastic_launch(config, _serve)(work, arguments, threads, Path(reports))
        except SignalException as error:
            if machines is not None:
                machines.leave()
            raise VanishedError(f"this machine was taken away ({error}); the work can be tried again") from error
        except (ChildFailedError, RendezvousError) as error:
            said = sorted(Path(reports).iterdir(), key=lambda path: path.stat().st_mtime_ns)  # the cause is the oldest
            began = said[0].stat().st_mtime if said else time.time()
            reasons = "\n".join(f"process {path.stem}: {path.read_text()}" for path in said)
            failures = error.failures.values() if isinstance(error, ChildFailedError) else ()
            killed = any(failure.exitcode == -signal.SIGKILL for failure in failures)
            how = LOST if killed or (said and said[0].suffix == PASSING) else "failed"
            crash = f"one of {processes} processes {how}.\n{reasons or error}"
        except Exception:
            if machines is None:
                raise
            crash = f"the processes could not be started.\n{traceback.format_exc()}"  # which the others wait to hear
    if machines is not None:
        refused = any(isinstance(result, GdsdError) for result in results.values())
        told = machines.tell(Told(0 in results, refused, crash, began))
        speaks = speaker(told)
        if speaks is None:
            crash = cause(told)
        elif speaks != machines.number:
            raise ElsewhereError(f"machine {speaks + 1} of {machines.count} has what came of the work")
        else:
            crash = None
    if crash is not None:
        raise (LostProcessError if f"processes {LOST}." in crash else ProcessError)(crash)
    (first, *_) = results.values()  # an error is the same in all processes
    if isinstance(first, GdsdError):
        raise first
    result: Result = first
    return result


def _end() -> None:
    """Ends the processes that this one has started, which their launcher notices."""
    for process in multiprocessing.active_children():
        process.terminate()


@contextmanager
def _importable() -> Iterator[None]:
    """Puts the project where new processes look for modules: `pyflyte run` has taken it away again by now."""
    kept_path, kept_variable = sys.path.copy(), os.environ.get("PYTHONPATH")
    root = str(Path(__file__).resolve().parents[3])
    sys.path.insert(0, root)
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *([kept_variable] if kept_variable else [])])
    try:
        yield
    finally:
        sys.path[:] = kept_path
        if kept_variable is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = kept_variable


def _serve(
    work: Callable[[Arguments], Result], arguments: Arguments, threads: int, reports: Path
) -> Result | GdsdError:
    """What a new process does. Errors of the project are returned: all processes raise the same, and agree to.

    Others are reported before the connection to the other processes breaks, which is an error to them as well.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)  # accelerate would choose another number
    torch.set_num_threads(threads)
    try:
        return work(arguments)
    except GdsdError as error:
        _report(reports)  # which counts where the others were left alone with it
        return error
    except BaseException as error:
        _report(reports, PASSING if transient.may_pass(error) else "")
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _report(reports: Path, kind: str = "") -> None:
    """Leaves the traceback of what is handled for the process that has started this one."""
    (reports / f"{place()[0]}{kind}").write_text(traceback.format_exc())
