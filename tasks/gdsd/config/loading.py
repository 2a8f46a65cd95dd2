"""A configuration as a command is given it: a file, or JSON itself, and single fields that the command changes."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from tasks.gdsd.config import changes, written
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.modules import own
from tasks.gdsd.strict import StrictJson

WORKFLOWS: dict[type[StrictJson], str] = {
    TrainConfig: "train and retrain",
    EvaluateConfig: "evaluate",
    CompareConfig: "compare",
}
Loaded = TypeVar("Loaded", bound=StrictJson)


def load(kind: type[Loaded], file: str | Path, changed: Sequence[str] = ()) -> Loaded:
    """Returns the configuration of a file, beside which paths in it and modules that it names are looked for.

    Args:
        changed: fields with the values that they have instead, such as `rollout.group_size=8`.

    Raises:
        OSError: the file cannot be read.
        ConfigError: there is no such file, or it or a changed field is refused.
    """
    return _load(kind, written.read(file), changed, Path(file).absolute().parent)


def given(kind: type[Loaded], text: str, changed: Sequence[str] = (), folder: str | Path = "") -> Loaded:
    """Returns the configuration of a file whose name is given, or of JSON.

    Args:
        changed: as for `load`.
        folder: what paths in JSON are relative to; by default, the working directory.

    Raises:
        OSError: the file cannot be read.
        ConfigError: there is no such file, or it, the JSON or a changed field is refused.
    """
    if os.path.isfile(text) or not text.lstrip().startswith("{"):
        return load(kind, text, changed)
    return _load(kind, written.inline(text), changed, Path(folder).absolute())


def _load(kind: type[Loaded], text: str, changed: Sequence[str], folder: Path) -> Loaded:
    own.configured_in(folder)
    _require_kind(kind, text)
    return kind.read(changes.apply(kind, text, changed) if changed else text, folder)


def _require_kind(kind: type[StrictJson], text: str) -> None:
    """Refuses the configuration of another workflow in a sentence, in place of a list of its fields.

    What is no mapping, and what is of no workflow, is told better where it is read.
    """
    keys = json.loads(text) if text.lstrip().startswith("{") else {}
    unknown = [key for key in keys if key not in kind.model_fields]
    other = next((name for each, name in WORKFLOWS.items() if set(keys) <= set(each.model_fields)), None)
    if unknown and other is not None and kind in WORKFLOWS:
        raise ConfigError(
            f"this is a configuration of {other}, since it has {', '.join(unknown)}; {WORKFLOWS[kind]} takes "
            f"{', '.join(kind.model_fields)}"
        )
