"""What runs next: a workflow's nodes once those before them are done, from the cache or as attempts at their tasks."""

import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flyteidl.core.errors_pb2 import ContainerError
from flyteidl.core.execution_pb2 import ExecutionError
from flyteidl.core.identifier_pb2 import TASK
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.workflow_pb2 import Node, TaskNode

from tests.cluster.backend.literals import bind, cache_key, gathered, items_of, with_error
from tests.cluster.backend.pods import Pods
from tests.cluster.backend.state import ENDS, Attempt, Execution, Key, NodeRun, Registry, key_of

ITEM = "FLYTE_K8S_ARRAY_INDEX"  # the variable that says which item of a map a process has


class NodeError(Exception):
    """A node has failed for good."""

    def __init__(self, node: str, code: str, message: str) -> None:
        super().__init__(node, code, message)
        self.node, self.code, self.message = node, code, message


@dataclass(frozen=True)
class Scope:
    """What the nodes of a workflow, or of a dynamic task, see around them."""

    execution: Execution
    tasks: dict[Key, TaskTemplate]
    inputs: LiteralMap
    path: str = ""  # begins those of its nodes

    @contextmanager
    def running(self, name: str, kind: str, inputs: LiteralMap) -> Iterator[NodeRun]:
        """Keeps that a node runs, and how it ends."""
        node = NodeRun(f"{self.path}{name}", kind, inputs)
        self.execution.nodes[node.path] = node
        try:
            yield node
        except NodeError:
            node.phase = "FAILED"
            raise
        node.phase = "SUCCEEDED"


@dataclass(frozen=True)
class Call:
    """A task with its inputs, which are not those of its process where it is an item of a map."""

    node: NodeRun
    task: TaskTemplate
    retried: int  # times, if the node says so; otherwise as the task says
    given: LiteralMap  # to the process
    item: int | None = None

    @property
    def retries(self) -> int:
        """How often the task is tried again."""
        return self.retried or self.task.metadata.retries.retries


