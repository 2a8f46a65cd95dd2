"""A user's own domain: a class in a module of theirs, named in the configuration by its dotted path."""

import hashlib
import importlib
import importlib.util
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.gdsd.domains.base import Answer, Domain, DomainConfig
from tasks.gdsd.errors import ConfigError


class CustomConfig(DomainConfig):
    """A subclass of `Domain` that is not part of this project.

    The module is imported when the configuration is loaded: it is the user's code, like the workflow itself. Results
    are cached by its file's content; what that file imports is not followed.
    """

    name: Literal["custom"] = "custom"
    path: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="`my_package.my_domain:MyDomain`; the class is called with options",
    )
    options: dict[str, bool | int | float | str] = Field({}, description="keyword arguments of the class")
    sha256: str = Field(
        default_factory=lambda data: _pin(data["path"]),
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the module's file; read from the file when the configuration is loaded, if not given",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (found := _pin(self.path)) != self.sha256:
            raise ValueError(
                f"the file of {self.path!r} has sha256 {found}, but {self.sha256} was pinned; restore it or pin anew"
            )
        return self


def _pin(path: str) -> str:
    """Returns the SHA-256 of a module's file, which is not imported for it."""
    module = path.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # this imports the packages around the module, which may raise anything
        raise ConfigError(
            f"domain {path!r}: {_said(error)}; the package must be importable where pyflyte runs"
        ) from error
    if spec is None or spec.origin is None or not spec.has_location:
        raise ConfigError(
            f"domain {path!r}: there is no module {module!r}; it must be importable where pyflyte runs, and on a "
            "cluster lie in the project's folder or in the image"
        )
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def make(config: CustomConfig) -> Domain:
    """Imports the class and calls it with the options.

    Raises:
        ConfigError: there is no such class, it is incomplete, or it refuses the options.
    """
    module, _, name = config.path.partition(":")
    try:
        kind = vars(importlib.import_module(module)).get(name)
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"domain {config.path!r} cannot be imported: {_said(error)}") from error
    if not (isinstance(kind, type) and issubclass(kind, Domain)):
        raise ConfigError(f"domain {config.path!r}: {name!r} is no subclass of tasks.gdsd.domains.base.Domain")
    declared = ("parts", "columns", "example")
    if missing := [attribute for attribute in declared if not any(attribute in vars(base) for base in kind.__mro__)]:
        raise ConfigError(f"domain {config.path!r} does not set {', '.join(missing)}; see docs/domains/custom.md")
    if (flaw := _flaw(kind)) is not None:
        raise ConfigError(f"domain {config.path!r}: {flaw}; see docs/domains/custom.md")
    try:
        return kind(**config.options)
    except Exception as error:
        raise ConfigError(f"domain {config.path!r} refuses the options {config.options}: {_said(error)}") from error


def _flaw(kind: type[Domain]) -> str | None:
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
    return None


def _weighted(part: tuple[object, object]) -> bool:
    name, weight = part
    return isinstance(name, str) and name != "" and isinstance(weight, int | float) and math.isfinite(weight)
