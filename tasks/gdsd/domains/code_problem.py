"""Problems of the code domain: reading a data set's row."""

import ast
import builtins
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise, zip_longest

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.gdsd.domains.base import Problem
from tasks.gdsd.domains.code_syntax import TEXT, absent, absent_from_tests, bound, calls, functions, parse, used
from tasks.gdsd.errors import DataError

PROGRAM = "\n\nWrite a program that reads standard input and writes standard output."
SHOWN = "\n\nYour code should pass this test:\n"
NAMED = "\n\nName the function "
STREAMS = ("stdin", "input", "inputs"), ("stdout", "output", "outputs")  # the names of a case's two in data sets
# Statements that may stand between the asserts of a text that is cut into tests.
PLAIN = (ast.Assert, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr, ast.FunctionDef, ast.ClassDef)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Tests(_Strict):
    """Tests of a function."""

    __test__ = False  # for pytest

    entry_point: str  # the function's name
    prefix: str = ""  # code that an answer may continue, up to the function's docstring
    setup: str = ""  # imports and helpers of the tests
    tests: list[str] = Field(min_length=1)  # each a program text that raises if the test fails

    @property
    def count(self) -> int:
        """How many tests there are."""
        return len(self.tests)


class Case(_Strict):
    """What a program reads, and what it should write."""

    stdin: str
    stdout: str


class Program(_Strict):
    """Tests of a program."""

    cases: list[Case] = Field(min_length=1)

    @property
    def count(self) -> int:
        """How many tests there are."""
        return len(self.cases)


def read_reference(reference: str) -> Tests | Program | str:
    """Returns the tests that a reference holds, or what is wrong with it."""
    try:
        record = json.loads(reference)
        kind = Program if isinstance(record, dict) and "cases" in record else Tests
        return kind.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        return f"the reference is no record of tests: {where}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        return f"the reference is no JSON: {error!r:.100}"


def read_row(row: Mapping[str, object]) -> Problem:
    """Makes a problem of a row; columns that are absent or None count as not given.

    Raises:
        DataError: the row has no tests, or does not say which function they test.
    """
    problem = _text(row, "problem").strip("\n")
    if not problem.strip():
        raise DataError("problem is empty; it should be the task in words, or the code to complete")
    if row.get("cases") is not None:
        return Problem(problem + PROGRAM, _compact({"cases": _cases(row["cases"])}))
    tests = _texts(row, "tests")
    if not tests:
        raise DataError("the row has neither tests nor cases; map a column of the data set to one of them")
    prefix = problem + "\n" if is_function(problem) else ""
    entry_point = _text(row, "entry_point") or _derive(tests, _texts(row, "setup"), prefix, _text(row, "solution"))
    setup = "\n".join([prefix, *_texts(row, "setup")] if prefix else _texts(row, "setup"))
    singles = [one for test in tests for one in _singles(test, entry_point)]
    tests = [called for single in singles for called in _with_call(single, entry_point)]
    if not prefix:
        problem += _interface(problem, tests, entry_point, _text(row, "solution"))
    return Problem(problem, _compact({"entry_point": entry_point, "prefix": prefix, "setup": setup, "tests": tests}))


def task_of(problem: str) -> str:
    """Returns a problem without what was added to it: how an answer will be called is no part of the task."""
    for added in (SHOWN, NAMED, PROGRAM):
        problem = problem.partition(added)[0]
    return problem


def _compact(record: dict[str, object]) -> str:
    return json.dumps(record, separators=(",", ":"))


def _text(row: Mapping[str, object], name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{name} must be a text, not {value!r:.80}")
    return value or ""


def _texts(row: Mapping[str, object], name: str) -> list[str]:
    """A column that holds one text or a list of them, also as JSON."""
    value = row.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):  # code that begins so is no test, nor a set-up
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError(f"{name} holds a list that is no JSON: {value!r:.80}; write it as a list") from None
    several = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(several, Sequence) or not all(isinstance(item, str) for item in several):
        raise DataError(f"{name} must be a text or a list of texts, not {value!r:.80}")
    return [item for item in several if item.strip()]


