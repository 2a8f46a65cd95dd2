"""Inputs as `pyflyte run` gets them: read as `config/written` reads, which takes nothing for something else.

flytekit reads YAML and JSON by libraries that take the last of several equal keys, and has no setting for it. Nor has
it an option that changes one field of an input, which a command with one configuration gets here: `--set`.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import rich_click as click
from click.core import ParameterSource

from tasks.flyte import commands
from tasks.flyte.console import runs_here, seen_by_a_person
from tasks.gdsd.config import loading, written
from tasks.gdsd.errors import GdsdError
from tasks.gdsd.strict import StrictJson

RUN = "flytekit.clis.sdk_in_container.run"
FILE, CHANGE = "--inputs-file", "--set"  # options, and what click's context has of them
NONE = click.Option(["--none"]).default  # what says in click that there is no default


def read_strictly() -> None:
    """Replaces flytekit's reading of configurations, and of `--inputs-file`, where this is `pyflyte run`."""
    if RUN not in sys.modules:
        return  # a pod, or a program that only imports the workflows
    from flytekit.clis.sdk_in_container import run
    from flytekit.core.workflow import WorkflowBase
    from flytekit.interaction import click_types

    class Given(click_types.JsonParamType):  # type: ignore[misc]  # flytekit gives it no types
        """An input that is a JSON object, or the name of a file with one."""

        def configuration(self) -> type[StrictJson] | None:
            kind = self._python_type
            return kind if isinstance(kind, type) and issubclass(kind, StrictJson) else None

        def convert(self, value: object, param: click.Parameter, ctx: click.Context) -> object:
            kind = self.configuration()
            if kind is None or not isinstance(value, str):
                return super().convert(value, param, ctx)
            return _configured(kind, value, param, ctx)

    class Command(run.YamlFileReadingCommand):  # type: ignore[misc]  # likewise
        """A workflow as a command."""

        def __init__(self, name: str, params: list[click.Parameter], help: str, callback: object = None) -> None:
            for each in params:
                if each.required and each.default is None:
                    each.default = NONE  # click takes flytekit's None for a value, and misses nothing
            configurations = [each for each in params if isinstance(each.type, Given) and each.type.configuration()]
            if len(configurations) == 1:
                params.append(_change(configurations[0]))
            super().__init__(name=name, params=params, help=help, callback=callback)

        def parse_args(self, ctx: click.Context, args: list[str]) -> object:
            commands.keep(ctx, args)
            with in_words():
                return super().parse_args(ctx, _with_file(ctx, args))

    class Inputs:
        """What of PyYAML reads `--inputs-file`."""

        YAMLError = run.yaml.YAMLError

        @staticmethod
        def safe_load(text: str) -> object:
            """Returns all inputs of a file."""
            return json.loads(written.parse(text.encode(), FILE))

    class NoSuchWorkflow(click.ClickException):
        """What flytekit raises, in a line: its own is a traceback."""

        def __init__(self, module: str, name: str) -> None:
            known = [own for own, value in vars(sys.modules[module]).items() if isinstance(value, WorkflowBase)]
            super().__init__(f"{module} has no workflow {name!r}; it has {', '.join(sorted(known))}")

    click_types.JsonParamType = Given
    run.YamlFileReadingCommand = Command
    run.yaml = Inputs
    run.FlyteEntityNotFoundException = NoSuchWorkflow


def _configured(kind: type[StrictJson], text: str, param: click.Parameter, ctx: click.Context) -> StrictJson:
    """Reads a configuration, with the fields that the command changes."""
    changed: Sequence[str] = ctx.meta.get(CHANGE, ())
    is_default = ctx.get_parameter_source(str(param.name)) == ParameterSource.DEFAULT
    if changed and is_default and text == kind().model_dump_json():
        text = "{}"  # where all fields are written, the fields of one kind would be those of another, if that is chosen
    found = loading.given(kind, text, changed, ctx.meta.get(FILE, ""))
    if not runs_here():
        from tasks.flyte.own_code import ship_own

        ship_own(found)
    return found


def _change(configuration: click.Parameter) -> click.Option:
    """Returns the option that changes fields of a configuration, which click reads before all others."""

    def keep(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
        ctx.meta[CHANGE] = value

    return click.Option(
        [CHANGE],
        multiple=True,
        is_eager=True,
        expose_value=False,
        callback=keep,
        metavar="FIELD=VALUE",
        help=f"changes one field of {configuration.name}, such as rollout.group_size=8; may be given several times",
    )


def _with_file(ctx: click.Context, args: list[str]) -> list[str]:
    """Returns the words of a command as flytekit reads them, where they name a file of inputs that is there."""
    args = [part for word in args for part in (word.split("=", 1) if word.startswith(f"{FILE}=") else [word])]
    if FILE in args[:-1]:
        file = args[args.index(FILE) + 1]
        written.require_file(file)
        ctx.meta[FILE] = Path(file).absolute().parent  # what paths in it are relative to
    return args


@contextmanager
def in_words() -> Iterator[None]:
    """Shows a refusal by its words alone: its way through the code would push them off the screen."""
    try:
        yield
    except (GdsdError, OSError) as error:
        if not seen_by_a_person():
            raise
        raise click.ClickException(f"{type(error).__name__}: {error}") from None
