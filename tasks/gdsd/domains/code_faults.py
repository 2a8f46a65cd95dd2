"""Refusing tests that no answer could pass, or that every answer passes, as far as reading them shows it."""

import ast
import builtins

from tasks.gdsd.domains.code_crossing import crossing_fault
from tasks.gdsd.domains.code_problem import Tests, read_reference
from tasks.gdsd.domains.code_syntax import (
    absent,
    absent_from_tests,
    assigned,
    bound,
    calls,
    imported,
    parse,
    reached,
    used,
)
from tasks.gdsd.sandbox.host import MIB

TEXT_BYTES = 256  # of memory to compile a character of lists of numbers; more for the densest texts
PYTHON_MIB, NUMPY_MIB = 32, 128  # of address space, measured


def memory_of(task: Tests) -> int:
    """Returns how many MiB of address space the process of the tests takes, before it calls anything."""
    characters = len(task.setup) + max(map(len, task.tests))
    numpy = any("numpy" in text for text in (task.setup, *task.tests))
    return PYTHON_MIB + characters * TEXT_BYTES // MIB + (NUMPY_MIB if numpy else 0)


def fault_of(reference: str) -> str | None:
    """Says why no answer could ever pass the tests, as far as reading them shows it."""
    task = read_reference(reference)
    if not isinstance(task, Tests):
        return task if isinstance(task, str) else None
    if not task.entry_point.isidentifier():
        return f"the entry point {task.entry_point!r:.60} is no name of a function"
    trees = []
    for what, text in (("prefix", task.prefix), ("setup", task.setup), *(("test", test) for test in task.tests)):
        tree = parse(text)
        if isinstance(tree, str):
            return f"the {what} {text!r:.80} does not parse: {tree}"
        trees.append(tree)
    prefix, setup, *tests = trees
    if missing := sorted({*absent(prefix)} | ({*imported(prefix)} & {"numpy"})):
        return f"the code to complete imports {', '.join(missing)}; answers have the standard library only"
    if missing := sorted({name for tree in (setup, *tests) for name in absent(tree)}):
        return absent_from_tests(missing)
    if task.prefix and task.entry_point not in bound(prefix):
        return f"the code to complete does not define the entry point {task.entry_point!r}"
    if not any(task.entry_point in used(test) for test in tests):
        return f"no test uses the entry point {task.entry_point!r}"
    faults = (_fault_of_test(text, test, setup, task.entry_point) for text, test in zip(task.tests, tests, strict=True))
    return next(filter(None, faults), None)


def _fault_of_test(text: str, test: ast.Module, setup: ast.Module, name: str) -> str | None:
    """What is wrong with one test of a function of some name."""
    if _idle(test, name):
        return f"the test {text!r:.80} checks nothing, so every answer passes it that can be called; it needs an assert"
    if name in assigned(test.body):
        return f"the test {text!r:.80} defines {name!r} itself, so no answer would be tested"
    if name not in reached(test, setup) or not (calls(test, name) or calls(setup, name)):
        return (
            f"the test {text!r:.80} never calls {name!r} when it is run, so it says nothing about an "
            "answer: functions and classes of a test, and what stands behind __name__ == '__main__', have to be "
            "called by the test itself"
        )
    known = bound(setup) | bound(test) | set(vars(builtins)) | {name, "__name__"}
    if "*" not in known and (unknown := sorted((used(setup) | used(test)) - known)):
        return (
            f"the test {text!r:.80} uses {', '.join(unknown)}, which neither the tests nor their setup define; "
            "classes and helpers of the answer cannot cross to the tests"
        )
    return crossing_fault(text, test, setup, name)


def _idle(test: ast.Module, name: str) -> bool:
    """Whether nothing in a test depends on what the function returns, or its `check` does nothing with the function.

    Python calls an assert of a tuple, such as `assert (f(1) == 2, "wrong")`, always true.
    """
    defined = [node for node in test.body if isinstance(node, ast.FunctionDef)]
    known = {name, "print", *(node.name for node in defined)}
    for node in defined:
        if node.name == "check" and node.args.args:
            candidate = node.args.args[0].arg
            if not any(calls(part, candidate) for part in node.body):
                return True
            known.add(candidate)
    waiting = [*test.body]
    while waiting:
        match waiting.pop():
            case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Return(value=None):
                continue
            case ast.Assert(test=ast.Tuple(elts=[_, *_])):
                continue
            case ast.FunctionDef(body=body):
                waiting += body
            case (
                ast.For(body=body, orelse=other) | ast.While(body=body, orelse=other) | ast.If(body=body, orelse=other)
            ):
                waiting += [*body, *other]
            case (
                ast.Expr(value=value)
                | ast.Assign(targets=[ast.Name()], value=value)
                | ast.AugAssign(value=value)
                | ast.Return(value=ast.expr() as value)
            ):
                match value:
                    case ast.Compare():
                        continue
                    case ast.Call(func=ast.Name(id=called)) if called in known:
                        continue
                    case _ if any(isinstance(part, ast.Call) for part in ast.walk(value)):
                        return False
            case _:
                return False
    return True