def _cases(value: object) -> list[object]:
    """The cases of a row, also as JSON: a mapping for each, or one with the inputs and the outputs of all.

    Raises:
        DataError: they are neither, or call a function.
    """
    cases = value
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            cases = json.loads(value)
    several = [cases] if isinstance(cases, Mapping) else cases
    if isinstance(several, Sequence) and all(isinstance(case, Mapping) for case in several):
        if any(case.get("fn_name") or case.get("testtype", "stdin") != "stdin" for case in several):
            raise DataError(
                f"cases call a function, and give a program no input: {value!r:.80}; write them as tests, such as "
                "'assert f(1) == 2'"
            )
        found = [[next((case[name] for name in names if name in case), None) for names in STREAMS] for case in several]
        if isinstance(cases, Mapping):
            columns = [column for column in found[0] if isinstance(column, list)]
            found = [list(pair) for pair in zip_longest(*columns)] if len(columns) == len(STREAMS) else [[None]]
        texts = [[*map(_stream, pair)] for pair in found]
        if texts and not any(None in pair for pair in texts):
            return [{"stdin": stdin, "stdout": stdout} for stdin, stdout in texts]
    raise DataError(
        "cases must be a list of {'stdin': text, 'stdout': text}, or {'inputs': list of texts, 'outputs': list of "
        f"texts}}, with at least one case, or one of them as JSON, not {value!r:.80}"
    )


