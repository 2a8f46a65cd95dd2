"""Flyte's services as its clients call them: FlyteAdmin, and of the data proxy what an upload needs.

The methods have the names of the calls. A call that has none here is refused by gRPC as not implemented.
"""

import base64
import uuid
from collections.abc import MutableMapping
from typing import NoReturn, TypeVar

from flyteidl.admin import execution_pb2 as executions
from flyteidl.admin import launch_plan_pb2 as plans
from flyteidl.admin import task_pb2 as tasks
from flyteidl.admin import workflow_pb2 as workflows
from flyteidl.admin.common_pb2 import ObjectGetRequest
from flyteidl.core.compiler_pb2 import CompiledTask
from flyteidl.core.identifier_pb2 import TASK, Identifier, WorkflowExecutionIdentifier
from flyteidl.service.admin_pb2_grpc import AdminServiceServicer
from flyteidl.service.dataproxy_pb2 import CreateUploadLocationRequest, CreateUploadLocationResponse
from flyteidl.service.dataproxy_pb2_grpc import DataProxyServiceServicer
from fsspec import AbstractFileSystem
from grpc import ServicerContext as Context
from grpc import StatusCode

from tests.cluster.backend.engine import Engine
from tests.cluster.backend.literals import given_to
from tests.cluster.backend.state import Execution, Key, Registry, key_of

Value = TypeVar("Value")


class Admin(AdminServiceServicer):  # type: ignore[misc]  # flyteidl has no types
    """Takes registrations and starts executions."""

    def __init__(self, registry: Registry, engine: Engine) -> None:
        self._registry, self._engine = registry, engine

    def CreateTask(self, request: tasks.TaskCreateRequest, context: Context) -> tasks.TaskCreateResponse:
        """Registers a task."""
        _add(self._registry.tasks, request.id, request.spec.template, context)
        return tasks.TaskCreateResponse()

    def GetTask(self, request: ObjectGetRequest, context: Context) -> tasks.Task:
        """Returns a task, from which clients know the types of its inputs."""
        task = CompiledTask(template=_get(self._registry.tasks, request.id, context))
        return tasks.Task(id=request.id, closure=tasks.TaskClosure(compiled_task=task))

    def CreateWorkflow(
        self, request: workflows.WorkflowCreateRequest, context: Context
    ) -> workflows.WorkflowCreateResponse:
        """Registers a workflow, if its tasks are registered."""
        try:
            self._registry.compiled(request.spec.template)
        except ValueError as error:
            _refuse(context, StatusCode.INVALID_ARGUMENT, str(error))
        for node in request.spec.template.nodes:
            node.upstream_node_ids.sort()  # a set, which flytekit writes in another order each time
        _add(self._registry.workflows, request.id, request.spec.template, context)
        return workflows.WorkflowCreateResponse()

    def GetWorkflow(self, request: ObjectGetRequest, context: Context) -> workflows.Workflow:
        """Returns a workflow and its tasks, from which clients know the types of its inputs."""
        workflow = self._registry.compiled(_get(self._registry.workflows, request.id, context))
        return workflows.Workflow(id=request.id, closure=workflows.WorkflowClosure(compiled_workflow=workflow))

    def CreateLaunchPlan(
        self, request: plans.LaunchPlanCreateRequest, context: Context
    ) -> plans.LaunchPlanCreateResponse:
        """Registers a launch plan, which is not active."""
        workflow = _get(self._registry.workflows, request.spec.workflow_id, context)
        known = self._registry.plans.get(key_of(request.id))
        closure = plans.LaunchPlanClosure(
            state=plans.INACTIVE if known is None else known.closure.state,
            expected_inputs=request.spec.default_inputs,
            expected_outputs=workflow.interface.outputs,
        )
        plan = plans.LaunchPlan(id=request.id, spec=request.spec, closure=closure)
        _add(self._registry.plans, request.id, plan, context)
        return plans.LaunchPlanCreateResponse()

    def GetLaunchPlan(self, request: ObjectGetRequest, context: Context) -> plans.LaunchPlan:
        """Returns a launch plan, active or not."""
        return _get(self._registry.plans, request.id, context)

    def UpdateLaunchPlan(
        self, request: plans.LaunchPlanUpdateRequest, context: Context
    ) -> plans.LaunchPlanUpdateResponse:
        """Activates or deactivates a launch plan; of each name one version is active at most."""
        changed = _get(self._registry.plans, request.id, context)
        for plan in self._registry.versions(request.id):
            plan.closure.state = plans.INACTIVE
        changed.closure.state = request.state
        return plans.LaunchPlanUpdateResponse()

    def GetActiveLaunchPlan(self, request: plans.ActiveLaunchPlanRequest, context: Context) -> plans.LaunchPlan:
        """Returns the version of a launch plan that cron would start."""
        for plan in self._registry.versions(request.id):
            if plan.closure.state == plans.ACTIVE:
                return plan
        _refuse(context, StatusCode.NOT_FOUND, f"no version of {request.id.name} is active")

    def CreateExecution(
        self, request: executions.ExecutionCreateRequest, context: Context
    ) -> executions.ExecutionCreateResponse:
        """Starts a launch plan, of which each workflow has one of its own name, or a task by itself."""
        started, inputs = request.spec.launch_plan, request.inputs
        if started.resource_type == TASK:
            _get(self._registry.tasks, started, context)
        else:
            plan = _get(self._registry.plans, started, context)
            try:
                started, inputs = plan.spec.workflow_id, given_to(plan, inputs)
            except ValueError as error:
                _refuse(context, StatusCode.INVALID_ARGUMENT, str(error))
        name = request.name or f"a{uuid.uuid4().hex[:19]}"
        identifier = WorkflowExecutionIdentifier(project=request.project, domain=request.domain, name=name)
        execution = Execution(identifier, request.spec, started, inputs)
        if self._registry.executions.setdefault(name, execution) is not execution:
            _refuse(context, StatusCode.ALREADY_EXISTS, f"there is an execution {name}")
        self._engine.start(execution)
        return executions.ExecutionCreateResponse(id=identifier)

    def GetExecution(self, request: executions.WorkflowExecutionGetRequest, context: Context) -> executions.Execution:
        """Returns what was started; what becomes of it is read from the backend itself."""
        execution = self._registry.executions[request.id.name]
        closure = executions.ExecutionClosure(workflow_id=execution.started)
        return executions.Execution(id=execution.id, spec=execution.spec, closure=closure)


