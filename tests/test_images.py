"""What the Dockerfile builds is what the pipeline registers and what constraints.txt pins."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from images import CPU, GPU, build, check
from images.build import Engine, ImageError, find_engine, pip_folders, pip_settings

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def stages() -> dict[str, str]:
    """The Dockerfile's stages by name, with their instructions, without comments."""
    text = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    parts = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.M)[1:]
    return {name: f"FROM {base}\n{body}" for base, name, body in zip(*[iter(parts)] * 3, strict=True)}


def lineage(name: str) -> str:
    """The instructions of a stage and of those that it starts from."""
    found = stages()
    base = found[name].split()[1]
    return (lineage(base) if base in found else "") + found[name]


def test_each_role_has_a_target() -> None:
    """If it fails, a role's image cannot be built, or make images builds one that no task names."""
    assert {"cpu": CPU.image, "gpu": GPU.image} == build.TARGETS
    assert build.TARGETS.keys() <= stages().keys()


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_unprivileged_and_holds_packages_only(target: str) -> None:
    """If it fails, pods run as root, or an image holds code that is older than what is registered."""
    body = lineage(target)
    assert re.findall(r"^USER (\S+)$", body, re.M)[-1] == "1000:1000"
    assert body.rstrip().endswith("USER 1000:1000")
    assert "useradd --create-home --uid 1000 " in body
    # `pyflyte register` has the sources unpacked into /root, `pyflyte run` into the working folder.
    assert "chown flyte:flyte /root\n" in body and re.findall(r"^WORKDIR (\S+)$", body, re.M)[-1] == check.REGISTERED
    copied = re.findall(r"^COPY (.*)$", body, re.M)
    assert copied == [f"--from={target}-packages /opt/venv /opt/venv"]
    assert re.findall(r"^COPY (.*)$", lineage(f"{target}-packages"), re.M) == ["pyproject.toml constraints.txt ./"]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_packages_are_pinned_wheels_and_settings_of_pip_are_a_secret(target: str) -> None:
    """If it fails, an image differs from local installs, or holds the address or password of an index."""
    body = lineage(f"{target}-packages")
    assert "PIP_ONLY_BINARY=:all:" in body
    installs = re.findall(r"pip install ((?:[^\\&]|\\\n)*)", body)
    assert len(installs) == 2
    assert "-c constraints.txt -r requirements.txt" in installs[-1]
    assert "grep '^torch==' constraints.txt" in body
    assert body.count("--mount=type=secret,id=pip,target=/etc/pip.conf") == body.count("\nRUN --mount") == 1
    assert "PIP_" not in lineage(target)


def test_the_requirements_are_the_dependencies_without_the_tools(tmp_path: Path) -> None:
    """If it fails, an image lacks what the pipeline imports, or holds test tools and data sets beside hostile code."""
    (script,) = re.findall(r'python3 -c "(import tomllib;.*?)" > requirements.txt', DOCKERFILE, re.S)
    command = ["python3", "-c", script.replace("\\\n", "")]

    def requirements(**extras: str) -> list[str]:
        done = subprocess.run(command, cwd=ROOT, env=os.environ | extras, capture_output=True, text=True, check=True)
        return done.stdout.split()

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found, extras = requirements(EXTRAS=""), project["project"]["optional-dependencies"]
    optional = [name for extra in extras.values() for name in extra]
    assert found == project["project"]["dependencies"]
    assert requirements(EXTRAS=" ".join(extras)) == found + optional
    assert not set(found + optional) & set(project["dependency-groups"]["dev"])
    assert {name.lower() for name in found + optional} <= check.pinned().keys()


def test_only_the_image_of_gpus_has_a_compiler() -> None:
    """If it fails, code answers have a compiler in reach, or `compile: true` fails in pods."""
    assert " g++ " in stages()["gpu"] and "g++" not in lineage("cpu")
    assert "bubblewrap" in stages()["cpu"]


def test_the_build_arguments_are_those_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, make images BASE=... is ignored, and the public base is asked for."""
    ran: list[str] = []
    monkeypatch.setattr(build, "find_engine", lambda: Engine("buildah"))
    monkeypatch.setattr(build, "show", ran.extend)
    monkeypatch.setattr(build, "output", lambda command: "")
    monkeypatch.setattr(check, "check", lambda engine, image, cuda: [])
    options = {
        "--base": "BASE",
        "--extras": "EXTRAS",
        "--torch-cpu-index": "TORCH_CPU_INDEX",
        "--torch-gpu-index": "TORCH_GPU_INDEX",
    }
    given = [word for option in options for word in (option, "there")]
    assert build.main(["--target", "cpu", *given]) == 0
    passed = [word.removeprefix("--build-arg=") for word in ran if word.startswith("--build-arg=")]
    assert passed == [f"{name}=there" for name in options.values()]
    assert set(options.values()) == set(re.findall(r"^ARG (\w+)=", DOCKERFILE, re.M))
    assert f"--tag={CPU.image}" in ran and "--target=cpu" in ran


def test_the_settings_of_pip_reach_a_build(tmp_path: Path) -> None:
    """If it fails, a build behind a company's index asks the public one, or cannot see what the settings name."""
    index, wheels = tmp_path / "index" / "simple", tmp_path / "wheels"
    index.mkdir(parents=True)
    wheels.mkdir()
    (tmp_path / "certificates").write_text("")
    listing = (
        f":env:.cert='{tmp_path}/certificates'\n:env:.timeout='9'\nglobal.find-links='{wheels}'\n"
        f"global.extra-index-url='file://{index} https://a.example/simple?b=c'\nglobal.timeout='3'\n"
    )
    settings = pip_settings(listing)
    assert settings["timeout"] == "9"
    assert settings["extra-index-url"] == f"file://{index} https://a.example/simple?b=c"
    assert pip_folders(settings) == [str(tmp_path), str(index.parent), str(wheels)]


def test_without_an_engine_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, make images ends in a traceback where nothing can build images."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match=r"docker is not installed, and buildah is not installed either; install one"):
        find_engine()
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    with pytest.raises(ImageError, match="docker is installed but has no daemon that answers"):
        find_engine()


def test_an_image_that_is_not_what_it_should_be_is_refused() -> None:
    """If it fails, an image with other versions, a compiler or root is pushed as if it had been checked."""
    pins = check.pinned()
    good = {
        "user": 1000,
        "packages": {"torch": f"{pins['torch']}+cpu", "PyYAML": pins["pyyaml"]},
        "cuda": None,
        "compilers": [],
        "pip": [],
    }
    assert check._inspected(good, cuda=False).startswith("user 1000, torch 2")
    for change, message in (
        ({"user": 0}, "runs as root"),
        ({"cuda": "13.0"}, "another build of torch"),
        ({"packages": {"torch": "1.0"}}, "torch 1.0 instead of"),
        ({"packages": good["packages"] | {"sneaky": "1"}}, "sneaky 1"),
        ({"compilers": ["gcc"]}, "compilers"),
        ({"pip": ["/etc/pip.conf"]}, "settings of pip"),
    ):
        with pytest.raises(ImageError, match=message):
            check._inspected(good | change, cuda=False)