class Engine:
    """Runs executions, each in a thread of its own."""

    def __init__(self, registry: Registry, pods: Pods) -> None:
        self._registry, self._pods = registry, pods
        self._cache: dict[str, LiteralMap] = {}
        self._turns: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def start(self, execution: Execution) -> None:
        """Begins an execution of what is registered."""
        threading.Thread(target=self._run, args=(execution,), daemon=True).start()

    def _run(self, execution: Execution) -> None:
        scope = Scope(execution, dict(self._registry.tasks), execution.inputs)
        phase = "FAILED"
        try:
            if execution.started.resource_type == TASK:
                node = Node(id="n0", task_node=TaskNode(reference_id=execution.started))
                execution.outputs = self._node(scope, node, scope.inputs)
            else:
                execution.outputs = self._workflow(scope)
            phase = "SUCCEEDED"
        except NodeError as error:
            execution.error = ExecutionError(code=error.code, message=error.message, kind=ExecutionError.USER)
        except Exception:  # a fault of this backend, which a test should see at once
            execution.error = ExecutionError(code="Backend", message=traceback.format_exc(), kind=ExecutionError.SYSTEM)
        finally:
            execution.phase = phase
            execution.seconds = time.monotonic() - execution.began
            execution.ended.set()

    def _workflow(self, scope: Scope) -> LiteralMap:
        workflow = self._registry.workflows[key_of(scope.execution.started)]
        try:
            return bind(workflow.outputs, scope.inputs, self._nodes(scope, workflow.nodes))
        except NodeError as error:
            if workflow.HasField("failure_node"):
                node = workflow.failure_node
                task = scope.tasks[key_of(node.task_node.reference_id)]
                inputs = with_error(bind(node.inputs, scope.inputs, {}), task, error.node, error.message)
                self._node(scope, node, inputs)
            raise

    def _nodes(self, scope: Scope, nodes: Iterable[Node]) -> dict[str, LiteralMap]:
        """Runs nodes, each as soon as it can be; after a failure none is begun, and those that run may end."""
        waiting = {node.id: node for node in nodes if node.id not in ENDS}
        needed = {name: waiting.keys() & set(node.upstream_node_ids) for name, node in waiting.items()}
        done: dict[str, LiteralMap] = {}
        running: dict[Future[LiteralMap], str] = {}
        failed: NodeError | None = None
        with ThreadPoolExecutor(len(waiting) or 1) as threads:
            while True:
                for name in [name for name in waiting if not failed and needed[name] <= done.keys()]:
                    node = waiting.pop(name)
                    running[threads.submit(self._node, scope, node, bind(node.inputs, scope.inputs, done))] = name
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    name = running.pop(future)
                    try:
                        done[name] = future.result()
                    except NodeError as error:
                        failed = failed or error
        if failed is not None:
            raise failed
        return done

    def _node(self, scope: Scope, node: Node, inputs: LiteralMap) -> LiteralMap:
        kind = node.WhichOneof("target")
        with scope.running(node.id, kind, inputs) as run:
            if kind == "task_node":
                task = scope.tasks[key_of(node.task_node.reference_id)]
                run.outputs = self._task(scope, Call(run, task, node.metadata.retries.retries, inputs))
            elif kind == "array_node":
                run.outputs = self._map(scope, node, run)
            else:
                raise NotImplementedError(f"{run.path}: this backend has no {kind}")
            return run.outputs

    def _map(self, scope: Scope, node: Node, run: NodeRun) -> LiteralMap:
        """Runs every item, and fails after that if one has failed."""
        inner = node.array_node.node
        task = scope.tasks[key_of(inner.task_node.reference_id)]
        items = items_of(run.inputs, node.array_node.bound_inputs)

        def run_item(number: int) -> LiteralMap:
            with scope.running(f"{node.id}-{number}", "task_node", items[number]) as item:
                call = Call(item, task, inner.metadata.retries.retries, run.inputs, number)
                item.outputs = self._task(scope, call)
                return item.outputs

        with ThreadPoolExecutor(len(items) or 1) as threads:
            running = [threads.submit(run_item, number) for number in range(len(items))]
        try:
            return gathered([each.result() for each in running], task.interface.outputs.variables)
        except NodeError as error:
            raise NodeError(run.path, error.code, error.message) from error

    def _task(self, scope: Scope, call: Call) -> LiteralMap:
        """Takes outputs from the cache, or computes them; of equal calls that are serialised, one computes them."""
        metadata = call.task.metadata
        if not metadata.discoverable:
            return self._attempts(scope, call, None)
        key = cache_key(call.task, call.node.inputs)
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock()) if metadata.cache_serializable else nullcontext()
        with turn:
            if key in self._cache:
                attempt = _attempt(call, 0, key)
                attempt.cached, attempt.outcome = True, "CACHED"
                scope.execution.attempts.append(attempt)
            else:
                self._cache[key] = self._attempts(scope, call, key)
            return self._cache[key]

    def _attempts(self, scope: Scope, call: Call, key: str | None) -> LiteralMap:
        """Tries a task until it leaves something, or an error that is not worth another attempt."""
        item = {} if call.item is None else {"BATCH_JOB_ARRAY_INDEX_VAR_NAME": ITEM, ITEM: str(call.item)}
        number = 0
        while True:
            attempt = _attempt(call, number, key)
            found = self._pods.run(scope.execution, call.task, attempt, call.given, item)
            if isinstance(found, LiteralMap):
                return found
            if isinstance(found, DynamicJobSpec):
                tasks = scope.tasks | {key_of(task.id): task for task in found.tasks}
                inner = Scope(scope.execution, tasks, call.given, f"{call.node.path}-{number}-")
                return bind(found.outputs, call.given, self._nodes(inner, found.nodes))
            if found.kind != ContainerError.RECOVERABLE or number == call.retries:
                raise NodeError(call.node.path, found.code, found.message)
            number += 1


def _attempt(call: Call, number: int, key: str | None) -> Attempt:
    serialised = call.task.metadata.cache_serializable
    return Attempt(call.node.path, call.task.id.name, number, key=key, serialised=serialised)