class DataProxy(DataProxyServiceServicer):  # type: ignore[misc]  # likewise
    """Says where clients put their files: into the object store itself, by an address that it has signed."""

    def __init__(self, registry: Registry, files: AbstractFileSystem, prefix: str) -> None:
        self._registry, self._files, self._prefix = registry, files, prefix

    def CreateUploadLocation(
        self, request: CreateUploadLocationRequest, context: Context
    ) -> CreateUploadLocationResponse:
        """Returns an address for a file, which is the same for the same content."""
        name = request.filename_root or base64.b32encode(request.content_md5).decode().rstrip("=")
        address = f"{self._prefix}/uploads/{request.project}/{request.domain}/{name}/{request.filename}"
        self._registry.uploads.append(address)
        signed = self._files.url(address, client_method="put_object")
        return CreateUploadLocationResponse(signed_url=signed, native_url=address)


def _add(table: MutableMapping[Key, Value], identifier: Identifier, value: Value, context: Context) -> None:
    known = table.setdefault(key_of(identifier), value)
    if known is value:
        return
    if known != value:  # which clients do not take for the same
        message = f"{identifier.name} with different structure already exists, with version {identifier.version}"
        _refuse(context, StatusCode.INVALID_ARGUMENT, message)
    _refuse(context, StatusCode.ALREADY_EXISTS, f"{key_of(identifier)} is registered")


def _get(table: MutableMapping[Key, Value], identifier: Identifier, context: Context) -> Value:
    found = table.get(key_of(identifier))
    if found is None:
        _refuse(context, StatusCode.NOT_FOUND, f"{key_of(identifier)} is not registered")
    return found


def _refuse(context: Context, code: StatusCode, message: str) -> NoReturn:
    context.abort(code, message)
    raise AssertionError("abort raises")
