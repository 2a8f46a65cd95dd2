"""Inputs as `pyflyte run` gets them: read as `config/written` reads, which takes nothing for something else.

flytekit reads YAML and JSON by libraries that take the last of several equal keys, and has no setting for it.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import rich_click as click

from tasks.flyte.console import seen_by_a_person
from tasks.gdsd.config import written
from tasks.gdsd.errors import GdsdError
from tasks.gdsd.strict import StrictJson

RUN = "flytekit.clis.sdk_in_container.run"


def read_strictly() -> None:
    """Replaces flytekit's reading of configurations, and of `--inputs-file`, where this is `pyflyte run`."""
    if RUN not in sys.modules:
        return  # a pod, or a program that only imports the workflows
    from flytekit.clis.sdk_in_container import run
    from flytekit.interaction import click_types

    class Given(click_types.JsonParamType):  # type: ignore[misc]  # flytekit gives it no types
        """An input that is a JSON object, or the name of a file with one."""

        def _parse(self, value: object, param: object) -> object:
            kind = self._python_type
            if isinstance(value, str) and isinstance(kind, type) and issubclass(kind, StrictJson):
                return json.loads(written.given(value))
            return super()._parse(value, param)

        def convert(self, value: object, param: object, ctx: object) -> object:
            with in_words():
                return super().convert(value, param, ctx)

    class Inputs:
        """What of PyYAML reads `--inputs-file`."""

        YAMLError = run.yaml.YAMLError

        @staticmethod
        def safe_load(text: str) -> object:
            """Returns all inputs of a file."""
            with in_words():
                return json.loads(written.parse(text.encode(), "--inputs-file"))

    click_types.JsonParamType = Given
    run.yaml = Inputs


@contextmanager
def in_words() -> Iterator[None]:
    """Shows a refusal by its words alone: its way through the code would push them off the screen."""
    try:
        yield
    except (GdsdError, OSError) as error:
        if not seen_by_a_person():
            raise
        raise click.ClickException(f"{type(error).__name__}: {error}") from None
