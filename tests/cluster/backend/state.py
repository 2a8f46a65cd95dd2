"""What was registered, and what became of executions.

The threads of the backend write here and tests read. Each object has one thread that writes it, that of its node or its
execution; what several threads share is a list or a mapping that only grows.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flyteidl.admin.execution_pb2 import ExecutionSpec
from flyteidl.admin.launch_plan_pb2 import LaunchPlan
from flyteidl.core.compiler_pb2 import CompiledTask, CompiledWorkflow, CompiledWorkflowClosure
from flyteidl.core.execution_pb2 import ExecutionError
from flyteidl.core.identifier_pb2 import Identifier, WorkflowExecutionIdentifier
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.core.tasks_pb2 import TaskTemplate
from flyteidl.core.workflow_pb2 import Node, WorkflowTemplate

Key = tuple[str, str, str, str]
ENDS = ("start-node", "end-node")  # of every workflow, where nothing is done


def key_of(identifier: Identifier) -> Key:
    """Returns what tells a registered thing from others of its type."""
    return (identifier.project, identifier.domain, identifier.name, identifier.version)


@dataclass
class Attempt:
    """One try at a task: what a pod would be; or, if `cached`, what was spared."""

    node: str
    task: str
    number: int = 0  # counted from 0
    command: list[str] = field(default_factory=list)
    log: Path | None = None
    key: str | None = None  # by which its outputs are found again, if they are kept
    serialised: bool = False  # whether another that has the same key waits for this one
    cached: bool = False
    outcome: str = ""  # SUCCEEDED, CACHED, or the code of its error; empty while it runs
    seconds: float = 0.0
    group: int | None = None  # of its processes, once they run

    def option(self, name: str) -> str:
        """Returns what the command line says of an option."""
        return self.command[self.command.index(name) + 1]

    def kill(self) -> None:
        """Kills its processes as a machine that is taken away does."""
        if self.group is not None:
            os.killpg(self.group, signal.SIGKILL)


@dataclass
class NodeRun:
    """A node of an execution; an item of a map has one too, whose path begins with that of the map."""

    path: str
    kind: str  # task_node or array_node
    inputs: LiteralMap
    outputs: LiteralMap | None = None
    phase: str = "RUNNING"  # SUCCEEDED, FAILED


@dataclass
class Execution:
    """A workflow, or a task by itself, that was started."""

    id: WorkflowExecutionIdentifier
    spec: ExecutionSpec
    started: Identifier
    inputs: LiteralMap
    phase: str = "RUNNING"  # SUCCEEDED, FAILED
    outputs: LiteralMap | None = None
    error: ExecutionError | None = None
    attempts: list[Attempt] = field(default_factory=list)
    nodes: dict[str, NodeRun] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        """Its own, not that of the workflow."""
        return self.id.name


@dataclass
class Registry:
    """What was registered."""

    tasks: dict[Key, TaskTemplate] = field(default_factory=dict)
    workflows: dict[Key, WorkflowTemplate] = field(default_factory=dict)
    plans: dict[Key, LaunchPlan] = field(default_factory=dict)
    executions: dict[str, Execution] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)  # the addresses that clients were given for their files

    def versions(self, name: Identifier) -> list[LaunchPlan]:
        """Returns the versions of a launch plan."""
        wanted = (name.project, name.domain, name.name)
        return [plan for (*known, _), plan in list(self.plans.items()) if tuple(known) == wanted]

    def compiled(self, workflow: WorkflowTemplate) -> CompiledWorkflowClosure:
        """Returns a workflow with its tasks.

        Raises:
            ValueError: one of them is not registered.
        """
        keys = sorted({key_of(node.task_node.reference_id) for node in _nodes(workflow)})
        missing = [key for key in keys if key not in self.tasks]
        if missing:
            raise ValueError(f"{workflow.id.name} has tasks that are not registered: {missing}")
        return CompiledWorkflowClosure(
            primary=CompiledWorkflow(template=workflow), tasks=[CompiledTask(template=self.tasks[key]) for key in keys]
        )


def _nodes(workflow: WorkflowTemplate) -> Iterator[Node]:
    """The nodes of a workflow that call tasks."""
    for node in [*workflow.nodes, *([workflow.failure_node] if workflow.HasField("failure_node") else [])]:
        if node.HasField("task_node"):
            yield node
        elif node.id not in ENDS:
            raise ValueError(f"{workflow.id.name}: this backend has no {node.WhichOneof('target')} in a workflow")
