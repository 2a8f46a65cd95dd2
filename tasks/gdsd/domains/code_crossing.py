"""What a test hands to the answer's function, or expects of it, that cannot cross between their processes."""

import ast
import builtins
import math
import operator
from collections import ChainMap
from collections.abc import Iterator
from functools import cache
from types import GeneratorType
from typing import NamedTuple

from tasks.gdsd.domains.code_syntax import executed, used
from tasks.gdsd.sandbox.guest import wire

# Methods that change a list, set or dictionary and return None.
IN_PLACE = {"add", "append", "clear", "discard", "extend", "insert", "remove", "reverse", "sort", "update"}
CALLING = {"map", "filter"}  # builtin functions that call their first argument
MODULES = {"math": math, "operator": operator}  # whose functions tests like to pass
CAPTURED = {"getvalue", "readouterr"}  # how a test reads what was printed

Tree = ast.Module | ast.FunctionDef


class Known(NamedTuple):
    """What a test and its setup define around a scope."""

    values: ChainMap[str, list[ast.expr | None]]  # what each name is given
    classes: set[str]
    own: set[str]  # classes and functions


def crossing_fault(text: str, test: ast.Module, setup: ast.Module, name: str) -> str | None:
    """Says what cannot cross between a test and the function of a name, or None."""
    for scope in _scopes(test, setup, name):
        if stray := next(scope.strays(), None):
            return (
                f"the test {text!r:.80} passes {stray} to {name!r}; only values and classes of builtin "
                "and some standard types cross"
            )
        if method := next(scope.methods(), None):
            return (
                f"the test {text!r:.80} uses {method!r} of what {name!r} returns, which no value that crosses has, or "
                "which only changes it; a test should call a function, and no method of an object"
            )
        if use := next(scope.live(), None):
            return (
                f"the test {text!r:.80} {use.format(repr(name))}, but functions, coroutines and context managers do "
                "not cross to the tests; a test should look at values"
            )
        if scope.only_changed():
            return (
                f"the test {text!r:.80} looks at what {name!r} has made of its arguments, but the function "
                "gets copies; a test should look at what it returns"
            )
    if stream := next(_streams(test, setup), None):
        return (
            f"the test {text!r:.80} {stream}, but {name!r} runs in another process and has its own; a test should look "
            "at what it returns, or be a case of a program"
        )
    return None


