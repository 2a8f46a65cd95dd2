"""Where a run came from: sources, packages, machine, execution, parents, and the command that repeats it."""

import os
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path

from tasks.gdsd.records import Record

# Those that a reader asks for first; the record has all.
MAIN = ("torch", "transformers", "peft", "accelerate", "flytekit", "numpy", "pyarrow", "pydantic")
# Repeats a run on any machine, in a checkout and with the file of the run's folder.
IN_CHECKOUT = "pyflyte run workflows/gdsd.py train --config config.yaml"


class SourceState(Record):
    """The checkout that a run's code lay in."""

    commit: str
    clean: bool  # whether the files were as committed, and no others beside them


class Execution(Record):
    """A run of the workflow on a cluster."""

    project: str
    domain: str
    name: str
    image: str | None
    version: str | None  # of the registered workflow


class Provenance(Record):
    """All that a result depends on beside its configuration, as far as it can be known."""

    sources_sha256: str  # of the code that the workflow reaches, as the cache's versions see it
    source: SourceState | None  # None where the code lay in no git checkout, as in a pod
    python: str
    platform: str
    cpus: int
    packages: dict[str, str]
    execution: Execution | None  # None in a local run
    base_sha256: str | None  # of the checkpoint that the first round began with
    policy_sha256: str  # of the published one
    policy_pin: str  # of the published one too, as `policy.model` of a run that trains it further has it
    command: str  # that repeats the run: from any folder of the machine, or in a checkout, if it was on a cluster


def record(
    root: Path,
    sources_sha256: str,
    execution: Execution | None,
    base_sha256: str | None,
    policy_sha256: str,
    policy_pin: str,
    command: str,
) -> Provenance:
    """Returns the provenance of a run whose report this process writes.

    Args:
        root: the folder of the sources.
        command: which repeats the run.
    """
    packages = {found.name: found.version for found in distributions()}
    return Provenance(
        sources_sha256=sources_sha256,
        source=source_state(root),
        python=platform.python_version(),
        platform=platform.platform(),
        cpus=os.cpu_count() or 1,
        packages=dict(sorted(packages.items(), key=lambda item: item[0].lower())),
        execution=execution,
        base_sha256=base_sha256,
        policy_sha256=policy_sha256,
        policy_pin=policy_pin,
        command=command,
    )


def source_state(root: Path) -> SourceState | None:
    """Returns the state of the git checkout whose root a folder is, None where it is none or git is not there."""
    try:
        top = _git(root, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != root.resolve():
            return None  # some other project's, around an installation
        return SourceState(commit=_git(root, "rev-parse", "HEAD"), clean=not _git(root, "status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    # No lock is taken, so that a report never disturbs what its reader does in the checkout.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return found.stdout.strip()
