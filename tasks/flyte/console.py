"""The console and the logs of pods: lines on standard error, refusals in words, and help without long defaults."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tasks.gdsd.errors import GdsdError


class _Above(logging.StreamHandler[TextIO]):
    """Writes lines above the progress bars that stand on a terminal, which would otherwise be torn."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line; where no bar was ever made, or none is shown, as any other handler."""
        if "tqdm" not in sys.modules or not self.stream.isatty():
            super().emit(record)
            return
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=self.stream)
        except Exception:  # as every handler of the standard library: a log line stops no run
            self.handleError(record)


def speak() -> None:
    """Sends the project's log lines to standard error, once, leaving other libraries' as they are."""
    project = logging.getLogger("tasks")
    if not project.handlers:
        handler = _Above(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        project.addHandler(handler)
        project.setLevel(logging.INFO)
        project.propagate = False


def shorten_help() -> None:
    """Leaves the defaults out of the help that pyflyte is about to show: here each is an experiment of some screens."""
    from rich_click import RichContext, get_current_context

    context = get_current_context(silent=True)
    if isinstance(context, RichContext):
        context.help_config.options_table_help_sections = ["help", "deprecated", "envvar", "required"]


def seen_by_a_person() -> bool:
    """Whether `pyflyte run` will show an error, and was not asked for more with -v."""
    from rich_click import get_current_context

    context = get_current_context(silent=True)
    return context is not None and not context.find_root().params.get("verbose")


def runs_here() -> bool:
    """Whether `pyflyte run` loads a workflow to run it on this machine, rather than on a cluster."""
    from rich_click import get_current_context

    context = get_current_context(silent=True)
    return getattr(None if context is None else context.obj, "is_remote", True) is False


@contextmanager
def others_silent() -> Iterator[None]:
    """Keeps from a person what libraries log that no one has told where to: often an error that they then raise."""
    fallback = logging.lastResort
    if fallback is None or not seen_by_a_person():
        yield
        return
    level = fallback.level
    fallback.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        fallback.setLevel(level)


def speak_in_words() -> None:
    """Lets a pod report an error of the project by its words alone; flytekit writes its way through the code too."""
    if "flytekit.bin.entrypoint" not in sys.modules:
        return  # no pod
    from flytekit.bin import entrypoint
    from flytekit.core.type_engine import TypeTransformerFailedError
    from flytekit.exceptions.user import FlyteUserRuntimeException

    with_traceback = entrypoint.get_traceback_str

    def in_words(error: Exception) -> str:
        value = error.value if isinstance(error, FlyteUserRuntimeException) else error
        refusal = value.__context__ if isinstance(value, TypeTransformerFailedError) else value  # of an input
        if isinstance(refusal, GdsdError):
            return f"{type(refusal).__name__}: {refusal}"
        return str(with_traceback(error))

    entrypoint.get_traceback_str = in_words
