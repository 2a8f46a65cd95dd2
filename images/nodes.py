"""A task that several machines share: a PyTorchJob of the Kubeflow training operator, as Flyte starts one.

This has what the task's template needs of flytekitplugins-kfpytorch. The plugin itself would import torch and a client
of Kubernetes whenever a workflow is loaded. It fixes the number of machines when the task is defined. It also calls the
task in each process, so all processes of a machine would fetch the inputs into one place.
"""

from dataclasses import dataclass

from flyteidl.plugins.kubeflow.common_pb2 import CLEANPOD_POLICY_RUNNING, RunPolicy
from flyteidl.plugins.kubeflow.pytorch_pb2 import (
    DistributedPyTorchTrainingReplicaSpec,
    DistributedPyTorchTrainingTask,
    ElasticConfig,
)
from flytekit import PythonFunctionTask
from flytekit.configuration import SerializationSettings
from flytekit.extend import TaskPlugins
from google.protobuf.json_format import MessageToDict

ENDPOINT = "PET_RDZV_ENDPOINT"  # the variable in which the operator says where the pods of a job meet


@dataclass(frozen=True)
class Nodes:
    """A `task_config`: the task is called once on each of so many machines, which start so many processes."""

    count: int
    processes: int = 1


class NodesTask(PythonFunctionTask[Nodes]):  # type: ignore[misc]  # flytekit has no types
    """A task whose `task_config` is Nodes; a call in a dynamic task can override it."""

    def __init__(self, task_config: Nodes, task_function: object, **options: object) -> None:
        """Takes what `@task` gives it."""
        # Version 1 of the type is the one whose content is the message below.
        super().__init__(task_config, task_function, task_type="pytorch", task_type_version=1, **options)

    def get_custom(self, settings: SerializationSettings) -> dict[str, object]:
        """Returns what the operator is asked for."""
        nodes = self.task_config
        job = DistributedPyTorchTrainingTask(
            worker_replicas=DistributedPyTorchTrainingReplicaSpec(replicas=nodes.count),
            elastic_config=ElasticConfig(
                rdzv_backend="c10d",
                min_replicas=nodes.count,
                max_replicas=nodes.count,
                nproc_per_node=nodes.processes,
                max_restarts=0,  # a failure is Flyte's to retry
            ),
            # Of a job that has failed, the pods that have not must not keep their GPUs.
            run_policy=RunPolicy(clean_pod_policy=CLEANPOD_POLICY_RUNNING),
        )
        found: dict[str, object] = MessageToDict(job)
        return found


TaskPlugins.register_pythontask_plugin(Nodes, NodesTask)
