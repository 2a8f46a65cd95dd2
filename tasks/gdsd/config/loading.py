"""A configuration as a command is given it: a file, or JSON itself, and single fields that the command changes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from tasks.gdsd.config import changes, written
from tasks.gdsd.modules import own
from tasks.gdsd.strict import StrictJson

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
    return kind.read(changes.apply(kind, text, changed) if changed else text, folder)
