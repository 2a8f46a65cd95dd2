"""Builds the two images of the Dockerfile with docker or buildah, and runs a task in each.

    python -m images.build                            # both, from the public base
    python -m images.build --target cpu --base BASE   # one, from another base
    python -m images.build --make-base NAME           # a base from Debian's packages, where no registry is reached

The names are those that the pipeline registers: GDSD_CPU_IMAGE and GDSD_GPU_IMAGE. What pip is told on this machine (an
index, certificates) it is told in the build as well, by a secret that stays out of the image.
"""

import argparse
import ast
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from images import CPU, GPU
from tasks.gdsd.errors import GdsdError

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {"cpu": CPU.image, "gpu": GPU.image}
PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")  # of a base that is made here
SUITE = "bookworm"  # the Debian of the public base, with Python 3.11


class ImageError(GdsdError, RuntimeError):
    """An image cannot be built here, or is not what the pipeline needs."""


@dataclass(frozen=True)
class Engine:
    """What builds images and runs commands in them."""

    name: str  # docker or buildah
    options: tuple[str, ...] = ()  # of every build and run

    @contextmanager
    def container(self, image: str, folder: Path) -> Iterator[list[str]]:
        """Gives the beginning of a command line that runs a command in an image, as the image's user.

        Args:
            folder: what is /exchange inside.
        """
        exchange = f"--volume={folder}:/exchange"
        if self.name == "docker":
            yield ["docker", "run", "--rm", exchange, image]
            return
        made = output(["buildah", "from", "--pull-never", image]).strip()
        try:
            yield ["buildah", "run", *self.options, exchange, made, "--"]
        finally:
            output(["buildah", "rm", made])

    def size(self, image: str) -> str:
        """Returns what an image takes on disk, as the engine phrases it."""
        return output([self.name, "images", "--format", "{{.Size}}", image]).strip()


def find_engine() -> Engine:
    """Returns docker where its daemon answers, else buildah.

    Raises:
        ImageError: there is neither.
    """
    reason = "docker is not installed"
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True)
        if asked.returncode == 0:
            return Engine("docker")
        reason = "docker is installed but has no daemon that answers"
    if shutil.which("buildah"):
        # Without a runtime for containers buildah can still change its root, which root may do.
        runtime = any(shutil.which(name) for name in ("crun", "runc"))
        return Engine("buildah", () if runtime else ("--isolation=chroot",))
    raise ImageError(
        f"nothing here can build an image: {reason}, and buildah is not installed either; install one "
        "(Debian: apt-get install buildah)"
    )


def output(command: Sequence[str]) -> str:
    """Returns what a command prints.

    Raises:
        ImageError: it fails.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ImageError(f"{' '.join(command)} failed with status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def show(command: Sequence[str]) -> None:
    """Runs a command whose output the user sees.

    Raises:
        ImageError: it fails.
    """
    done = subprocess.run(command)
    if done.returncode:
        raise ImageError(f"{' '.join(command)} failed with status {done.returncode}")


def pip_settings(listing: str) -> dict[str, str]:
    """Reads what `pip config list` prints: a setting's name and its value, where the environment has the last word."""
    found = [line.partition("=") for line in listing.splitlines() if "=" in line]
    settings: dict[str, str] = {}
    for environment in (False, True):
        for name, _, value in found:
            if name.startswith(":env:") is environment:
                settings[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    return settings


def pip_folders(settings: Mapping[str, str]) -> list[str]:
    """Returns the folders of this machine that settings of pip name."""
    folders = set()
    for word in " ".join(settings.values()).split():
        path = Path(word.removeprefix("file://"))
        if not path.is_absolute() or not path.exists():
            continue
        # What an index or a file refers to lies beside it.
        folders.add(str(path.parent if path.is_file() or word.startswith("file://") else path))
    return sorted(folders)


def build(engine: Engine, target: str, arguments: Mapping[str, str]) -> None:
    """Builds one target of the Dockerfile.

    Raises:
        ImageError: the build fails, or would need folders of this machine that docker cannot show to it.
    """
    settings = pip_settings(output([sys.executable, "-m", "pip", "config", "list"]))
    folders = pip_folders(settings)
    if folders and engine.name == "docker":
        raise ImageError(
            f"pip's settings on this machine name folders of it ({', '.join(folders)}), which docker cannot show to a "
            "build; use buildah, or give pip an index by its address and the base its certificates"
        )
    command = [
        engine.name,
        "build",
        *engine.options,
        *(f"--build-arg={name}={value}" for name, value in arguments.items()),
    ]
    if engine.name == "buildah":
        command += ["--network=host", "--layers"]
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as secret:
        secret.write("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        secret.flush()
        command.append(f"--secret=id=pip,src={secret.name}")
        if folders:
            # Apart from the image, in which each of them would stay as an empty folder.
            seen = (f"--volume={folder}:{folder}:ro" for folder in folders)
            show([*command, *seen, f"--target={target}-packages", str(ROOT)])
        show([*command, f"--target={target}", f"--tag={TARGETS[target]}", str(ROOT)])


def make_base(name: str) -> None:
    """Makes a base from Debian's packages, for a machine that reaches them but no registry of images.

    Raises:
        ImageError: buildah or debootstrap is missing, or the user is not root.
    """
    missing = [tool for tool in ("buildah", "debootstrap") if not shutil.which(tool)]
    if missing:
        raise ImageError(f"a base is made by {' and '.join(missing)}, which is not installed; apt-get install it")
    with tempfile.TemporaryDirectory(prefix="gdsd-base-") as folder:
        show(["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, folder])
        for left in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(Path(folder, left))
            Path(folder, left, "partial").mkdir(parents=True)
        made = output(["buildah", "from", "scratch"]).strip()
        output(["buildah", "add", made, folder, "/"])
        output(["buildah", "config", "--cmd", "bash", made])
        output(["buildah", "commit", "--rm", made, name])


def main(arguments: Sequence[str]) -> int:
    """Builds and checks images; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m images.build", description="Builds the images of the pipeline and runs a task in each."
    )
    parser.add_argument("--target", choices=[*TARGETS], action="append", help="default: both")
    parser.add_argument("--base", help="what both images start from; default: the Dockerfile's")
    parser.add_argument("--extras", help="optional dependencies that are installed too, such as tracking")
    parser.add_argument("--torch-cpu-index", help="address of torch's build for the CPU; '' for pip's own index")
    parser.add_argument("--torch-gpu-index", help="address of torch's build with CUDA; '' for pip's own index")
    parser.add_argument("--make-base", metavar="NAME", help="make a base of this name and nothing else")
    parser.add_argument("--check-only", action="store_true", help="check images that are built")
    given = parser.parse_args(arguments)
    chosen = {
        "BASE": given.base,
        "EXTRAS": given.extras,
        "TORCH_CPU_INDEX": given.torch_cpu_index,
        "TORCH_GPU_INDEX": given.torch_gpu_index,
    }
    try:
        if given.make_base:
            make_base(given.make_base)
            return 0
        from images.check import check

        engine = find_engine()
        for target in given.target or TARGETS:
            if not given.check_only:
                build(engine, target, {name: value for name, value in chosen.items() if value is not None})
            print(f"{TARGETS[target]}: {engine.size(TARGETS[target])}")
            for line in check(engine, TARGETS[target], cuda=target == "gpu"):
                print(f"{TARGETS[target]}: {line}")
    except GdsdError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
