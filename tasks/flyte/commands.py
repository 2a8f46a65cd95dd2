"""Commands for people to paste: on this machine they work in any folder, and on a cluster in a checkout."""

import shlex
import shutil
import sys
from pathlib import Path

from flytekit import current_context

from tasks.flyte.local import in_pod
from tasks.flyte.sources import ROOT

PYFLYTE = "pyflyte"


def run(file: str, workflow: str, *options: str) -> str:
    """Returns the command that runs a workflow where this one runs.

    Args:
        file: with the workflow, below the folder of the sources.
        options: of the workflow, word by word; what they name has to be the same from every folder.
    """
    running = current_context().execution_id if in_pod() else None
    if running is None:
        words = [_pyflyte(), "run", str(ROOT / file)]
    else:
        words = [PYFLYTE, "run", "--remote", "-p", running.project, "-d", running.domain, file]
    return shlex.join([*words, workflow, *options])


def _pyflyte() -> str:
    """The name of this environment's program; its path, where a shell would find none or another one by its name."""
    own, found = Path(sys.executable).with_name(PYFLYTE), shutil.which(PYFLYTE)
    is_found = found is not None and Path(found).resolve() == own.resolve()
    return PYFLYTE if is_found or not own.is_file() else str(own)
