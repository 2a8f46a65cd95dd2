"""Builds the images of the Dockerfile with docker or buildah, under the names that the pipeline registers.

    make images                          # both, and tests/images/test_built.py in each
    python -m tests.images.build cpu     # one

What pip is told on this machine (an index, a password, certificates) it is told in the build as well, by a secret that
stays out of the image.
"""

import argparse
import ast
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from images import CPU, GPU

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {"cpu": CPU.image, "gpu": GPU.image}
ARGUMENTS = {  # of the Dockerfile, and what they are for
    "BASE": "what both images start from",
    "EXTRAS": "optional dependencies that are installed too, such as tracking",
    "TORCH_CPU_INDEX": "address of torch's build for the CPU; empty for pip's own index",
    "TORCH_GPU_INDEX": "address of torch's build with CUDA; empty for pip's own index",
}


def find_engine() -> str:
    """Returns docker where its daemon answers, else buildah.

    Raises:
        SystemExit: there is neither.
    """
    reason = "docker is not installed"
    if shutil.which("docker"):
        if subprocess.run(["docker", "version"], capture_output=True).returncode == 0:
            return "docker"
        reason = "docker is installed but has no daemon that answers"
    if shutil.which("buildah"):
        return "buildah"
    raise SystemExit(
        f"nothing here can build an image: {reason}, and buildah is not installed either; install one "
        "(Debian: apt-get install buildah)"
    )


def pip_settings(listing: str) -> dict[str, str]:
    """Reads what `pip config list` prints: a setting's name and its value, where the environment has the last word."""
    found = [line.partition("=") for line in listing.splitlines() if "=" in line]
    settings: dict[str, str] = {}
    for environment in (False, True):
        for name, _, value in found:
            if name.startswith(":env:") is environment:
                settings[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    return settings


def build(engine: str, target: str, arguments: Mapping[str, str], options: Sequence[str], secret: str) -> None:
    """Builds one target of the Dockerfile; the engine says itself what is wrong."""
    command = [engine, "build", *options, f"--secret=id=pip,src={secret}", f"--target={target}"]
    command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
    if engine == "buildah":
        command += ["--network=host", "--layers"]
    subprocess.run([*command, f"--tag={TARGETS[target]}", str(ROOT)], check=True)


def main(words: Sequence[str]) -> None:
    """Builds the images that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.images.build", description="Builds the pipeline's images.")
    parser.add_argument("target", nargs="?", choices=TARGETS, help="default: both")
    parser.add_argument("--options", default="", help="of the engine's build, such as --platform=linux/amd64")
    for name, meaning in ARGUMENTS.items():
        parser.add_argument(f"--{name.lower().replace('_', '-')}", dest=name, help=meaning)
    given = parser.parse_args(words)
    arguments = {name: value for name in ARGUMENTS if (value := vars(given)[name]) is not None}
    engine = find_engine()
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as secret:
        secret.write("[global]\n" + "".join(f"{name} = {value}\n" for name, value in pip_settings(listing).items()))
        secret.flush()
        for target in [given.target] if given.target else TARGETS:
            build(engine, target, arguments, shlex.split(given.options), secret.name)


if __name__ == "__main__":
    main(sys.argv[1:])
