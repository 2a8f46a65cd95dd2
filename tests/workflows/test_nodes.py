"""Several machines of a cluster: what is asked for them, and an epoch that two of them share, as their pods would."""

import json
import os
import subprocess
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from flyteidl.core.dynamic_job_pb2 import DynamicJobSpec
from flyteidl.core.literals_pb2 import LiteralMap
from flyteidl.core.tasks_pb2 import Resources as ResourcesIdl
from flyteidl.core.tasks_pb2 import TaskTemplate
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.tools.translator import get_serializable
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from google.protobuf.json_format import MessageToDict

from tasks.distill import distill_epoch_on_nodes
from tasks.gdsd import tables
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.distill.epoch import Epoch, train
from tasks.gdsd.errors import ConfigError
from tests.gdsd.epochs import GROUP, computed, rewarded, weights
from tests.gdsd.shared_epochs import Case, start_of
from tests.gdsd.shared_machines import free_endpoint
from tests.workflows.conftest import PYFLYTE, ROOT, environment
from tests.workflows.test_compiled import SETTINGS, unroll
from tests.workflows.test_hardware import KINDS, amounts, by_task
from workflows.rounds import run_leg


def round_of(folder: Path, kind: str, nodes: int, processes: int, spot: bool = True) -> DynamicJobSpec:
    """What a cluster is given for a round whose epoch so many machines share."""
    (folder / "table").write_text("")
    policy, table = FlyteDirectory(str(folder)), FlyteFile(str(folder / "table"))
    written = {
        "hardware": {"distill": {"kind": kind, "spot": spot}},
        "distill": {"compute": {"nodes": nodes, "processes": processes}},
    }
    config = TrainConfig.model_validate_json(json.dumps(written))
    where = {"policy": policy, "best": policy, "base": policy, "train": table, "problems": table, "validation": []}
    what = {"first": 0, "end": 1, "evaluated": False, "progress": [], "began": 0.0, "asked": "validation"}
    return unroll(run_leg, where | what | {"config": config, "engine": config.rollout.engine})


def template(spec: DynamicJobSpec, name: str) -> TaskTemplate:
    (found,) = [task for task in spec.tasks if task.id.name == f"tasks.distill.{name}"]
    return found


@pytest.mark.parametrize(("kind", "nodes"), [*((kind, 2) for kind in KINDS), ("h100", 4)])
def test_machines_of_each_kind_share_an_epoch(kind: str, nodes: int, tmp_path: Path) -> None:
    """If it fails, the operator starts other machines than were asked for, or none, and the epoch waits for them."""
    spec = round_of(tmp_path, kind, nodes, 2)
    job = template(spec, "distill_epoch_on_nodes")
    assert job.type == "pytorch" and job.task_type_version == 1
    assert MessageToDict(job.custom) == {
        "workerReplicas": {"replicas": nodes},
        "elasticConfig": {"rdzvBackend": "c10d", "minReplicas": nodes, "maxReplicas": nodes, "nprocPerNode": 2},
        "runPolicy": {"cleanPodPolicy": "CLEANPOD_POLICY_RUNNING"},
    }
    assert job.metadata.retries.retries == 3 and job.metadata.cache_serializable
    tasks = by_task(list(spec.nodes))
    assert "distill_epoch" not in tasks
    asked, spot = tasks["distill_epoch_on_nodes"]
    cores, gib, accelerator = KINDS[kind]
    expected = {
        ResourcesIdl.CPU: tuple(str(2 * number) for number in cores),
        ResourcesIdl.MEMORY: tuple(f"{2 * number}Gi" for number in gib),
    }
    assert amounts(asked) == expected | ({} if kind == "cpu" else {ResourcesIdl.GPU: ("2", "2")})
    assert asked.extended_resources.gpu_accelerator.device == accelerator
    assert asked.extended_resources.shared_memory.mount_path == "/dev/shm"
    assert asked.container_image == ("gdsd:cpu" if kind == "cpu" else "gdsd:gpu") and spot


def test_one_machine_needs_no_operator(tmp_path: Path) -> None:
    """If it fails, a cluster without the Kubeflow training operator cannot train at all."""
    spec = round_of(tmp_path, "h100", 1, 8)
    assert template(spec, "distill_epoch").type == "python-task"
    assert not [task for task in spec.tasks if task.type == "pytorch"]


