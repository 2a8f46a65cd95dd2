"""Each built image: its user and packages, and tasks by the command lines that a cluster would be given.

The sources reach the image as they reach a pod, as an archive that flytekit makes of the loaded modules. The outputs
are compared with those of the same tasks on this machine. `make images` builds the images and runs this.
"""

import importlib
import json
import shutil
import subprocess
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgpack
import pytest
import torch
from flyteidl.core.errors_pb2 import ErrorDocument
from flyteidl.core.literals_pb2 import Literal, LiteralMap
from flytekit import FlyteContextManager, PythonFunctionTask
from flytekit.configuration import FastSerializationSettings, Image, ImageConfig, SerializationSettings
from flytekit.constants import CopyFileDetection
from flytekit.core.type_engine import TypeEngine
from flytekit.tools.fast_registration import FastPackageOptions, fast_package
from flytekit.tools.translator import get_serializable
from safetensors.torch import load_file

from tasks.gdsd.config.prompts import Room
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.records import PolicyStats, PromptStats
from tasks.gdsd.tables import SPLITS
from tasks.policy import prepare_policy
from tasks.prompts import prepare_prompts
from tests.images import build
from tests.images.test_dockerfile import REGISTERED, faults

pytestmark = pytest.mark.images

LENGTH = 20  # tokens of a completion
CONFIG = TrainConfig.model_validate(
    {
        "prompts": {"train_size": 64, "validation_size": 16, "test_size": 16},
        "policy": {"warm_start": {"steps": 3, "batch_size": 32}},
        "rollout": {"prompts_per_round": 8},
    }
)
TOLERANCE = 1e-4  # of a warm-started weight; builds of torch multiply in different orders
LOADED = CopyFileDetection.LOADED_MODULES
INSPECT = """
import importlib.metadata, json, os, pathlib, shutil, subprocess, torch
folders = [str(path) for path in pathlib.Path("/opt/venv/lib").glob("python3.*/site-packages")]
files = ["/etc/pip.conf", "/etc/xdg/pip", os.path.expanduser("~/.config/pip")]
settings = [name for name in files if os.path.exists(name)] + [name for name in os.environ if name.startswith("PIP_")]
pythons = ("/opt/venv/bin/python", "/usr/bin/python3", "/usr/local/bin/python3")
pip = "import importlib.util as util, sys; sys.exit(bool(util.find_spec('pip') or util.find_spec('ensurepip')))"
find = ["find", "/", "-xdev", "-type", "f", "-perm", "/6000"]
beside = pathlib.Path("/usr/local/lib").glob("python3*/site-packages/*")
parts = json.loads(pathlib.Path("/opt/materials.cdx.json").read_text())["components"]
print(json.dumps({
    "user": os.getuid(),
    "packages": {found.name: found.version for found in importlib.metadata.distributions(path=folders)},
    "cuda": torch.version.cuda,
    "compilers": [name for name in ("cc", "gcc", "g++", "clang") if shutil.which(name)],
    "pip": [name for name in pythons if os.path.exists(name) and subprocess.call([name, "-c", pip])],
    "beside": [path.name for path in beside],
    "setuid": subprocess.run(find, capture_output=True, text=True).stdout.split(),
    "listed": {part["name"]: part["version"] for part in parts if part["purl"].startswith("pkg:pypi/")},
    "debian": [part["name"] for part in parts if part["purl"].startswith("pkg:deb/")],
    "settings": settings,
}))
"""
COMPILE = "import torch; print(torch.compile(lambda x: x.sin() + 1)(torch.zeros(8)).tolist() == [1.0] * 8)"
LEVELS = """
import json, sys
sys.path.insert(0, "/exchange/code")
from tasks.gdsd.sandbox import levels
print(json.dumps({level: levels.offered(level)[1] for level in levels.LEVELS}))
"""


def output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)} failed: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Built:
    """A container of a built image."""

    image: str
    begin: list[str]  # the words before a command that runs in it, as the image's user
    folder: Path  # /exchange inside; everybody's, since the image's user is not ours
    archive: str  # the sources inside, packed as `pyflyte run --remote` does
    labels: Mapping[str, str]

    def python(self, code: str) -> str:
        return output([*self.begin, "python", "-c", code])


