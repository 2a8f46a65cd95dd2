"""Checks a built image: its user and packages, and tasks by the command lines that a cluster would be given.

The sources reach the image as they reach a pod, as an archive that flytekit makes of the loaded modules. The outputs
are compared with those of the same tasks on this machine.
"""

import importlib
import json
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar, cast
from unittest.mock import patch

import msgpack
from flyteidl.core.errors_pb2 import ErrorDocument
from flyteidl.core.literals_pb2 import Literal, LiteralMap
from flytekit import FlyteContextManager, PythonFunctionTask
from flytekit.configuration import FastSerializationSettings, Image, ImageConfig, SerializationSettings
from flytekit.constants import CopyFileDetection
from flytekit.core.type_engine import TypeEngine
from flytekit.tools.fast_registration import FastPackageOptions, fast_package
from flytekit.tools.translator import get_serializable

from images.build import ROOT, Engine, ImageError, output
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.records import PolicyStats, PromptStats, Record
from tasks.policy import prepare_policy
from tasks.prompts import prepare_prompts

LENGTH = 20  # tokens of a completion
CONFIG = TrainConfig.model_validate(
    {
        "prompts": {"train_size": 64, "validation_size": 16, "test_size": 16},
        "policy": {"warm_start": {"steps": 3, "batch_size": 32}},
        "rollout": {"prompts_per_round": 8},
    }
)
REGISTERED = "/root"  # where `pyflyte register` has sources unpacked, unless told otherwise
TOLERANCE = 1e-4  # of a warm-started weight; builds of torch multiply in different orders
INSPECT = """
import importlib.metadata, json, os, pathlib, shutil, torch
folders = [str(path) for path in pathlib.Path("/opt/venv/lib").glob("python3.*/site-packages")]
files = ("/etc/pip.conf", "/etc/xdg/pip", os.path.expanduser("~/.config/pip"))
print(json.dumps({
    "user": os.getuid(),
    "packages": {found.name: found.version for found in importlib.metadata.distributions(path=folders)},
    "cuda": torch.version.cuda,
    "compilers": [name for name in ("cc", "gcc", "g++", "clang") if shutil.which(name)],
    "pip": [name for name in os.environ if name.startswith("PIP_")] + [name for name in files if os.path.exists(name)],
}))
"""
COMPILE = "import torch; print(torch.compile(lambda x: x.sin() + 1)(torch.zeros(8)).tolist() == [1.0] * 8)"
LEVELS = """
import json, sys
sys.path.insert(0, "/exchange/code")
from tasks.gdsd import sandbox
print(json.dumps({level: sandbox.offered(level)[1] for level in sandbox.LEVELS}))
"""

Outcome = TypeVar("Outcome", bound=Record)


