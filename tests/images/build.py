"""Builds the images of the Dockerfile with docker or buildah, under the names that the pipeline registers.

    make images                          # both, and tests/images/test_built.py in each
    python -m tests.images.build cpu     # one

What pip is told on this machine (an index, a password, certificates) it is told in the build as well, by a secret that
stays out of the image.
"""

import argparse
import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from images import CPU, GPU

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {"cpu": CPU.image, "gpu": GPU.image}
ARGUMENTS = {  # of the Dockerfile, and what they are for
    "BASE": "what both images start from",
    "EXTRAS": "optional dependencies that are installed too, such as tracking",
    "TORCH_CPU_INDEX": "address of torch's build for the CPU; empty for pip's own index",
    "TORCH_GPU_INDEX": "address of torch's build with CUDA; empty for pip's own index",
    "SOURCE": "address of the sources, by default that of git's origin",
    "REVISION": "commit of the sources, by default the one that is checked out",
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


def address(remote: str) -> str:
    """Returns the public address of a git remote, without what only its owner may know; empty where there is none."""
    remote = re.sub(r"^(?:ssh://)?[\w.-]+@([^/:]+)(?::\d+(?=/))?[:/]", r"https://\1/", remote)
    parts = urlsplit(remote)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme in ("http", "https") and host else ""


def sources(root: Path) -> dict[str, str]:
    """Returns what the labels say of a folder's sources: where they are, and at which commit, as far as git knows."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    top = git("rev-parse", "--show-toplevel") if shutil.which("git") else ""
    if not top or Path(top).resolve() != root.resolve():  # the checkout around an unpacked archive is another project's
        return {"SOURCE": "", "REVISION": ""}
    revision = git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    return {"SOURCE": address(git("remote", "get-url", "origin")), "REVISION": revision}


def build(engine: str, target: str, arguments: Mapping[str, str], options: Sequence[str], secret: str) -> None:
    """Builds one target of the Dockerfile; the engine says itself what is wrong."""
    command = [engine, "build", *options, f"--secret=id=pip,src={secret}", f"--target={target}"]
    command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
    if engine == "buildah":
        command += ["--network=host", "--layers"]
    # Without BuildKit docker knows no secrets of a build; versions before 23 have to be told.
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    subprocess.run([*command, f"--tag={TARGETS[target]}", str(ROOT)], check=True, env=environment)


def main(words: Sequence[str]) -> None:
    """Builds the images that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.images.build", description="Builds the pipeline's images.")
    parser.add_argument("target", nargs="?", choices=TARGETS, help="default: both")
    parser.add_argument("--options", default="", help="of the engine's build, such as --platform=linux/amd64")
    for name, meaning in ARGUMENTS.items():
        parser.add_argument(f"--{name.lower().replace('_', '-')}", dest=name, help=meaning)
    given = parser.parse_args(words)
    arguments = {name: value for name in ARGUMENTS if (value := vars(given)[name]) is not None}
    arguments |= {name: value for name, value in sources(ROOT).items() if name not in arguments}
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
