"""images/lock/ holds what the images need, in the pinned versions; `make lock` writes it, and pip obeys its hashes."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.images import lock
from tests.images.build import ROOT
from tests.images.lock import FOLDER, read_lock
from tests.images.test_dockerfile import instructions, key, pinned
from tests.test_install import CUDA, needed

TORCH = {"torch-cpu": "+cpu", "torch-gpu": ""}
# A project and its world. One index has what everybody has, the other one has another build of torch.
PROJECT = """\
[project]
dependencies = ["train", "torch"]
[project.optional-dependencies]
tracking = ["track"]
"""
PINS = {"torch": "2.0", "shared": "1.0", "train": "1.0", "base": "1.0", "track": "1.0", "cyclonedx-bom": "7.0"}
OWN = {
    "torch-2.0": ["shared", "nvidia-x==3.0"],
    "nvidia_x-3.0": [],
    "shared-1.0": [],
    "shared-2.0": [],
    "base-1.0": [],
    "train-1.0": ["torch", "base"],
    "track-1.0": ["train", "shared"],
    "cyclonedx_bom-7.0": ["shared"],
}


def wheel(folder: Path, name: str, needs: list[str], extra: str = "") -> None:
    """Puts a wheel into a folder that serves as an index."""
    package, version = name.rsplit("-", 1)
    info = f"{package}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    files = {
        f"{package}.py": extra,
        f"{info}/METADATA": metadata + "".join(f"Requires-Dist: {need}\n" for need in needs),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "".join(f"{file},,\n" for file in (f"{package}.py", f"{info}/METADATA", f"{info}/WHEEL")),
    }
    place = folder / package.replace("_", "-")
    place.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(place / f"{name}-py3-none-any.whl", "w") as archive:
        for path, text in (files | {f"{info}/RECORD": files[f"{info}/RECORD"] + f"{info}/RECORD,,\n"}).items():
            archive.writestr(path, text)
    links = [
        f'<a href="{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">{path.name}</a>'
        for path in sorted(place.glob("*.whl"))
    ]
    (place / "index.html").write_text("<!DOCTYPE html><html><body>" + "".join(links) + "</body></html>")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with pins, whose indexes are folders."""
    for name, needs in OWN.items():
        wheel(tmp_path / "own", name, needs)
    for label in ("cpu", "cu1"):
        wheel(tmp_path / label, f"torch-2.0+{label}", ["shared"])
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "constraints.txt").write_text("".join(f"{name}=={version}\n" for name, version in PINS.items()))
    (tmp_path / "images" / "lock").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "constraints.txt").touch()
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "own").as_uri())
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    lock.settings.cache_clear()
    return tmp_path


def test_a_lock_holds_what_is_needed_with_every_hash(project: Path) -> None:
    """If it fails, make lock forgets a package, or takes another version or build of torch than the pinned one."""
    lock.main(["--torch-cpu-index", (project / "cpu").as_uri(), "--torch-gpu-index="], project)
    found = {file.stem: read_lock(file) for file in (project / "images" / "lock").iterdir()}
    assert {name: {package: has for package, (has, _) in lines.items()} for name, lines in found.items()} == {
        "torch-cpu": {"torch": "2.0+cpu", "shared": "1.0"},
        "torch-gpu": {"torch": "2.0", "shared": "1.0", "nvidia-x": "3.0"},
        "packages": {"train": "1.0", "base": "1.0"},
        "tracking": {"track": "1.0"},
        "materials": {"cyclonedx-bom": "7.0", "shared": "1.0"},
    }
    of_cpu = (project / "cpu" / "torch" / "torch-2.0+cpu-py3-none-any.whl").read_bytes()
    assert found["torch-cpu"]["torch"][1] == [hashlib.sha256(of_cpu).hexdigest()]
    # With two equals signs pip would take a build with a label where it knows one.
    assert "torch===2.0 " in (project / "images" / "lock" / "torch-gpu.txt").read_text()
    lock.main(
        ["--torch-cpu-index", (project / "cpu").as_uri(), "--torch-gpu-index", (project / "cu1").as_uri()], project
    )
    assert read_lock(project / "images" / "lock" / "torch-gpu.txt")["torch"][0] == "2.0+cu1"


def test_pip_installs_a_lock_and_refuses_another_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, an image takes whatever an index hands out under a name and a version."""
    for name, package in (("packages", "base"), ("tracking", "shared")):
        (file,) = (project / "own" / package).glob("*-1.0-*.whl")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        (project / f"{name}.txt").write_text(f"{package}==1.0 \\\n    --hash=sha256:{digest}\n")
    for name, value in re.findall(r"(PIP_\w+)=(\S+)", instructions("build")):
        monkeypatch.setenv(name, value)
    environment = project / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    monkeypatch.setenv("PIP_PYTHON", str(environment / "bin" / "python"))
    script = re.findall(r"( for name in .*? -r requirements.txt) ", instructions("packages"), re.S)[0]
    script = script.replace("\\\n", "").replace("python3", sys.executable)

    def install(extras: str) -> subprocess.CompletedProcess[str]:
        (project / "requirements.txt").unlink(missing_ok=True)
        return subprocess.run(
            ["sh", "-c", script], cwd=project, env=os.environ | {"EXTRAS": extras}, capture_output=True, text=True
        )

    done = install("tracking")
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in environment.glob("lib/python3*/site-packages/*.py")} == {"base", "shared"}
    done = install("nobody")
    assert done.returncode != 0 and "nobody.txt" in done.stderr
    wheel(project / "own", "base-1.0", [], extra="print('hostile')")
    for path in environment.glob("lib/python3*/site-packages/*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = install("")
    assert done.returncode != 0 and "DO NOT MATCH THE HASHES" in done.stderr


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.txt")), ids=lambda file: file.stem)
def test_a_lock_has_the_pinned_versions(file: Path) -> None:
    """If it fails, an image differs from local installs: constraints.txt was changed, and make lock was not run."""
    pins = pinned() | pinned("tests/constraints.txt")
    for name, (version, hashes) in read_lock(file).items():
        assert hashes and all(re.fullmatch("[0-9a-f]{64}", found) for found in hashes), name
        if not (file.stem == "torch-gpu" and name.startswith(CUDA)):
            assert version == pins[name] + (TORCH.get(file.stem, "") if name == "torch" else ""), name


@pytest.mark.whole  # which has every extra installed
def test_the_locks_hold_what_the_images_need_and_nothing_else() -> None:
    """If it fails, an image lacks what the pipeline imports, or holds tools and data sets beside hostile code."""
    read = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: Mapping[str, set[str]] = {file.stem: set(read_lock(file)) for file in FOLDER.glob("*.txt")}
    base = needed(read["dependencies"])
    cpu = found["torch-cpu"]
    assert cpu == needed(["torch"]) and not cpu & found["packages"]
    assert {name for name in found["torch-gpu"] if not name.startswith(CUDA)} == cpu
    assert cpu | found["packages"] == base
    extras = {name: needed(extra) - base for name, extra in read["optional-dependencies"].items()}
    assert {name: found[name] for name in extras} == extras
    assert found.keys() == {*TORCH, "packages", *extras, "materials"}
    assert found["materials"] == needed(["cyclonedx-bom"])
    assert {key(name) for name in found["packages"]} == found["packages"]
