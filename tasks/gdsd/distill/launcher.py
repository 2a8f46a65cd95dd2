"""Starts the processes that share an epoch, on one machine or more, and learns how their work ended."""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing import forkserver
from pathlib import Path
from typing import TypeVar

import torch
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tasks.gdsd.distill import failures
from tasks.gdsd.distill.failures import FailureReport
from tasks.gdsd.distill.machines import Machines, Told, VanishedError
from tasks.gdsd.distill.processes import place
from tasks.gdsd.errors import ConfigError, StorageError
from tasks.gdsd.sandbox import lifeline

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # that ask a process to end
PRELOADED = ("tasks.gdsd.distill.tied", "tasks.gdsd.distill.epoch")

# It warns of each process that it ends; why that is so is said elsewhere.
logging.getLogger(DefaultLogsSpecs.__module__).setLevel(logging.ERROR)

Arguments = TypeVar("Arguments")
Result = TypeVar("Result")


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
        StorageError: the temporary folder takes no sockets.
        GdsdError: the work refuses its input.
        SharedShortageError: memory does not suffice for the micro-batches. On all machines.
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
    results, failure = _share(work, arguments, processes, machines)
    if machines is not None:
        failure = machines.agree(Told(first=0 in results, failure=failure))
    if failure is not None:
        raise failure.exception()
    return next(iter(results.values()))


def _share(
    work: Callable[[Arguments], Result], arguments: Arguments, processes: int, machines: Machines | None
) -> tuple[dict[int, Result], FailureReport | None]:
    """Has new processes do the work.

    Returns:
        What those of this machine return, by their numbers among all; and how the work failed, if it did.
    """
    threads = max(1, torch.get_num_threads() // processes)
    with tempfile.TemporaryDirectory(prefix="gdsd-processes-") as name, _importable(), _signals() as unhandled:
        folder = Path(name)
        settings = _settings(processes, machines, folder, unhandled)
        try:
            with nullcontext() if machines is None else machines.listening(_end):
                results = elastic_launch(settings, _serve)(work, arguments, threads, folder)
        except SignalException as error:
            if machines is not None:
                machines.leave()
            raise VanishedError(f"this machine was taken away ({error}); the work can be tried again") from error
        except (ChildFailedError, RendezvousError) as error:
            return {}, _failure(error, folder, processes)
        except Exception as error:
            if machines is None:
                raise
            return {}, FailureReport.of(error)  # which the others wait to hear
        return results, next(iter(failures.collect(folder).values()), None)


def _settings(processes: int, machines: Machines | None, folder: Path, signals: str) -> LaunchConfig:
    """Returns what torch's launcher needs to know, with a folder for its own files and the signals that it handles."""
    # Copies of this process, with its threads and perhaps a GPU, would not work, and imports take longer than a small
    # epoch: without GPUs, processes are copies of one that has imported all this and done nothing, and is started once.
    # With them that is left alone, since a library that only asks for a GPU on import spoils it for the copies.
    method = "spawn" if torch.cuda.device_count() else "forkserver"
    if method == "forkserver":
        multiprocessing.set_forkserver_preload(["__main__", *PRELOADED])
        # It keeps what is blocked here. A terminal sends Ctrl-C to it too, which would otherwise show its imports.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        except OSError as error:
            raise StorageError(
                f"{tempfile.gettempdir()} is no place for the sockets of distill.compute.processes ({error}); set "
                "TMPDIR to a folder with a path of at most 60 characters"
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    count = 1 if machines is None else machines.count
    return LaunchConfig(
        min_nodes=count,
        max_nodes=count,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex if machines is None else machines.talk,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0" if machines is None else machines.endpoint,
        local_addr="127.0.0.1" if machines is None else machines.address,
        max_restarts=0,  # a failure is Flyte's to retry
        monitor_interval=0.1,
        start_method=method,
        logs_specs=DefaultLogsSpecs(str(folder / "logs")),
        signals_to_handle=signals,
    )


@contextmanager
def _signals() -> Iterator[str]:
    """Names the signals that nothing handles or ignores, and takes them back from torch's launcher in the end.

    It ends the processes and raises `SignalException`. Where a signal is handled already, what the handler raises ends
    the processes too.
    """
    unhandled = [one for one in SIGNALS if signal.getsignal(one) == signal.SIG_DFL]
    try:
        yield ",".join(one.name for one in unhandled)
    finally:
        if threading.current_thread() is threading.main_thread():  # the only one in which handlers are set
            for one in unhandled:
                signal.signal(one, signal.SIG_DFL)


def _failure(error: ChildFailedError | RendezvousError, folder: Path, processes: int) -> FailureReport:
    """Returns the first report of the processes, or what their launcher says, with the stories of all."""
    reports = failures.collect(folder)
    ended = error.failures.values() if isinstance(error, ChildFailedError) else ()
    killed = any(one.exitcode == -signal.SIGKILL for one in ended)
    first = next(iter(reports.values()), FailureReport.of(error))
    kind = "loss" if killed and first.kind == "crash" else first.kind  # the others lose a connection
    how = "was killed, or lost what may be there the next time" if kind == "loss" else "failed"
    stories = [f"process {number}: {report.story}" for number, report in reports.items()] or [first.story]
    story = "\n".join([f"one of {processes} processes {how}.", *stories])
    return first.model_copy(update={"kind": kind, "story": story})


def _serve(work: Callable[[Arguments], Result], arguments: Arguments, threads: int, folder: Path) -> Result | None:
    """What a new process does: the work, or a report why not, before the others see a broken connection.

    After an error of the project it ends in good order. All processes raise the same one, and the first may still be
    writing evidence; the launcher would end it if another process failed.
    """
    if (starter := multiprocessing.parent_process()) is not None:
        lifeline.hold_on_to(starter.sentinel)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # accelerate would choose another number
    torch.set_num_threads(threads)
    try:
        return work(arguments)
    except BaseException as error:
        report = FailureReport.of(error)
        failures.leave(report, folder, place()[0])
        if report.kind != "refusal":
            raise
        return None
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


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