def _stream(value: object) -> str | None:
    """What a program reads or writes: a text, or a list of its lines."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value if isinstance(value, str) else None


def is_function(problem: str) -> bool:
    """Whether a problem is code to complete, such as a signature with its docstring."""
    return "def " in problem and bool(functions(problem))


def _singles(text: str, entry_point: str) -> list[str]:
    """Cuts a text of plain asserts into a test for each, behind what else stands before it.

    A text with other statements stays whole, and so does one with an assert that has nothing to do with the function.
    """
    tree = parse(text)
    if not isinstance(tree, ast.Module) or not all(isinstance(node, PLAIN) for node in tree.body):
        return [text]
    asserts = [node for node in tree.body if isinstance(node, ast.Assert)]
    inner = sum(isinstance(node, ast.Assert) for node in ast.walk(tree)) - len(asserts)
    named = any(isinstance(node, ast.NamedExpr) for one in asserts for node in ast.walk(one))  # for those that follow
    if len(asserts) < 2 or inner or named or tree.body[-1] is not asserts[-1]:
        return [text]
    spans = [(min([node.lineno, *(one.lineno for one in _decorators(node))]), node.end_lineno) for node in tree.body]
    if any(end is None or start <= end for (_, end), (start, _) in pairwise(spans)):
        return [text]  # two statements in a line
    lines = text.split("\n")
    before: list[str] = []
    tests: list[str] = []
    called = False
    for node, (start, end) in zip(tree.body, spans, strict=True):
        part = "\n".join(lines[start - 1 : end])
        uses = calls(node, entry_point)
        if not isinstance(node, ast.Assert):
            before.append(part)
            called = called or uses
        elif called or uses:
            tests.append("\n".join([*before, part]))
        else:
            return [text]
    return tests if sum(map(len, tests)) <= TEXT else [text]


def _decorators(node: ast.stmt) -> list[ast.expr]:
    return node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else []


def _interface(problem: str, tests: Sequence[str], entry_point: str, solution: str) -> str:
    """What tells an answer how it will be called: the first of several asserts, or the function's name.

    A lone test, and one that is more than an assert, stays hidden: an answer could be made of what it expects. So does
    one that shares values or helpers with another test: they may hold what that one expects.
    """
    first = parse(tests[0])
    body = first.body if isinstance(first, ast.Module) else []
    asserts = sum(isinstance(node, ast.Assert) for statement in body for node in ast.walk(statement))
    given = _meanings(tests[0])
    shared = any(given & _meanings(other) for other in tests[1:] if given)
    if len(tests) > 1 and asserts == 1 and isinstance(body[-1], ast.Assert) and not shared:
        return "" if tests[0].strip() in problem else SHOWN + tests[0].strip()
    if f"{entry_point}(" in problem:
        return ""
    return f"{NAMED}{entry_point}.{_arguments(tests, entry_point, solution)}"


def _meanings(test: str) -> set[str]:
    """The statements of a test that give its names more than a constant, without those that a later one replaces."""
    tree, lines = parse(test), test.split("\n")
    last: dict[str, str] = {}
    for node in tree.body if isinstance(tree, ast.Module) else []:
        match node:
            case ast.Assign(value=ast.Constant()) | ast.AnnAssign(value=ast.Constant()):
                last |= dict.fromkeys(bound(node), "")
            case ast.Assign() | ast.AnnAssign() | ast.FunctionDef() | ast.ClassDef():
                last |= dict.fromkeys(bound(node), "\n".join(lines[node.lineno - 1 : node.end_lineno]))
    return {*last.values()} - {""}


def _arguments(tests: Sequence[str], entry_point: str, solution: str) -> str:
    """Says how many arguments the tests give to the function, or a right answer takes; empty where neither does."""
    trees = [tree for tree in map(parse, tests) if isinstance(tree, ast.Module)]
    names = {entry_point}
    for node in (node for tree in trees for node in tree.body):
        if isinstance(node, ast.FunctionDef) and node.name == "check" and node.args.args:
            names.add(node.args.args[0].arg)
    calls = [
        node
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]
    counts = {len(call.args) + len(call.keywords) for call in calls}
    keywords = sorted({keyword.arg for call in calls for keyword in call.keywords if keyword.arg})
    if any(isinstance(one, ast.Starred) for call in calls for one in call.args):
        right = parse(solution)
        counts = {
            len([*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs])
            for node in (right.body if isinstance(right, ast.Module) else [])
            if isinstance(node, ast.FunctionDef) and node.name == entry_point
        }
    if len(counts) != 1:
        return ""
    count = counts.pop()
    return f" It takes {count} argument{'s' * (count != 1)}{', by name ' * bool(keywords)}{', '.join(keywords)}."


def _with_call(test: str, entry_point: str) -> list[str]:
    """Adds the calls that a data set leaves to its reader: of HumanEval's `check`, or of what pytest or unittest finds.

    A text with functions or methods named `test...` becomes a test for each.
    """
    tree = parse(test)
    if not isinstance(tree, ast.Module):
        return [test]
    kept = [node for node in tree.body if not _is_main(node)]
    runs = {name for node in kept if not isinstance(node, ast.FunctionDef | ast.ClassDef) for name in used(node)}
    if "check" in bound(tree):
        return [test if "check" in runs else f"{test}\n\ncheck({entry_point})\n"]
    found = [call for node in kept for name, call in _found(node) if name not in runs]
    if not found:
        return [test]
    if kept != tree.body and kept == tree.body[: len(kept)]:  # it would end the test
        test = "\n".join(test.split("\n")[: tree.body[len(kept)].lineno - 1])
    several = [f"{test.rstrip()}\n\n{call}\n" for call in found]
    return (
        several if sum(map(len, several)) <= TEXT else [f"{test.rstrip()}\n\n" + "".join(f"{call}\n" for call in found)]
    )


def _is_main(node: ast.stmt) -> bool:
    """Whether a statement is `unittest.main()`, which looks for tests in another module than ours."""
    match node:
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="unittest"), attr="main"))):
            return True
    return False


def _found(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """The names of what pytest or unittest would run of a statement, and the calls that do so."""
    match node:
        case ast.FunctionDef(name=name, decorator_list=[], args=arguments) if name.startswith("test"):
            if (
                len(arguments.posonlyargs + arguments.args) == len(arguments.defaults)
                and None not in arguments.kw_defaults
            ):
                yield name, f"{name}()"
        case ast.ClassDef(name=name, bases=[ast.Name(id="TestCase") | ast.Attribute(attr="TestCase")], body=body):
            for part in body:
                if isinstance(part, ast.FunctionDef) and part.name.startswith("test"):
                    yield name, f"import unittest\nunittest.TestSuite([{name}({part.name!r})]).debug()"


def _derive(tests: Sequence[str], setup: Sequence[str], prefix: str, solution: str) -> str:
    """Finds the function that is tested: what tests call, setup does not define, and the solution, if given, does.

    Raises:
        DataError: there is not exactly one.
    """
    if prefix:
        return functions(prefix)[-1]  # what comes before it are helpers
    trees = []
    for text in (*setup, *tests):
        if isinstance(tree := parse(text), str):
            raise DataError(f"the tests or their setup do not parse: {text!r:.80}: {tree}")
        trees.append(tree)
    defined = {name for tree in trees for name in bound(tree)}
    called = [
        node.func.id
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in defined
    ]
    own = set(functions(solution))  # which may be named as a builtin function is, such as `sum`
    names = list(dict.fromkeys(name for name in called if (name in own if own else not hasattr(builtins, name))))
    if len(names) != 1:
        if missing := sorted({name for tree in trees for name in absent(tree)}):
            raise DataError(absent_from_tests(missing))
        found = ", ".join(names) or "none"
        raise DataError(f"the tests should call one function of the answer, but call {found}; name it by entry_point")
    return names[0]