@pytest.fixture(scope="module", params=build.TARGETS)
def built(request: pytest.FixtureRequest) -> Iterator[Built]:
    engine, image = build.find_engine(), build.TARGETS[request.param]
    with tempfile.TemporaryDirectory(prefix="gdsd-image-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o777)
        importlib.import_module("workflows.gdsd")  # which names all that its tasks reach
        packed = Path(fast_package(build.ROOT, folder, options=FastPackageOptions([], copy_style=LOADED)))
        shutil.unpack_archive(packed, folder / "code", filter="data")
        made, exchange = "", f"--volume={folder}:/exchange"
        if engine == "docker":
            begin = ["docker", "run", "--rm", exchange, image]
            labels = json.loads(output(["docker", "image", "inspect", image]))[0]["Config"]["Labels"]
        else:
            made = output(["buildah", "from", "--pull-never", image]).strip()
            begin = ["buildah", "run", exchange, made, "--"]
            labels = json.loads(output(["buildah", "inspect", "--type=image", image]))["OCIv1"]["config"]["Labels"]
        yield Built(image, begin, folder, f"/exchange/{packed.name}", labels)
        if made:
            output(["buildah", "rm", made])


def test_it_holds_what_it_should(built: Built) -> None:
    """If it fails, an image with other versions, a compiler, root or a password is pushed."""
    cuda = built.image == build.TARGETS["gpu"]
    found = json.loads(built.python(INSPECT))
    assert faults(found, cuda) == []
    assert built.labels["org.opencontainers.image.licenses"] == "LicenseRef-of-each-package"
    assert {"org.opencontainers.image.source", "org.opencontainers.image.revision"} <= built.labels.keys()
    print(f"\n{built.image}: torch {found['packages']['torch']}, {len(found['packages'])} packages")
    if cuda:
        assert built.python(COMPILE).strip() == "True", "`compile: true` asks for this"
    else:
        offered = [level for level, reason in json.loads(built.python(LEVELS)).items() if not reason]
        print(f"isolation of code answers that this container offers: {', '.join(offered) or 'none'}")


def test_its_tasks_give_what_this_machine_gives(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a run on a cluster is another one than at home: its first two tasks, by their command lines.

    The first has its sources where a run sends them, the second where a registration does.
    """
    prompts = run(built, prepare_prompts, ".", {"config": CONFIG.prompts, "prompts_per_round": 8}, {})
    asked = {split: prompts[split] for split in SPLITS}
    others = {"guards": [], "rooms": [Room(problems=split, length=LENGTH) for split in SPLITS]}
    policy = run(built, prepare_policy, REGISTERED, {"config": CONFIG.policy, **others}, asked)
    monkeypatch.setenv("GDSD_HOME", str(built.folder / "here"))
    prompts_here = prepare_prompts.task_function(config=CONFIG.prompts, prompts_per_round=8)
    asked_here = {split: str(here.path) for split, here in zip(SPLITS, prompts_here, strict=False)}
    policy_here = prepare_policy.task_function(config=CONFIG.policy, **asked_here, **others)
    for split, here in zip(SPLITS, prompts_here, strict=False):
        assert outside(built, prompts[split]).read_bytes() == Path(here.path).read_bytes(), split
    for kind, there, here in (
        (PromptStats, prompts["stats"], prompts_here.stats),
        (PolicyStats, policy["stats"], policy_here.stats),
    ):
        found = kind.model_validate(msgpack.loads(there.scalar.binary.value))
        assert found.model_dump(exclude={"seconds"}) == here.model_dump(exclude={"seconds"})
    folder, expected = outside(built, policy["checkpoint"]), Path(policy_here.checkpoint.path)
    files = sorted(path.relative_to(expected) for path in expected.rglob("*.safetensors"))
    assert files and files == sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors"))
    for name in files:
        torch.testing.assert_close(load_file(folder / name), load_file(expected / name), rtol=0, atol=TOLERANCE)


def run(
    built: Built,
    task: PythonFunctionTask[object],
    destination: str,
    values: Mapping[str, object],
    literals: Mapping[str, Literal],
) -> Mapping[str, Literal]:
    """Runs a task's command line in the image; returns its outputs."""
    settings = SerializationSettings(
        ImageConfig(Image("default", "unused", "tag")),
        project="gdsd",
        domain="development",
        version="check",
        fast_serialization_settings=FastSerializationSettings(True, destination, built.archive),
    )
    container = get_serializable(OrderedDict(), settings, task).template.to_flyte_idl().container
    name = task.name.rpartition(".")[2]
    place = f"/exchange/{name}"
    (built.folder / name).mkdir()
    (built.folder / name).chmod(0o777)
    context = FlyteContextManager.current_context()
    inputs = LiteralMap(literals=dict(literals))
    for key, value in values.items():
        kind = task.python_interface.inputs[key]
        inputs.literals[key].CopyFrom(
            TypeEngine.to_literal(context, value, kind, TypeEngine.to_literal_type(kind)).to_flyte_idl()
        )
    (built.folder / name / "inputs.pb").write_bytes(inputs.SerializeToString())
    filled = {
        "{{.input}}": f"{place}/inputs.pb",
        "{{.outputPrefix}}": f"{place}/outputs",
        "{{.rawOutputDataPrefix}}": f"{place}/raw",
        "{{.checkpointOutputPrefix}}": f"{place}/checkpoint",
        "{{.prevCheckpointPrefix}}": "",
    }
    identity = {"PROJECT": "gdsd", "DOMAIN": "development", "NAME": task.name, "VERSION": "check"}
    environment = [f"FLYTE_INTERNAL_TASK_{key}={value}" for key, value in identity.items()]
    environment += ["FLYTE_INTERNAL_EXECUTION_ID=check", f"FLYTE_INTERNAL_IMAGE={built.image}"]
    environment += [f"{pair.key}={pair.value}" for pair in container.env]
    said = output([*built.begin, "env", *environment, *(filled.get(word, word) for word in container.args)])
    written = built.folder / name / "outputs" / "outputs.pb"
    failed = written.with_name("error.pb")
    assert not failed.exists(), ErrorDocument.FromString(failed.read_bytes()).error.message
    assert written.exists(), said
    return LiteralMap.FromString(written.read_bytes()).literals


def outside(built: Built, literal: Literal) -> Path:
    """Returns where a file or folder of an output lies on this machine."""
    return built.folder / Path(literal.scalar.blob.uri).relative_to("/exchange")
