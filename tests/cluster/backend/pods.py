"""Attempts at tasks, each by the command line that was registered, in an empty folder and processes of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flyteidl.core.errors_pb2 import ContainerError, ErrorDocument
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate
from fsspec import AbstractFileSystem

from tests.cluster.backend.state import Attempt, Execution

Outcome: TypeAlias = LiteralMap | DynamicJobSpec | ContainerError
END_OF_LOG = 2000  # bytes that the error of a process shows which says nothing itself


class Pods:
    """Runs attempts, so many at a time.

    Args:
        files: the object store
        prefix: the address in it under which executions keep what they make
        root: a folder of this machine for logs and for the folders in which attempts run
        variables: of every attempt's environment
        at_once: attempts
        forks: the folder of `Forks`, whose programs start processes faster; not for an execution that was given
            variables, since libraries may read them when they are imported
    """

    def __init__(
        self,
        files: AbstractFileSystem,
        prefix: str,
        root: Path,
        variables: Mapping[str, str],
        at_once: int,
        forks: Path,
    ) -> None:
        self._files, self._prefix, self._root, self._variables = files, prefix, root, variables
        self._slots = threading.BoundedSemaphore(at_once)
        self._forks = forks
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[bytes]] = []
        self._closed = False

    def run(
        self, execution: Execution, task: TaskTemplate, attempt: Attempt, inputs: LiteralMap, variables: dict[str, str]
    ) -> Outcome:
        """Runs an attempt to its end and returns what it leaves: outputs, nodes to run instead, or an error."""
        place = f"{self._prefix}/metadata/{execution.name}/{attempt.node}"
        raw = f"{self._prefix}/raw/{execution.name}-{attempt.node}"
        self._files.pipe_file(f"{place}/inputs.pb", inputs.SerializeToString())
        templates = {
            "{{.input}}": f"{place}/inputs.pb",
            "{{.outputPrefix}}": f"{place}/{attempt.number}",
            "{{.rawOutputDataPrefix}}": f"{raw}-{attempt.number}",
            "{{.checkpointOutputPrefix}}": f"{raw}-{attempt.number}/checkpoint",
            "{{.prevCheckpointPrefix}}": f"{raw}-{attempt.number - 1}/checkpoint" if attempt.number else "",
        }
        words = [*task.container.command, *task.container.args]
        attempt.command = [templates.get(word, word) for word in words]
        attempt.log = self._root / f"{execution.name}-{attempt.node}-{attempt.number}.log"
        own = {each.key: each.value for each in task.container.env}
        given = {each.key: each.value for each in execution.spec.envs.values}
        with self._slots, tempfile.TemporaryDirectory(dir=self._root, ignore_cleanup_errors=True) as folder:
            path = [*([] if given else [str(self._forks)]), str(Path(sys.executable).parent), os.environ["PATH"]]
            here = {"HOME": folder, "TMPDIR": folder, "PATH": os.pathsep.join(path)}
            execution.attempts.append(attempt)  # which from now on is read by others
            known = dict(self._variables) | here | _described(execution, task, attempt)
            variables = known | own | given | variables
            failure = self._process(attempt, folder, variables, task.metadata.timeout.seconds)
        found = failure or self._left(f"{place}/{attempt.number}") or _vanished(attempt)
        attempt.outcome = found.code if isinstance(found, ContainerError) else "SUCCEEDED"
        return found

    def close(self) -> None:
        """Kills what runs, and lets nothing begin any more."""
        with self._lock:
            self._closed = True
            for process in self._running:
                _kill(process)

    def _process(self, attempt: Attempt, folder: str, variables: dict[str, str], seconds: int) -> ContainerError | None:
        """Runs the command of an attempt; whatever it has started ends with it."""
        assert attempt.log is not None
        began = time.monotonic()
        with self._lock, attempt.log.open("wb") as log:
            if self._closed:
                return ContainerError(code="Closed", message="the backend is closed")
            process = subprocess.Popen(
                attempt.command,
                cwd=folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
            self._running.append(process)
        attempt.group = process.pid
        try:
            process.wait(seconds or None)
        except subprocess.TimeoutExpired:
            message = f"the task ran for more than {seconds} s"
            return ContainerError(code="TimeoutExpired", message=message, kind=ContainerError.RECOVERABLE)
        finally:
            with self._lock:
                self._running.remove(process)
            _kill(process)
            attempt.seconds = time.monotonic() - began
        return None

    def _left(self, place: str) -> Outcome | None:
        """Reads what an attempt has left in the object store."""
        kinds = (("error.pb", ErrorDocument), ("outputs.pb", LiteralMap), ("futures.pb", DynamicJobSpec))
        for name, message in kinds:
            with suppress(FileNotFoundError):
                found = message.FromString(self._files.cat_file(f"{place}/{name}"))
                return found.error if isinstance(found, ErrorDocument) else found
        return None


def _vanished(attempt: Attempt) -> ContainerError:
    """The error of an attempt that has left nothing."""
    assert attempt.log is not None
    end = attempt.log.read_bytes()[-END_OF_LOG:].decode(errors="replace")
    message = f"the process of {attempt.task} has left neither outputs nor an error\n{end}"
    return ContainerError(code="ContainerExited", message=message, kind=ContainerError.RECOVERABLE)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _described(execution: Execution, task: TaskTemplate, attempt: Attempt) -> dict[str, str]:
    """The variables by which flytekit in a pod knows what it runs."""
    project, domain = execution.id.project, execution.id.domain
    parts = {"PROJECT": task.id.project, "DOMAIN": task.id.domain, "NAME": task.id.name, "VERSION": task.id.version}
    return {
        **{f"FLYTE_INTERNAL_{name}": value for name, value in parts.items()},
        **{f"FLYTE_INTERNAL_TASK_{name}": value for name, value in parts.items()},
        "FLYTE_INTERNAL_IMAGE": task.container.image,
        "FLYTE_INTERNAL_EXECUTION_PROJECT": project,
        "FLYTE_INTERNAL_EXECUTION_DOMAIN": domain,
        "FLYTE_INTERNAL_EXECUTION_ID": execution.name,
        "FLYTE_INTERNAL_EXECUTION_WORKFLOW": f"{project}:{domain}:{execution.started.name}",
        "FLYTE_INTERNAL_EXECUTION_LAUNCHPLAN": f"{project}:{domain}:{execution.spec.launch_plan.name}",
        "FLYTE_ATTEMPT_NUMBER": str(attempt.number),
    }
