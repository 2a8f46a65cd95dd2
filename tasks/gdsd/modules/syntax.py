"""What a Python source says: the modules that it imports, and what its code means."""

import ast
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import resolve_name
from pathlib import PurePosixPath
from typing import NamedTuple

IMPORTERS = ("import_module", "__import__")
LOADERS = ("spec_from_file_location", "run_path", "run_module")  # which take a file or a name that is no import
READERS = ("open", "read_text", "read_bytes", "read_csv", "read_json", "read_parquet")  # and np.load


class Unknown(NamedTuple):
    """A call that imports or reads what only the running code knows."""

    line: int
    does: str  # what it does, in a word
    texts: frozenset[str]  # that are written out in a call that reads

    def names(self, file: str) -> bool:
        """Whether the call has a file's name written out, as a whole or folder by folder."""
        return file in self.texts or self.texts.issuperset(PurePosixPath(file).parts)


def imported(tree: ast.AST, package: str) -> set[str]:
    """Returns the modules that a source imports, at its top or inside a function, and what it takes from them.

    Args:
        package: of the source; a package's own source belongs to it. Relative names begin there.
    """
    named: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # it leads out of the package, as Python will say
                module = resolve_name("." * node.level + (node.module or ""), package)
                named |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and _called(node) in IMPORTERS and (name := _first(node)):
            with suppress(ImportError):
                named.add(resolve_name(name, package))
    return named


def unknown(tree: ast.AST) -> Iterator[Unknown]:
    """Yields the calls whose imports or files only the running code knows."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = _called(node)
            if called in LOADERS or (called in IMPORTERS and not _first(node)):
                yield Unknown(node.lineno, "imports", frozenset())
            elif called in READERS or _is_numpy_load(node):
                texts = (_text(part).removeprefix("/") for part in ast.walk(node))  # f"{folder}/name"
                yield Unknown(node.lineno, "reads", frozenset(filter(None, texts)))


def listed(tree: ast.AST, name: str) -> set[str]:
    """Returns the texts in the lists and tuples that classes have as an attribute of this name."""
    found: set[str] = set()
    for node in ast.walk(tree):
        for statement in node.body if isinstance(node, ast.ClassDef) else ():
            match statement:
                case (
                    ast.Assign(targets=[ast.Name(id=own)], value=ast.List(elts=items) | ast.Tuple(elts=items))
                    | ast.AnnAssign(target=ast.Name(id=own), value=ast.List(elts=items) | ast.Tuple(elts=items))
                ) if own == name:
                    found |= {text for item in items if (text := _text(item))}
    return found


def meaning(tree: ast.AST) -> str:
    """Returns a digest of code without comments, docstrings and formatting, which takes the docstrings out of the tree.

    It is the same under Python 3.11 and 3.12: what is empty does not count, since they differ in it.
    """
    words: list[str] = []
    waiting: list[object] = [tree]
    while waiting:  # and no call inside a call, since a chain of hundreds of `elif` is as deep as it is long
        part = waiting.pop()
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            part.body = [item for item in part.body if not _is_docstring(item)]
        if isinstance(part, ast.JoinedStr):  # from 3.12 on, what stands behind the last {} of a format too, if nothing
            part.values = [item for item in part.values if not (isinstance(item, ast.Constant) and item.value == "")]
        if isinstance(part, ast.AST):
            fields = {name: value for name, value in ast.iter_fields(part) if value is not None and value != []}
            words.append(f"{type(part).__name__}({','.join(fields)})")
            waiting += fields.values()
        elif isinstance(part, list):
            words.append(f"[{len(part)}]")
            waiting += part
        else:
            words.append(ascii(part))
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _called(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _is_numpy_load(call: ast.Call) -> bool:
    """Other modules load from what was opened before."""
    match call.func:
        case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="load"):
            return True
    return False


def _first(call: ast.Call) -> str:
    """The first argument of a call, if it is a text that is written out."""
    return _text(call.args[0]) if call.args else ""


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _is_docstring(statement: ast.stmt) -> bool:
    """Of a function, class, field or module."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