def test_one_process_on_each_of_four_machines_that_stay(tmp_path: Path) -> None:
    """If it fails, machines with one GPU are no use together, or are taken away although that was ruled out."""
    spec = round_of(tmp_path, "a10g", 4, 1, spot=False)
    elastic = MessageToDict(template(spec, "distill_epoch_on_nodes").custom)["elasticConfig"]
    assert (elastic["minReplicas"], elastic["nprocPerNode"]) == (4, 1)
    asked, spot = by_task(list(spec.nodes))["distill_epoch_on_nodes"]
    assert amounts(asked)[ResourcesIdl.GPU] == ("1", "1") and not spot
    assert not asked.extended_resources.shared_memory.mount_path


def test_a_pod_without_the_operator_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a pod waits for machines that nobody starts."""
    monkeypatch.delenv("PET_RDZV_ENDPOINT", raising=False)
    with pytest.raises(ConfigError, match=r"nodes 2.*PET_RDZV_ENDPOINT.*Kubeflow.*pytorch"):
        distill_epoch_on_nodes.task_function(
            FlyteDirectory(str(tmp_path)), FlyteDirectory(str(tmp_path)), FlyteFile(""), computed(nodes=2), 4, 0, 7
        )


@pytest.fixture
def homes() -> Iterator[Path]:
    """A folder with a short name: Python's processes meet at a socket in it, whose address has 107 letters at most."""
    with tempfile.TemporaryDirectory(prefix="pods-") as folder:
        yield Path(folder)


@pytest.mark.whole
def test_two_pods_train_what_one_process_trains(tmp_path: Path, homes: Path) -> None:
    """If it fails, a second machine changes what is learned, or its pod cannot work with the first at all.

    Each pod is a process with the container's own command line, a home and a temporary folder of its own, and what the
    operator sets; what they share is the object store, here the folder `store`.
    """
    start = start_of(Case())
    policy = checkpoint.save(tmp_path / "policy", start)
    table = tables.write(rewarded(start.denoiser), tables.REWARDED, tmp_path / "rewarded.parquet")
    inputs = {
        "policy": FlyteDirectory(str(policy)),
        "base": FlyteDirectory(str(policy)),
        "rewarded": FlyteFile(str(table)),
    }
    inputs |= {"config": computed(nodes=2, sharding="fsdp"), "group_size": GROUP, "round": 0, "seed": 7}
    store = tmp_path / "store"
    store.mkdir()
    context = FlyteContextManager.current_context()
    literals = TypeEngine.dict_to_literal_map(context, inputs, dict(distill_epoch_on_nodes.python_interface.inputs))
    (store / "inputs.pb").write_bytes(literals.to_flyte_idl().SerializeToString())
    compiled = get_serializable(OrderedDict(), SETTINGS, distill_epoch_on_nodes).to_flyte_idl().template
    places = {
        "{{.input}}": f"{store}/inputs.pb",
        "{{.outputPrefix}}": f"{store}/outputs",
        "{{.rawOutputDataPrefix}}": f"{store}/raw",
        "{{.checkpointOutputPrefix}}": f"{store}/raw/checkpoint",
        "{{.prevCheckpointPrefix}}": "",
    }
    program, *words = [places.get(word, word) for word in compiled.container.args]
    endpoint, pods = free_endpoint(), []
    for number in range(2):
        variables = environment(homes / f"{number}") | {"PET_RDZV_ENDPOINT": endpoint, "PYTHONPATH": str(ROOT)}
        log = (tmp_path / f"log-{number}").open("wb")
        command = [str(PYFLYTE.with_name(program)), *words]
        pods.append(
            subprocess.Popen(command, cwd=tmp_path, env=variables | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
        )
    codes = [pod.wait(300) for pod in pods]
    logs = [(tmp_path / f"log-{number}").read_text() for number in range(2)]
    assert codes == [0, 0] and not list(store.rglob("error*.pb")), "\n".join(logs)
    assert sorted("IgnoreOutputs received" in log for log in logs) == [False, True], "\n".join(logs)

    outputs = LiteralMap.FromString((store / "outputs/outputs.pb").read_bytes())
    trained = checkpoint.load(Path(outputs.literals["checkpoint"].scalar.blob.uri), torch.device("cpu"))
    (tmp_path / "alone").mkdir()
    epoch = Epoch(policy, None, table, computed(), GROUP, 0, 7, tmp_path / "alone/trained", tmp_path / "alone/evidence")
    train(epoch)
    expected = checkpoint.load(tmp_path / "alone/trained", torch.device("cpu"))
    torch.testing.assert_close(weights(trained), weights(expected), rtol=0, atol=1e-5)
    assert float((weights(trained) - weights(start)).abs().max()) > 1e-4
    assert trained.record == expected.record and trained.optimizer.keys() == expected.optimizer.keys()
    assert os.listdir(homes / "0/tmp") != os.listdir(homes / "1/tmp")
