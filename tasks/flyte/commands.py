"""Commands for people to paste: on this machine they work in any folder, and on a cluster in a checkout."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import rich_click as click
from flytekit import current_context

from tasks.flyte.local import in_pod
from tasks.flyte.sources import ROOT

PYFLYTE = "pyflyte"
GIVEN = "gdsd.given"  # what click's context has of the words of a workflow's command, and of the folder of its start


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


def keep(context: click.Context, words: Sequence[str]) -> None:
    """Keeps the words behind a workflow's name, as a person gave them, for `again`."""
    context.meta[GIVEN] = (os.getcwd(), tuple(words))


def again(file: str, workflow: str, *more: str) -> str | None:
    """Returns the command that this run was started with, for any folder; None where no such command runs here.

    It reads the configuration and what that names anew, as they are then.

    Args:
        file: with the workflow, below the folder of the sources.
        more: options that take the place of those that were given.
    """
    context = click.get_current_context(silent=True)
    folder, words = ("", ()) if context is None else context.meta.get(GIVEN, ("", ()))
    if not folder or words[-1:] == ("-",):  # inputs that came through a pipe are gone
        return None
    more = () if words[len(words) - len(more) :] == more else more
    return f"cd {shlex.quote(folder)} && {run(file, workflow, *words, *more)}"


def _pyflyte() -> str:
    """The name of this environment's program; its path, where a shell would find none or another one by its name."""
    own, found = Path(sys.executable).with_name(PYFLYTE), shutil.which(PYFLYTE)
    is_found = found is not None and Path(found).resolve() == own.resolve()
    return PYFLYTE if is_found or not own.is_file() else str(own)
