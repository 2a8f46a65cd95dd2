"""A user's own domain: a class in a module of theirs, named in the configuration by its dotted path."""

import difflib
import importlib
import logging
import math
import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from tasks.gdsd.domains.base import Answer, Domain, DomainConfig
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.modules import own
from tasks.gdsd.modules.own import Code
from tasks.gdsd.strict import Located

IN_PROJECT = "project:"  # before a path in the project's folder, which lies elsewhere in a pod
logger = logging.getLogger(__name__)


class _Imported(NamedTuple):
    """A module as this process has imported it, which an edit of its file does not change."""

    folder: str | None
    sha256: str
    code: Code
    contents: dict[str, str | None]  # of all of its code, at the import
    module: ModuleType


_imported: dict[str, _Imported] = {}  # by the module's name


class CustomConfig(DomainConfig):
    """A subclass of `Domain` that is not part of this project.

    The module is imported when the configuration is loaded: it is the user's code, like the workflow itself. Results
    are cached by what it means, with all modules of the user's own that it imports and the files that `files` names.
    """

    name: Literal["custom"] = "custom"
    path: str = Field(
        description="`module:Class`, such as `my_package.my_domain:MyDomain`; the class is called with options",
    )
    options: dict[str, bool | int | float | str] = Field({}, description="keyword arguments of the class")
    folder: Annotated[str, Field(min_length=1), Located(beside=IN_PROJECT)] | None = Field(
        default_factory=lambda data: _found(data["path"]),
        description="folder from which the module is imported: a path, or `project:` and a path in the project's "
        "folder, as pods have it; null for an installed one. Found when the configuration is loaded, if not given",
    )
    sha256: str = Field(
        default_factory=lambda data: reached(data["path"], data["folder"]).sha256,
        pattern="^[0-9a-f]{64}$",
        description="digest of the module's code, of the modules of one's own that it imports and of its `files`; made "
        "when the configuration is loaded, if not given",
    )

    @field_validator("path")
    @classmethod
    def _names_a_class(cls, path: str) -> str:
        if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", path) is None:
            module, _, name = path.rpartition(".")
            meant = f"; did you mean '{module}:{name}'?" if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", path) else ""
            raise ValueError(
                "must be `module:Class`, the module's name as Python imports it, a colon and the name of the class, "
                f"such as 'my_package.my_domain:MyDomain', not {path!r:.80}{meant}"
            )
        return path

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (held := _held(self)) is not None:
            _tell_edited(self, held)
            return self
        code = reached(self.path, self.folder)
        _require_pinned(self, code)
        if code.unknown:
            _warn(f"domain {self.path!r}: a change of these is not noticed: {'; '.join(code.unknown)}")
        for words in code.unused:
            _warn(f"domain {self.path!r}: {words}")
        return self


def reached(path: str, folder: str | None) -> Code:
    """Returns the code of one's own that a class needs whose path and folder a configuration has.

    Raises:
        ConfigError: there is no such module, or Python finds another one of its name before.
    """
    module = path.partition(":")[0]
    place = None if folder is None else own.PROJECT / folder.removeprefix(IN_PROJECT)
    own.look_around(place)
    try:
        code = own.follow(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"domain {path!r}: {error}{_hidden(module)}; it must lie beside the configuration, where pyflyte was "
            "started, on PYTHONPATH or in the folder that `folder` beside `path` names, and on a cluster in the "
            "project's folder or in the image"
        ) from None
    if place is not None and code.folder != Path(os.path.realpath(place)):
        raise ConfigError(
            f"domain {path!r}: {module!r} should lie in {place}, but is found in {code.folder or 'what is installed'}; "
            "give it a name of its own, or correct `folder`"
        )
    return code


def _found(path: str) -> str | None:
    """Returns the folder of a class's module as a configuration has it."""
    folder = reached(path, None).folder
    if folder is None:
        return None
    return f"{IN_PROJECT}{folder.relative_to(own.PROJECT)}" if folder.is_relative_to(own.PROJECT) else str(folder)


def _require_pinned(config: CustomConfig, code: Code) -> None:
    if code.sha256 != config.sha256:
        changed = ", ".join([*code.modules, *code.data])
        raise ConfigError(
            f"the code of {config.path!r} ({changed}) has sha256 {code.sha256}, but {config.sha256} was pinned; "
            "restore it, or remove `sha256` to take the code as it is"
        )


def _held(config: CustomConfig) -> _Imported | None:
    """Returns the module of a configuration if this process has imported the very code that it pins."""
    held = _imported.get(config.path.partition(":")[0])
    return held if held is not None and (held.folder, held.sha256) == (config.folder, config.sha256) else None


def _hidden(module: str) -> str:
    """Says that a file of one's own is not the module that Python finds by its name, or nothing."""
    if (other := own.hidden(module)) is None:
        return ""
    top = module.partition(".")[0]
    return f" ({other} is hidden by another {top!r}, which Python finds before; give yours another name)"


@cache
def _warn(words: str) -> None:
    """Says something once."""
    logger.warning(words)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}{own.raised_at(error)}"