def check(engine: Engine, image: str, cuda: bool) -> Iterator[str]:
    """Checks an image; gives what it found, line by line.

    Args:
        cuda: it is the one for GPUs.

    Raises:
        ImageError: it is not what the pipeline needs.
    """
    with tempfile.TemporaryDirectory(prefix="gdsd-image-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o777)  # the image's user is not ours
        archive = _archive(folder)
        with engine.container(image, folder) as begin:
            python = [*begin, "python", "-c"]
            yield _inspected(json.loads(output([*python, INSPECT])), cuda)
            if cuda and output([*python, COMPILE]).strip() != "True":
                raise ImageError(f"{image} cannot compile a network, which `compile: true` asks for")
            yield from _tasks(begin, image, archive, folder)
            if not cuda:
                reasons = json.loads(output([*python, LEVELS]))
                offered = [level for level, reason in reasons.items() if not reason]
                yield f"isolation of code answers that this container offers: {', '.join(offered) or 'none'}"


def _archive(folder: Path) -> str:
    """Packs the sources as `pyflyte run --remote` does, and unpacks them beside; returns the archive's name inside."""
    importlib.import_module("workflows.gdsd")  # which names all that its tasks reach
    options = FastPackageOptions([], copy_style=CopyFileDetection.LOADED_MODULES)
    packed = Path(fast_package(ROOT, folder, options=options))
    shutil.unpack_archive(packed, folder / "code", filter="data")
    return f"/exchange/{packed.name}"


def pinned() -> dict[str, str]:
    """Returns the versions of constraints.txt by name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {_key(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def _key(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _inspected(found: Mapping[str, object], cuda: bool) -> str:
    packages = cast(dict[str, str], found["packages"])
    pins = pinned()
    wrong, loose = [], []
    for name, version in sorted(packages.items()):
        pin = pins.get(_key(name))
        if pin is None:
            loose.append(f"{name} {version}")
        elif pin is not None and version.partition("+")[0] != pin:
            wrong.append(f"{name} {version} instead of {pin}")
    problems = {
        "runs as root": found["user"] == 0,
        "has another build of torch than it should": bool(found["cuda"]) is not cuda,
        f"has other versions than constraints.txt: {', '.join(wrong)}": bool(wrong),
        f"has packages that constraints.txt does not pin: {', '.join(loose)}": bool(loose) and not cuda,
        f"has compilers: {found['compilers']}": bool(found["compilers"]) and not cuda,
        f"holds settings of pip: {found['pip']}": bool(found["pip"]),
    }
    for problem, there in problems.items():
        if there:
            raise ImageError(f"the image {problem}")
    unpinned = f", and what torch brings: {', '.join(loose)}" if loose else ""
    return f"user {found['user']}, torch {packages['torch']}, {len(packages) - len(loose)} pinned packages{unpinned}"


def _tasks(begin: list[str], image: str, archive: str, folder: Path) -> Iterator[str]:
    """Runs the first two tasks of a training run in the image and here.

    The first has its sources where a run sends them, the second where a registration does.
    """
    run = partial(_run, begin, image, archive, folder)
    prompts = run(prepare_prompts, ".", {"config": CONFIG.prompts, "prompts_per_round": 8}, {})
    policy = run(prepare_policy, REGISTERED, {"config": CONFIG.policy, "length": LENGTH}, {"train": prompts["train"]})
    with patch.dict(os.environ, {"GDSD_HOME": str(folder / "here")}):
        prompts_here = prepare_prompts.task_function(config=CONFIG.prompts, prompts_per_round=8)
        train_here = str(prompts_here.train.path)
        policy_here = prepare_policy.task_function(config=CONFIG.policy, train=train_here, length=LENGTH)
    for split in ("train", "validation", "test"):
        made = _outside(prompts[split], folder).read_bytes()
        if made != Path(getattr(prompts_here, split).path).read_bytes():
            raise ImageError(f"prepare_prompts in {image} makes another table of {split} problems than here")
    _same(image, PromptStats, prompts["stats"], prompts_here.stats)
    _same(image, PolicyStats, policy["stats"], policy_here.stats)
    difference = _difference(_outside(policy["checkpoint"], folder), Path(policy_here.checkpoint.path))
    if difference > TOLERANCE:
        raise ImageError(
            f"prepare_policy in {image} trains weights that are {difference:.1e} off those of this machine"
        )
    yield "prepare_prompts gives the tables of this machine, byte for byte"
    yield f"prepare_policy gives the weights of this machine, to {difference:.1e}"


def _run(
    begin: list[str],
    image: str,
    archive: str,
    folder: Path,
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
        fast_serialization_settings=FastSerializationSettings(True, destination, archive),
    )
    container = get_serializable(OrderedDict(), settings, task).template.to_flyte_idl().container
    name = task.name.rpartition(".")[2]
    place = f"/exchange/{name}"
    (folder / name).mkdir()
    (folder / name).chmod(0o777)
    context = FlyteContextManager.current_context()
    inputs = LiteralMap(literals=dict(literals))
    for key, value in values.items():
        kind = type(value)
        inputs.literals[key].CopyFrom(
            TypeEngine.to_literal(context, value, kind, TypeEngine.to_literal_type(kind)).to_flyte_idl()
        )
    (folder / name / "inputs.pb").write_bytes(inputs.SerializeToString())
    filled = {
        "{{.input}}": f"{place}/inputs.pb",
        "{{.outputPrefix}}": f"{place}/outputs",
        "{{.rawOutputDataPrefix}}": f"{place}/raw",
        "{{.checkpointOutputPrefix}}": f"{place}/checkpoint",
        "{{.prevCheckpointPrefix}}": "",
    }
    identity = {"PROJECT": "gdsd", "DOMAIN": "development", "NAME": task.name, "VERSION": "check"}
    environment = [f"FLYTE_INTERNAL_TASK_{key}={value}" for key, value in identity.items()]
    environment += ["FLYTE_INTERNAL_EXECUTION_ID=check", f"FLYTE_INTERNAL_IMAGE={image}"]
    environment += [f"{pair.key}={pair.value}" for pair in container.env]
    said = output([*begin, "env", *environment, *(filled.get(word, word) for word in container.args)])
    written = folder / name / "outputs" / "outputs.pb"
    failed = written.with_name("error.pb")
    if failed.exists():
        raise ImageError(f"{name} fails in {image}: {ErrorDocument.FromString(failed.read_bytes()).error.message}")
    if not written.exists():
        raise ImageError(f"{name} in {image} gives no outputs:\n{said}")
    return LiteralMap.FromString(written.read_bytes()).literals


def _outside(literal: Literal, folder: Path) -> Path:
    """Returns where a file or folder of an output lies on this machine."""
    return folder / Path(literal.scalar.blob.uri).relative_to("/exchange")


def _same(image: str, kind: type[Outcome], literal: Literal, here: Outcome) -> None:
    """Compares what a stage reports, except for its time."""
    there = kind.model_validate(msgpack.loads(literal.scalar.binary.value))
    facts, expected = (stats.model_dump(exclude={"seconds"}) for stats in (there, here))
    if facts != expected:
        raise ImageError(f"a task in {image} reports {facts}, and on this machine {expected}")


def _difference(one: Path, other: Path) -> float:
    """Returns the largest difference of two checkpoints' weights."""
    from safetensors.torch import load_file

    files = sorted(path.relative_to(other) for path in other.rglob("*.safetensors"))
    if not files or files != sorted(path.relative_to(one) for path in one.rglob("*.safetensors")):
        raise ImageError(f"the checkpoints do not have the same files: {files} on this machine")
    largest = 0.0
    for name in files:
        weights, expected = load_file(one / name), load_file(other / name)
        if weights.keys() != expected.keys():
            raise ImageError(f"the checkpoints do not have the same weights in {name}")
        largest = max([largest, *((weights[key] - expected[key]).abs().max().item() for key in expected)])
    return largest
