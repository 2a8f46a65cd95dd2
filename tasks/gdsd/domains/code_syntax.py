"""Reading Python texts of a data set without running them: what they define, use and reach."""

import ast
import sys
from collections.abc import Iterator, Sequence

TEXT = 1 << 21  # characters of tests, setup or prefix
LOOKS = {"callable", "getattr", "hasattr", "id", "isinstance", "print", "repr", "str", "type"}  # at a function
LOOK_UP = {"globals", "locals", "vars", "dir", "eval", "exec"}  # with them a text can use what it does not name


def parse(text: str) -> ast.Module | str:
    """Returns the syntax tree of a text from a data set, or why there is none."""
    if len(text) > TEXT:
        return f"{len(text)} characters; at most {TEXT} are read"
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"{error!r:.100}"


def functions(text: str) -> list[str]:
    """The names of the functions that a text defines for all to see."""
    tree = parse(text)
    return (
        [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] if isinstance(tree, ast.Module) else []
    )


def bound(tree: ast.AST) -> set[str]:
    """Every name that a text gives a meaning to, in whatever scope."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=renamed):
                names.add(renamed or name.partition(".")[0])
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
    return names


def imported(tree: ast.Module) -> list[str]:
    """The packages that a text imports, but for those that it can do without: in a `try` that catches something."""
    optional = {
        id(node)
        for attempt in ast.walk(tree)
        if isinstance(attempt, ast.Try) and attempt.handlers
        for part in attempt.body
        for node in ast.walk(part)
    }
    found: list[str] = []
    for node in ast.walk(tree):
        if id(node) in optional:
            continue
        match node:
            case ast.Import(names=names):
                found += [alias.name.partition(".")[0] for alias in names]
            case ast.ImportFrom(module=module, level=level):
                found.append("." * level or str(module).partition(".")[0])
    return found


def absent(tree: ast.Module) -> list[str]:
    """The modules that a text imports and no sandbox has."""
    return [name for name in imported(tree) if name not in sys.stdlib_module_names and name != "numpy"]


def absent_from_tests(names: Sequence[str]) -> str:
    """Says that tests import modules which no sandbox has."""
    return (
        f"the tests import {', '.join(names)}, which their sandbox does not have; they may import the standard library "
        "and numpy, and have the function by its name"
    )


def calls(tree: ast.AST, name: str) -> bool:
    """Whether a text calls a function or hands it on, and does not only look at it, as in `callable(f)`."""
    uses = looks = 0
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=one, ctx=ast.Load()):
                uses += one == name
            case ast.Attribute(value=ast.Name(id=one)):
                looks += one == name
            case ast.Call(func=ast.Name(id=look), args=[ast.Name(id=one), *_]) if look in LOOKS:
                looks += one == name
    return uses > looks


def used(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def executed(body: Sequence[ast.stmt]) -> Iterator[ast.AST]:
    """The parts of statements that run when these do: no bodies of functions, nor what only a script does."""
    waiting: list[ast.AST] = [*reversed(body)]
    while waiting:
        node = waiting.pop()
        yield node
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                arguments = node.args
                waiting += [*node.decorator_list, *arguments.defaults, *filter(None, arguments.kw_defaults)]
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"), comparators=[ast.Constant(value="__main__")])):
                waiting += node.orelse
            case _:
                waiting += reversed([*ast.iter_child_nodes(node)])


def assigned(body: Sequence[ast.stmt]) -> set[str]:
    """The names to which statements give another meaning than one made of what they meant before, as `f = cache(f)`."""
    names: set[str] = set()
    for node in of_one_scope(body):
        match node:
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                names |= bound(node) - (used(value) if not isinstance(value, ast.Lambda) else set())
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Import() | ast.ImportFrom() | ast.For():
                names |= bound(node.target if isinstance(node, ast.For) else node)
    return names


def of_one_scope(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements, and those inside their branches and loops, without what functions and classes hold."""
    waiting: list[ast.AST] = [*body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr):
            waiting += ast.iter_child_nodes(node)


def reached(test: ast.Module, setup: ast.Module) -> set[str]:
    """The names that a test uses when it runs: in itself, and in functions and classes whose names are used so.

    A decorator may call what it decorates, unless it is pytest's; a text that looks names up may call everything.
    """
    defined: dict[str, list[ast.AST]] = {}
    for node in (*ast.walk(setup), *ast.walk(test)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.setdefault(node.name, []).append(node)
    reached: set[str] = set()
    waiting: list[str] = []
    for part in executed(test.body):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            waiting.append(part.id)
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            waiting += [part.name for decorator in part.decorator_list if "pytest" not in used(decorator)]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        waiting += defined if name in LOOK_UP else []
        waiting += [one for node in defined.get(name, []) for one in used(node)]
    return reached
