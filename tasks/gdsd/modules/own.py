"""A person's own code: where its modules are looked for, and all of it that one of them reaches.

A module is looked for where Python looks anyway, then beside the configuration, then where the command was started.
These folders stand last on `sys.path`, which worker processes get too, so nothing in them hides another module.
"""

import ast
import hashlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.machinery import all_suffixes
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tasks.gdsd import files
from tasks.gdsd.errors import DataError, GdsdError, Interrupted
from tasks.gdsd.modules import syntax

PROJECT = Path(__file__).resolve().parents[3]
OURS = frozenset({"tasks", "workflows", "images"})  # which the versions of tasks follow
PACKAGES = frozenset({"site-packages", "dist-packages"})
LIBRARY = Path(os.path.realpath(os.path.dirname(os.__file__)))  # Python's own modules
LISTED = "files"  # the attribute of a class that names what it reads beside its module


class Code(NamedTuple):
    """A module of a person's own, with all of their own that it reaches."""

    folder: Path | None  # from which the module is imported; None where it is installed
    modules: dict[str, Path]  # the module, those that it imports and the packages around them, by their names
    data: dict[str, Path]  # what their classes list as `files`, by its path below the folder on `sys.path`
    unknown: list[str]  # what it uses that is not among them, in words
    unused: list[str]  # files of their own that a person may take for what it uses, in sentences
    sha256: str  # of what the modules mean and the data hold, wherever they lie


class _Source(NamedTuple):
    imports: set[str]
    meaning: str
    listed: list[str]  # files that its classes name
    unknown: list[syntax.Unknown]


_configuration: Path | None = None
_folders: list[str] = []  # of people's own, as they stand on `sys.path`


def configured_in(folder: Path) -> None:
    """Says for all of this process in which folder the configuration lies that is read now."""
    global _configuration
    _configuration = folder


def look_around(first: Path | None = None) -> None:
    """Lets Python find modules in a folder, if one is named, beside the configuration and in the working folder."""
    others = [place for place in sys.path if place not in _folders]
    named = [os.path.realpath(folder) for folder in (first, _configuration) if folder is not None]
    _folders[:] = [place for place in dict.fromkeys([*named, *_folders, os.getcwd()]) if place not in others]
    sys.path[:] = [*others, *_folders]


def follow(module: str) -> Code:
    """Finds out which code of a person's own a module reaches; nothing is imported for it.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    start = find(module)
    if start is None:
        raise ModuleNotFoundError(f"there is no module {module!r}")
    found = _reach(module)
    data = {
        file.relative_to(base(name, path)).as_posix(): file
        for name, (path, source) in found.items()
        for file in (path.parent / listed for listed in source.listed)
        if file.is_file()
    }
    total = hashlib.sha256()
    for name, (_, source) in sorted(found.items()):
        total.update(f"{name}\0{source.meaning}\0".encode())
    for name, file in sorted(data.items()):
        total.update(f"{name}\0{_digest(file, files.signs(file))}\0".encode())
    folder = None if _is_standard(module) or _is_installed(start) else base(module, start)
    modules = {name: path for name, (path, _) in found.items()}
    used = sorted({module}.union(*(source.imports for _, source in found.values())))
    return Code(folder, modules, data, _unknown(used, found), _unused(used), total.hexdigest())


def contents(code: Code) -> dict[str, str | None]:
    """Returns by their names what each module of a code means and each file of it holds now; None for what is gone."""
    now: dict[str, str | None] = {}
    for name, path in {**code.modules, **code.data}.items():
        try:
            signs = files.signs(path)
            now[name] = _digest(path, signs) if name in code.data else _read(name, path, signs).meaning
        except OSError:
            now[name] = None
    return now


def find(module: str) -> Path | None:
    """Returns the file that Python would import as a module; None if there is none, or if it is built in."""
    top, *inner = module.split(".")
    spec = next(filter(None, (finder.find_spec(top, None) for finder in sys.meta_path)), None)
    if spec is None:
        return None
    if inner:
        path = next(filter(None, (_file(place, inner) for place in spec.submodule_search_locations or ())), None)
    else:
        path = Path(spec.origin) if spec.has_location and spec.origin is not None else None
    if path is None or not path.is_file():
        return None
    folder = base(module, path)
    return Path(os.path.realpath(folder)) / path.relative_to(folder)


def hidden(module: str) -> Path | None:
    """Returns a file of a person's own that would be a module if Python did not find something else before."""
    if not (others := [file for folder in _folders if (file := _file(folder, module.split("."))) is not None]):
        return None
    taken = find(module)
    return next((other for other in others if taken is None or not other.samefile(taken)), None)


