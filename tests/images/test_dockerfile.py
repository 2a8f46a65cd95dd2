"""What the Dockerfile builds is what the pipeline registers and what constraints.txt pins."""

import os
import re
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from images import CPU
from tests.images import build
from tests.images.build import ROOT

REGISTERED = "/root"  # where `pyflyte register` has sources unpacked, unless told otherwise
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
    """If it fails, a role's image cannot be built."""
    assert build.TARGETS.keys() <= stages().keys()


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_unprivileged_and_holds_packages_only(target: str) -> None:
    """If it fails, pods run as root, or an image holds code that is older than what is registered."""
    body = lineage(target)
    assert re.findall(r"^USER (\S+)$", body, re.M)[-1] == "1000:1000"
    assert body.rstrip().endswith("USER 1000:1000")
    assert "useradd --create-home --uid 1000 " in body
    # `pyflyte register` has the sources unpacked into /root, `pyflyte run` into the working folder.
    assert "chown flyte:flyte /root\n" in body and re.findall(r"^WORKDIR (\S+)$", body, re.M)[-1] == REGISTERED
    copied = re.findall(r"^COPY (.*)$", body, re.M)
    assert copied == [f"--from={target}-packages /opt/venv /opt/venv"]
    assert re.findall(r"^COPY (.*)$", lineage(f"{target}-packages"), re.M) == [
        "pyproject.toml constraints.txt images/quiet.pth ./"
    ]


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


def test_the_requirements_are_the_dependencies_without_the_tools() -> None:
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
    assert {name.lower() for name in found + optional} <= pinned().keys()


def test_only_the_image_of_gpus_has_a_compiler() -> None:
    """If it fails, code answers have a compiler in reach, or `compile: true` fails in pods."""
    assert " g++ " in stages()["gpu"] and "g++" not in lineage("cpu")
    assert "bubblewrap" in stages()["cpu"]


def test_the_build_arguments_are_those_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, make images BASE=... is ignored, and the public base is asked for."""
    ran: list[str] = []
    monkeypatch.setattr(build, "find_engine", lambda: "buildah")
    real = subprocess.run

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        if command[0] != "buildah":
            return real(command, **options)
        ran.extend(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    given = [word for name in build.ARGUMENTS for word in (f"--{name.lower().replace('_', '-')}", "there")]
    build.main(["cpu", *given, "--options=--pull --quiet"])
    assert [word for word in ran if word.startswith("--build-arg=")] == [
        f"--build-arg={name}=there" for name in build.ARGUMENTS
    ]
    assert set(build.ARGUMENTS) == set(re.findall(r"^ARG (\w+)=", DOCKERFILE, re.M))
    assert {f"--tag={CPU.image}", "--target=cpu", "--pull", "--quiet"} <= set(ran)


def test_the_settings_of_pip_reach_a_build() -> None:
    """If it fails, a build behind a company's index asks the public one."""
    listing = (
        ":env:.cert='/certificates'\n:env:.timeout='9'\n"
        "global.extra-index-url='https://a.example/simple https://b.example/simple?b=c'\nglobal.timeout='3'\n"
    )
    assert build.pip_settings(listing) == {
        "cert": "/certificates",
        "timeout": "9",
        "extra-index-url": "https://a.example/simple https://b.example/simple?b=c",
    }


def test_without_an_engine_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, make images ends in a traceback where nothing can build images."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"docker is not installed, and buildah is not installed either; install one"):
        build.find_engine()
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    with pytest.raises(SystemExit, match="docker is installed but has no daemon that answers"):
        build.find_engine()


# What test_built.py asks of an image


def pinned() -> dict[str, str]:
    """The versions of constraints.txt by name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {key(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def key(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def faults(found: Mapping[str, object], cuda: bool) -> list[str]:
    """What is wrong with an image, of which test_built.py found this; torch brings the libraries of CUDA itself."""
    packages, pins = found["packages"], pinned()
    assert isinstance(packages, dict)
    versions = {name: (version, pins.get(key(name))) for name, version in packages.items()}
    wrong = [
        f"{name} {has} instead of {pin}"
        for name, (has, pin) in versions.items()
        if pin not in (None, has.split("+")[0])
    ]
    loose = [name for name, (_, pin) in versions.items() if pin is None and key(name) != "setuptools"]
    problems = {
        "runs as root": found["user"] == 0,
        "has another build of torch": bool(found["cuda"]) is not cuda,
        f"has other versions than constraints.txt: {', '.join(wrong)}": wrong,
        f"has packages that constraints.txt does not pin: {', '.join(loose)}": loose and not cuda,
        f"has compilers: {found['compilers']}": found["compilers"] and not cuda,
        f"holds settings of pip: {found['pip']}": found["pip"],
    }
    return [problem for problem, there in problems.items() if there]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": 0}, "runs as root"),
        ({"cuda": "13.0"}, "another build of torch"),
        ({"packages": {"torch": "1.0"}}, "torch 1.0 instead of"),
        ({"packages": {"sneaky": "1"}}, "does not pin: sneaky"),
        ({"compilers": ["gcc"]}, "compilers"),
        ({"pip": ["/etc/pip.conf"]}, "settings of pip"),
    ],
)
def test_an_image_that_is_not_what_it_should_be_is_refused(change: dict[str, object], message: str) -> None:
    """If it fails, an image with other versions, a compiler or root is pushed as if it had been checked."""
    packages = {"torch": f"{pinned()['torch']}+cpu", "PyYAML": pinned()["pyyaml"]}
    good = {"user": 1000, "packages": packages, "cuda": None, "compilers": [], "pip": []}
    assert faults(good, cuda=False) == []
    (fault,) = faults(good | change, cuda=False)
    assert message in fault