def make(config: CustomConfig) -> Domain:
    """Imports the class and calls it with the options.

    Raises:
        ConfigError: there is no such class, it is incomplete, or it refuses the options.
    """
    module, _, name = config.path.partition(":")
    held = _held(config) or _import(config)
    code, known = held.code, vars(held.module)
    if name not in known:
        raise ConfigError(
            f"domain {config.path!r}: the module {module!r} has no class {name!r}{_near(name, known)}{_hidden(module)}"
        )
    kind = known[name]
    if not (isinstance(kind, type) and issubclass(kind, Domain)):
        raise ConfigError(
            f"domain {config.path!r}: {name!r} is no subclass of tasks.gdsd.domains.base.Domain{_hidden(module)}"
        )
    declared = ("parts", "columns", "example")
    if missing := [attribute for attribute in declared if not any(attribute in vars(base) for base in kind.__mro__)]:
        raise ConfigError(f"domain {config.path!r} does not set {', '.join(missing)}; see docs/domains/custom.md")
    if (flaw := _flaw(kind, code)) is not None:
        raise ConfigError(f"domain {config.path!r}: {flaw}; see docs/domains/custom.md")
    try:
        return kind(**config.options)
    except Exception as error:
        raise ConfigError(f"domain {config.path!r} refuses the options {config.options}: {_said(error)}") from error


def _near(name: str, known: Mapping[str, object]) -> str:
    """Asks whether the nearest name of a domain was meant, or nothing."""
    kinds = [other for other, kind in known.items() if isinstance(kind, type) and issubclass(kind, Domain)]
    near = difflib.get_close_matches(name, [other for other in kinds if known[other] is not Domain], 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _import(config: CustomConfig) -> _Imported:
    """Imports the module; anew if other code was imported by its name before, as in a notebook after an edit."""
    module = config.path.partition(":")[0]
    code = reached(config.path, config.folder)
    _require_pinned(config, code)
    if _imported.pop(module, None) is not None:
        _forget(code)
    contents = own.contents(code)
    try:
        found = importlib.import_module(module)
    except Exception as error:  # the user's code may raise anything
        _forget(code)
        raise ConfigError(f"domain {config.path!r} cannot be imported: {_said(error)}") from error
    if not code.modules[module].samefile(str(found.__file__)):
        raise ConfigError(
            f"domain {config.path!r} is {code.modules[module]}, but {found.__file__} was imported by its name before; "
            "start Python anew"
        )
    _imported[module] = _Imported(config.folder, config.sha256, code, contents, found)
    return _imported[module]


def _forget(code: Code) -> None:
    """Lets Python read a code again when it is imported next."""
    for name in code.modules:
        sys.modules.pop(name, None)


def _tell_edited(config: CustomConfig, held: _Imported) -> None:
    """Says that code was edited since its import, which goes on as it is."""
    if edited := [name for name in _edited(held) if name in sys.modules]:
        _warn(
            f"domain {config.path!r}: {', '.join(edited)} was edited while it is in use; this goes on with the code as "
            "it was imported, and what is started next takes it as it is then"
        )


def require_as_imported(config: CustomConfig) -> None:
    """Refuses code that has to be read again, and is another by now: files of its own, and modules imported late.

    Raises:
        ConfigError: some was edited since this process imported the module.
    """
    held = _held(config)
    edited = [] if held is None else [name for name in _edited(held) if name not in sys.modules]
    if edited:
        raise ConfigError(
            f"domain {config.path!r}: {', '.join(edited)} was edited while it is in use, and is read only when it is "
            "needed; restore it, or start again, which takes it as it is then"
        )


def _edited(held: _Imported) -> list[str]:
    now = own.contents(held.code)
    return [name for name, before in held.contents.items() if now[name] != before]


def _flaw(kind: type[Domain], code: Code) -> str | None:
    """Says which attribute of a class is not what it has to be, or None."""
    parts: object = kind.parts
    if not isinstance(parts, Mapping) or not parts or not all(map(_weighted, parts.items())):
        return f"parts must be a mapping of at least one name to its weight, not {parts!r:.60}"
    for name, columns in {"columns": kind.columns, "optional": kind.optional}.items():
        if not isinstance(columns, list | tuple) or not all(isinstance(column, str) for column in columns):
            return f"{name} must be a tuple of names, such as ('number',), not {columns!r:.60}"
    if strange := sorted({*kind.optional} - {*kind.columns}):
        return f"optional has {', '.join(strange)}, but columns are {', '.join(kind.columns)}"
    example: object = kind.example
    if not isinstance(example, Answer) or not all(isinstance(text, str) for text in example):
        return f"example must be an Answer of three texts, not {example!r:.60}"
    for name, pattern in {"problem": kind.problem_pattern, "reference": kind.reference_pattern}.items():
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            return f"{name}_pattern must be a regular expression, not {pattern!r:.60} ({error})"
    return next(filter(None, (_unread(base, code) for base in kind.__mro__ if base.__module__ in code.modules)), None)


def _unread(kind: type, code: Code) -> str | None:
    """Says which of the files that a class lists itself was not found in its source, or None."""
    listed: object = vars(kind).get(own.LISTED, ())
    if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
        return f"{own.LISTED} must be a tuple of names, such as ('words.txt',), not {listed!r:.60}"
    for name in listed:
        if not any(path.as_posix().endswith(f"/{name}") for path in code.data.values()):
            return (
                f"{own.LISTED} has {name!r:.60}, which is not written out as a text in the class, or is no file below "
                f"{code.modules[kind.__module__].parent}"
            )
    return None


def _weighted(part: tuple[object, object]) -> bool:
    name, weight = part
    return isinstance(name, str) and name != "" and isinstance(weight, int | float) and math.isfinite(weight)