def base(module: str, path: Path) -> Path:
    """Returns the folder on `sys.path` from which a module is imported that lies in a file."""
    return path.parents[module.count(".") + (path.stem == "__init__")]


def raised_at(error: BaseException) -> str:
    """Returns in brackets the last file and line of a person's own code on the way to an error, or nothing.

    A syntax error names its place itself.
    """
    frames = [] if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if _is_own(frame.filename)), None)
    return "" if frame is None else f" ({frame.filename}, line {frame.lineno})"


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Says of an error in a person's own code what it is, where it was met and in which line it was raised.

    Args:
        what: whose code it is, and what it was given.

    Raises:
        DataError: the code raised something else than an error of the project.
    """
    try:
        yield
    except (GdsdError, Interrupted):
        raise
    except (Exception, SystemExit) as error:  # it may raise anything, and `exit()` would end the run
        said = f"{what} raised {type(error).__name__}: {error!s:.200}{raised_at(error)}"
        raise DataError(said) from error


def _is_own(file: str) -> bool:
    """Whether code lies in a file that is neither Python's, nor installed, nor this project's."""
    if not os.path.isabs(file):  # as of code without a file, such as `<string>`
        return False
    path = Path(os.path.realpath(file))
    ours = any(path.is_relative_to(PROJECT / top) for top in OURS)
    return not (ours or _is_installed(path) or path.is_relative_to(LIBRARY))


def _reach(module: str) -> dict[str, tuple[Path, _Source]]:
    """Reads a module, and all that it imports which is neither Python's, nor installed, nor this project's."""
    found: dict[str, tuple[Path, _Source]] = {}
    waiting, seen = [module], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        is_same = _top(name) == _top(module)
        if not is_same and (_is_standard(name) or _top(name) in OURS):
            continue
        path = find(name)
        if path is not None and (is_same or not _is_installed(path)):
            found[name] = path, _read(name, path, files.signs(path))
            waiting += found[name][1].imports
        if "." in name:
            waiting.append(name.rpartition(".")[0])  # the package around it, which is imported first
    return found


def _unknown(used: Sequence[str], found: dict[str, tuple[Path, _Source]]) -> list[str]:
    """Says what is used that is not followed."""
    listed = {name for path, source in found.values() for name in source.listed if (path.parent / name).is_file()}
    said = [
        f"what line {call.line} of {path} {call.does}"
        for _, (path, source) in sorted(found.items())
        for call in source.unknown
        if not any(map(call.names, listed))
    ]
    tops = sorted({_top(name) for name in used if name not in found})
    return said + [f"{top} (installed)" for top in tops if (path := find(top)) is not None and _is_installed(path)]


def _unused(used: Sequence[str]) -> list[str]:
    """Says which files have the name of a module that is used, and are not that module."""
    return [
        f"{other} is not used, since {_top(name)!r} is another module; give it another name if it is meant"
        for name in used
        if (other := hidden(name)) is not None and (_top(name) not in OURS or find(name) is None)
    ]


@cache
def _read(module: str, path: Path, signs: files.Signs) -> _Source:
    try:
        tree = ast.parse(path.read_bytes()) if path.suffix == ".py" else None
    except (SyntaxError, ValueError):  # its import will say so
        tree = None
    if tree is None:
        return _Source(set(), files.digest(path), [], [])
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    listed = sorted(name for name in syntax.listed(tree, LISTED) if _is_below(name))
    return _Source(syntax.imported(tree, package), syntax.meaning(tree), listed, list(syntax.unknown(tree)))


@cache
def _digest(path: Path, signs: files.Signs) -> str:
    return files.digest(path)


def _file(folder: str | Path, names: list[str]) -> Path | None:
    """The file of a module in a folder, as Python would choose it."""
    place = os.path.join(folder, *names)
    found = [f"{place}/__init__.py", *(place + suffix for suffix in all_suffixes())]
    return next(map(Path, filter(os.path.isfile, found)), None)


def _is_below(name: str) -> bool:
    """Whether the name of a file leads to no other folder than those below the one in which it is looked for."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_standard(module: str) -> bool:
    return _top(module) in sys.stdlib_module_names


def _is_installed(path: Path) -> bool:
    return not PACKAGES.isdisjoint(path.parts)
