"""Cache versions that follow the sources, and sources that travel with a remote run.

A task's result depends on the code that it reaches. Both needs start from the same set: the task's own file and every
file under `tasks/` that it imports, directly or not, at the top of a file or inside a function.
"""

import ast
import hashlib
import json
import os
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import ModuleType
from typing import NamedTuple

from flytekit.core.cache import VersionParameters

from tasks.gdsd import files
from tasks.gdsd.modules import syntax

ROOT = Path(__file__).resolve().parents[2]
# Their numerics and verdicts are part of a result.
LIBRARIES = ("accelerate", "peft", "sympy", "torch", "transformers")
# Where a task runs and keeps its files, by what version, how often it is tried, and what is said meanwhile, is no part
# of what it gives.
PLACES = frozenset(
    {
        "tasks.gdsd.config.hardware",
        "tasks.flyte.attempts",
        "tasks.flyte.console",
        "tasks.flyte.folders",
        "tasks.flyte.hits",
        "tasks.flyte.registration",
        "tasks.flyte.retry",
        "tasks.flyte.stage",
        "tasks.flyte.telling",
    }
)
DECORATORS = ("cpu_task", "gpu_task", "unroll")


class SourceVersion:
    """A cache version that changes when code behind the task's result changes, and only then.

    Comments, docstrings, formatting, the task's own resources and what a configuration can say of them do not count.
    """

    def get_version(self, salt: str, params: VersionParameters) -> str:
        """Returns a digest of the sources that the task reaches and of the numerical libraries' versions."""
        return source_digest(params.func.__module__, salt)


def source_digest(module: str, salt: str = "") -> str:
    """Returns a digest of the code that a module reaches, and of the versions that are part of what it gives."""
    digest = hashlib.sha256(salt.encode())
    for name in sorted(reach(module) - PLACES):
        digest.update(f"{name}\0{_read(name).meaning}\0".encode())
    digest.update(_installed())
    return digest.hexdigest()


@cache
def _installed() -> bytes:
    """The versions that are part of a result; Python's too, which runs the code of answers."""
    python = f"python=={sys.version_info[0]}.{sys.version_info[1]}\0"
    libraries = [f"{library}=={version(library).split('+')[0]}\0" for library in LIBRARIES]
    return "".join([python, *libraries]).encode()


def reach(module: str) -> frozenset[str]:
    """Returns the names of the modules under `tasks/` that a module reaches, itself included."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imports(name)
    return frozenset(found)


def ship(modules: frozenset[str]) -> None:
    """Makes modules that are imported only inside task bodies travel with `pyflyte run --remote`.

    flytekit uploads the files of the modules that are loaded. Loading these would import torch for `--help`, so each is
    announced by a bare module object, under a key that no import can hit, that has nothing but the file's name.
    """
    for name in modules:
        path = _path(name)
        if path is not None and name not in sys.modules:
            announce(name, path)
    NOTES.keep()


def announce(name: str, path: Path) -> None:
    """Makes a file travel as that of a module would."""
    announced = ModuleType(name)
    announced.__file__ = str(path)
    sys.modules[f"{name} (source)"] = announced


@cache
def _path(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


class _Module(NamedTuple):
    """What a source says."""

    imports: list[str]  # the names of modules under `tasks/` that it imports, and of what it takes from them
    meaning: str  # digest of its syntax tree without docstrings and without the decorators of `tasks.flyte.stage`


class _Notes:
    """What earlier processes read in the sources, kept beside what Python compiled of them, and known by like signs.

    Reading all of them anew is a fifth of the start of `pyflyte run`.
    """

    def __init__(self) -> None:
        self._file = Path(__file__).parent / f"__pycache__/sources.{sys.implementation.cache_tag}.json"
        # By which another version of what reads them knows that the notes are not its own.
        self._own = [*files.signs(Path(__file__)), *files.signs(Path(str(syntax.__file__)))]
        self._new = False
        self._notes: dict[str, list[object]] = {}
        with suppress(OSError, ValueError):
            kept = json.loads(self._file.read_text("utf-8"))
            if kept["own"] == self._own:
                self._notes = kept["sources"]

    def read(self, path: Path) -> _Module:
        """Reads a source, or takes what is known of it."""
        name, signs = str(path.relative_to(ROOT)), list(files.signs(path))
        match self._notes.get(name):
            case [known, [*imports], str(meaning)] if known == signs:
                return _Module([str(item) for item in imports], meaning)
        found = _parse(path)
        self._notes[name], self._new = [signs, *found], True
        return found

    def keep(self) -> None:
        """Writes what was read anew; where nothing may be written, it is read again next time."""
        if self._new:
            with suppress(OSError), NamedTemporaryFile("w", dir=self._file.parent, delete=False) as file:
                json.dump({"own": self._own, "sources": self._notes}, file)
                os.replace(file.name, self._file)  # at once, since other processes read it
            self._new = False


NOTES = _Notes()


@cache
def _read(name: str) -> _Module:
    path = _path(name)
    return _Module([], "") if path is None else NOTES.read(path)


def _parse(path: Path) -> _Module:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = [item for item in node.decorator_list if not _is_task(item)]
    package = ".".join(path.relative_to(ROOT).parent.parts)
    ours = sorted(name for name in syntax.imported(tree, package) if name.split(".")[0] == "tasks")
    return _Module(ours, syntax.meaning(tree))


def _imports(name: str) -> set[str]:
    """The modules under `tasks/` that one module imports, with the packages around them."""
    inside = {item for item in _read(name).imports if _path(item) is not None}
    return inside | {item.rsplit(".", depth)[0] for item in inside for depth in range(1, item.count(".") + 1)}


def _is_task(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id in DECORATORS