class _Scope:
    """A test, a function of it, or a function to which it hands the answer's."""

    def __init__(self, tree: Tree, name: str, known: Known) -> None:
        self.tree = tree
        self.name = name  # of the answer's function here
        self.known = known
        self.nodes = [*ast.walk(tree)]
        self.values = known.values.new_child(_given(tree))

    def meaning(self, node: ast.expr) -> ast.expr:
        """An expression, or for a name the only one that it is given."""
        match node:
            case ast.Name(id=name) if len(values := self.values.get(name, [])) == 1 and values[0] is not None:
                return values[0]
        return node

    def is_result(self, node: ast.expr) -> bool:
        """Whether an expression is what a call of the function returns, or an item of that."""
        while isinstance(node, ast.Subscript):
            node = node.value
        given = self.values.get(node.id, []) if isinstance(node, ast.Name) else [node]
        return bool(given) and all(
            isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id == self.name for one in given
        )

    def strays(self) -> Iterator[str]:
        """Arguments of the function that are functions or objects of classes of the tests."""
        functions = {name for name, one in vars(builtins).items() if callable(one) and not wire.crossing_class(one)}
        given: list[ast.expr] = []
        for node in self.nodes:
            match node:
                case ast.Call(func=ast.Name(id=name)) if name == self.name:
                    given += [*node.args, *(keyword.value for keyword in node.keywords)]
                case ast.FunctionDef(decorator_list=[*_, ast.Name(id=name)]) if name == self.name:
                    yield f"the function {node.name!r}"
        seen: set[int] = set()  # a list may hold itself
        while given:
            value = self.meaning(given.pop())
            if id(value) in seen:
                continue
            seen.add(id(value))
            match value:
                case (
                    ast.List(elts=several) | ast.Tuple(elts=several) | ast.Set(elts=several) | ast.Dict(values=several)
                ):
                    given += several
                case ast.Starred(value=several_of):
                    given.append(several_of)
                case ast.Lambda():
                    yield "a lambda"
                case ast.Name(id=name) if name in self.known.own:
                    yield f"the function or class {name!r}"
                case ast.Name(id=name) if name in functions and name not in self.values:
                    yield f"the builtin {name!r}"
                case ast.Call(func=ast.Name(id=name)) if name in self.known.classes:
                    yield f"an object of {name!r}"
                case ast.Call(func=ast.Name(id="partial") | ast.Attribute(attr="partial")):
                    yield "a partial function"
                case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name not in self.values:
                    holder = MODULES.get(name, wire.class_named(name))
                    if callable(getattr(holder, attribute, None)):
                        yield f"the function {name}.{attribute}"

    def methods(self) -> Iterator[str]:
        """What it takes of the results of the function, and no value that crosses has, as in `Solution().sum(1)`.

        Nor would it change a result that nothing holds, so `Solution().add(1)` means no set, or what a class makes.
        """
        made = self.name[:1].isupper() and "_" not in self.name
        for node in self.nodes:
            match node:
                case ast.Attribute(value=value, attr=attribute) if self.is_result(value):
                    held = isinstance(value, ast.Name | ast.Subscript) and not made
                    if attribute not in _attributes() - (set() if held else IN_PLACE):
                        yield attribute

    def live(self) -> Iterator[str]:
        """What it does with results of the function that only what stays in its process can do; {} is for the name."""
        for node in self.nodes:
            match node:
                case ast.Call(func=called) if self.is_result(called):
                    yield "calls what {} returns"
                case ast.Call(func=ast.Name(id=name), args=[first, _, *_]) if name in CALLING and self.is_result(first):
                    yield "calls what {} returns"
                case ast.keyword(arg="key", value=value) if self.is_result(value):
                    yield "calls what {} returns"
                case ast.FunctionDef() if any(map(self.is_result, node.decorator_list)):
                    yield "calls what {} returns"
                case ast.withitem(context_expr=entered) if self.is_result(entered):
                    yield "enters what {} returns"
                case ast.Await(value=value) if self.is_result(value):
                    yield "awaits {}"
                case ast.Call(func=ast.Attribute(value=ast.Name(id="asyncio")), args=[first, *_]) if self.is_result(
                    first
                ):
                    yield "awaits {}"

    def only_changed(self) -> bool:
        """Whether it drops all that the function returns, and asserts something about its arguments."""
        uses = [node.id for node in self.nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
        calls: list[ast.Call] = []
        for node in self.tree.body:
            match node:
                case (
                    ast.Expr(value=ast.Call() as call)
                    | ast.Assign(targets=[ast.Name(id="_")], value=ast.Call() as call)
                ) if self.name in used(call.func):
                    calls.append(call)
                case ast.Assign(targets=[ast.Name(id=kept)], value=ast.Call() as call) if (
                    self.name in used(call.func) and kept not in uses
                ):
                    calls.append(call)
        given = {name for call in calls for argument in call.args for name in used(argument)}
        asserts = [node for node in self.tree.body if isinstance(node, ast.Assert)]
        return bool(asserts) and uses.count(self.name) == len(calls) and all(given & used(node) for node in asserts)


def _scopes(test: ast.Module, setup: ast.Module, name: str) -> list[_Scope]:
    """Where the function is called by a name: the test, functions in it, and those such as `check` that it is given."""
    inner = {node.name: node for node in ast.walk(test) if isinstance(node, ast.FunctionDef)}
    functions = {node.name: node for node in ast.walk(setup) if isinstance(node, ast.FunctionDef)} | inner
    classes = {node.name for tree in (setup, test) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    outer = Known(ChainMap(_given(setup)), classes, classes | functions.keys())
    known = outer._replace(values=outer.values.new_child(_given(test)))
    scopes = {("", name): _Scope(test, name, outer)} | {
        (one, name): _Scope(function, name, known) for one, function in inner.items()
    }
    for node in ast.walk(test):
        match node:
            case ast.Call(func=ast.Name(id=called), args=given) if called in functions:
                for parameter, value in zip(functions[called].args.args, given, strict=False):
                    handed = isinstance(value, ast.Name) and value.id == name
                    if handed and (called, parameter.arg) not in scopes:
                        scopes[called, parameter.arg] = _Scope(functions[called], parameter.arg, known)
    return [*scopes.values()]


def _given(tree: Tree) -> dict[str, list[ast.expr | None]]:
    """What each name is given where a text or a function runs, None for what is not an assignment to it alone."""
    nodes = [*executed(tree.body)]
    alone: dict[int, ast.expr] = {}
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Name() as target], value=value):
                alone[id(target)] = value
            case ast.NamedExpr(target=target, value=value):
                alone[id(target)] = value
    values: dict[str, list[ast.expr | None]] = {}
    if isinstance(tree, ast.FunctionDef):
        values |= {node.arg: [None] for node in ast.walk(tree.args) if isinstance(node, ast.arg)}
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            values.setdefault(node.id, []).append(alone.get(id(node)))
    return values


def _streams(test: ast.Module, setup: ast.Module) -> Iterator[str]:
    """What a test does to the input or the output of its own process."""
    nodes = [*ast.walk(setup), *ast.walk(test)]
    captured = any(isinstance(node, ast.Attribute) and node.attr in CAPTURED for node in nodes)
    for node in nodes:
        match node:
            case ast.Attribute(value=ast.Name(id="sys"), attr="stdin", ctx=ast.Store()):
                yield "replaces sys.stdin"
            case ast.Attribute(value=ast.Name(id="sys"), attr="stdout", ctx=ast.Store()) if captured:
                yield "reads what was printed"
            case ast.Name(id="redirect_stdout") | ast.Attribute(attr="redirect_stdout") if captured:
                yield "reads what was printed"
            case ast.Call(
                func=ast.Name(id="patch") | ast.Attribute(attr="patch"), args=[ast.Constant(value=str(what)), *_]
            ):
                yield f"replaces {what:.60}"


@cache
def _attributes() -> set[str]:
    """The names of what values that cross may have."""
    kinds = [*map(wire.class_named, (*wire.CLASSES, *wire.STANDARD)), GeneratorType, Exception]
    kinds += [type(view(())) for view in wire.VIEWS.values()]
    return {name for kind in kinds for name in dir(kind)}
