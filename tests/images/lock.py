"""Writes images/lock/, by which the images are installed: exact versions, and the hashes of their files.

    make lock           # after a change of pyproject.toml, constraints.txt or tests/constraints.txt
    make lock TORCH_GPU_INDEX=https://download.pytorch.org/whl/cu126    # for another build of torch

Versions are those of constraints.txt. Hashes are those that the indexes state of which pip is told on this machine.
"""

import argparse
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "images" / "lock"
INSTALLER = runpy.run_path(str(ROOT / ".ci" / "install.py"))
PLATFORM = ("--python-version=3.11", "--python-platform=x86_64-manylinux_2_28")
HEAD = "# Written by `make lock`.\n"
PACKAGE = re.compile(r"^\S+==(?:.*\\\n)*.*\n", re.M)  # its line and those of its hashes


def default_index(name: str) -> str:
    """Returns the index that a build takes torch from, unless it is told another one."""
    (default,) = re.findall(rf"^ARG {name}=(.*)$", (ROOT / "Dockerfile").read_text(), re.M)
    return str(default)


@cache
def settings() -> Mapping[str, str]:
    """Returns the environment that tells uv what pip is told on this machine."""
    listing = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
    variables: Mapping[str, str] = INSTALLER["uv_variables"](INSTALLER["read_settings"](listing))
    return variables | os.environ


def resolve(root: Path, packages: Sequence[str], indexes: Sequence[str] = ()) -> dict[str, str]:
    """Returns the lines of each package that some packages need, themselves included, by name.

    Raises:
        subprocess.CalledProcessError: uv fails; it says itself why.
    """
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    uv += ["--generate-hashes", "--only-binary=:all:", *PLATFORM, *(f"--index={index}" for index in indexes)]
    uv += [f"--constraint={root / name}" for name in ("constraints.txt", "tests/constraints.txt")]
    done = subprocess.run(
        [*uv, "-"], input="\n".join(packages), env=settings(), stdout=subprocess.PIPE, text=True, check=True
    )
    return {block.partition("==")[0]: block for block in PACKAGE.findall(done.stdout)}


def read_lock(file: Path) -> dict[str, tuple[str, list[str]]]:
    """Returns the version and the SHA-256 hashes of each package that a file of images/lock/ names."""
    found = {}
    for block in PACKAGE.findall(file.read_text()):
        head, *hashes = block.replace("\\\n", " ").split()
        name, _, version = head.partition("==")
        found[name] = (version.lstrip("="), [word.removeprefix("--hash=sha256:") for word in hashes])
    return found


def locks(root: Path, cpu_index: str, gpu_index: str) -> dict[str, dict[str, str]]:
    """Returns what each file of a project's images/lock/ holds: the lines of its packages by name.

    What torch brings lies beside it, and an extra has only what the packages before it have not.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    (pin,) = re.findall(r"^torch==(\S+)$", (root / "constraints.txt").read_text(), re.M)
    cpu, of_cpu = f"torch=={pin}+cpu", [index for index in [cpu_index] if index]
    # Where indexes have builds with and without a label, === is the one without.
    gpu, of_gpu = (f"torch=={pin}", [gpu_index]) if gpu_index else (f"torch==={pin}", [])
    found = {"torch-cpu": resolve(root, [cpu], of_cpu), "torch-gpu": resolve(root, [gpu], of_gpu)}
    if not gpu_index:
        found["torch-gpu"]["torch"] = found["torch-gpu"]["torch"].replace("==", "===", 1)
    found["packages"] = without(resolve(root, [cpu, *project["dependencies"]], of_cpu), found["torch-cpu"])
    for name, extra in project["optional-dependencies"].items():
        whole = resolve(root, [cpu, *project["dependencies"], *extra], of_cpu)
        found[name] = without(whole, found["torch-cpu"] | found["packages"])
    return found | {"materials": resolve(root, ["cyclonedx-bom"])}


def without(packages: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    """Returns the packages whose names are not among others."""
    return {name: lines for name, lines in packages.items() if name not in others}


def main(words: Sequence[str], root: Path = ROOT) -> None:
    """Writes the files that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.images.lock", description="Writes images/lock/.")
    for kind in ("cpu", "gpu"):
        parser.add_argument(
            f"--torch-{kind}-index",
            default=default_index(f"TORCH_{kind.upper()}_INDEX"),
            help="as of the build; empty for pip's own index",
        )
    given = parser.parse_args(words)
    for name, packages in locks(root, given.torch_cpu_index, given.torch_gpu_index).items():
        (root / "images" / "lock" / f"{name}.txt").write_text(HEAD + "".join(packages.values()))


if __name__ == "__main__":
    main(sys.argv[1:])
