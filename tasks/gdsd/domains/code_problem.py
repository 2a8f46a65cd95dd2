"""Problems of the code domain: reading a data set's row, and refusing tests that could never be passed."""

import ast
import builtins
import json
from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.gdsd.domains.base import Problem
from tasks.gdsd.errors import DataError

TEXT = 1 << 18  # characters of tests, setup or prefix
PROGRAM = "\n\nWrite a program that reads standard input and writes standard output."
LOOK_UP = {"globals", "locals", "vars", "dir", "eval", "exec"}  # with them a text can use what it does not name
SHOWN = "\n\nYour code should pass this test:\n"


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
    tests = [_with_call(test, entry_point) for test in tests]
    if not prefix and tests[0].lstrip().startswith("assert") and tests[0].strip() not in problem:
        problem += SHOWN + tests[0].strip()
    return Problem(problem, _compact({"entry_point": entry_point, "prefix": prefix, "setup": setup, "tests": tests}))


def _compact(record: dict[str, object]) -> str:
    return json.dumps(record, separators=(",", ":"))


def _text(row: Mapping[str, object], name: str) -> str:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{name} must be a text, not {value!r:.80}")
    return value or ""


def _texts(row: Mapping[str, object], name: str) -> list[str]:
    """A column that holds one text or a list of them."""
    value = row.get(name)
    several = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(several, Sequence) or not all(isinstance(item, str) for item in several):
        raise DataError(f"{name} must be a text or a list of texts, not {value!r:.80}")
    return [item for item in several if item.strip()]


def _cases(value: object) -> list[object]:
    """The cases of a row: a list of mappings, or the same as JSON."""
    try:
        cases = json.loads(value) if isinstance(value, str) else value
        if isinstance(cases, Sequence):
            return [Case(stdin=case["stdin"], stdout=case["stdout"]).model_dump() for case in cases]
    except (ValueError, TypeError, KeyError, RecursionError):
        pass  # one message for all of it
    raise DataError(f"cases must be a list of {{'stdin': text, 'stdout': text}}, or that as JSON, not {value!r:.80}")


def parse(text: str) -> ast.Module | str:
    """Returns the syntax tree of a text from a data set, or why there is none."""
    if len(text) > TEXT:
        return f"{len(text)} characters; at most {TEXT} are read"
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"{error!r:.100}"


def is_function(problem: str) -> bool:
    """Whether a problem is code to complete, such as a signature with its docstring."""
    return "def " in problem and bool(_functions(problem))


def _functions(text: str) -> list[str]:
    """The names of the functions that a text defines for all to see."""
    tree = parse(text)
    return (
        [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] if isinstance(tree, ast.Module) else []
    )


def _with_call(test: str, entry_point: str) -> str:
    """Adds the call that HumanEval leaves to the reader of its `check`."""
    tree = parse(test)
    if not isinstance(tree, ast.Module) or "check" not in _bound(tree):
        return test
    called = any("check" in _used(node) for node in tree.body if not isinstance(node, ast.FunctionDef))
    return test if called else f"{test}\n\ncheck({entry_point})\n"


def _derive(tests: Sequence[str], setup: Sequence[str], prefix: str, solution: str) -> str:
    """Finds the function that is tested: what tests call, setup does not define, and the solution, if given, does.

    Raises:
        DataError: there is not exactly one.
    """
    if prefix:
        return _functions(prefix)[-1]  # what comes before it are helpers
    trees = [tree for tree in map(parse, (*setup, *tests)) if isinstance(tree, ast.Module)]
    defined = {name for tree in trees for name in _bound(tree)} | set(vars(builtins))
    called = [
        node.func.id
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in defined
    ]
    own = _functions(solution)
    names = list(dict.fromkeys(name for name in called if not own or name in own))
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise DataError(f"the tests should call one function of the answer, but call {found}; name it by entry_point")
    return names[0]


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
    if task.prefix and task.entry_point not in _bound(prefix):
        return f"the code to complete does not define the entry point {task.entry_point!r}"
    if not any(task.entry_point in _used(test) for test in tests):
        return f"no test uses the entry point {task.entry_point!r}"
    for text, test in zip(task.tests, tests, strict=True):
        if task.entry_point in _assigned(test.body):
            return f"the test {text!r:.80} defines {task.entry_point!r} itself, so no answer would be tested"
        if task.entry_point not in _reached(test, setup):
            return (
                f"the test {text!r:.80} never calls {task.entry_point!r} when it is run, so it says nothing about an "
                "answer: functions and classes of a test, and what stands behind __name__ == '__main__', have to be "
                "called by the test itself"
            )
        known = _bound(setup) | _bound(test) | set(vars(builtins)) | {task.entry_point, "__name__"}
        if "*" not in known and (unknown := sorted((_used(setup) | _used(test)) - known)):
            return (
                f"the test {text!r:.80} uses {', '.join(unknown)}, which neither the tests nor their setup define; "
                "classes and helpers of the answer cannot cross to the tests"
            )
        if stray := next(_strays(test, setup, task.entry_point), None):
            return f"the test {text!r:.80} passes {stray} to {task.entry_point!r}; only values of builtin types cross"
    return None


def _bound(tree: ast.AST) -> set[str]:
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


def _used(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _executed(body: Sequence[ast.stmt]) -> Iterator[ast.AST]:
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


def _assigned(body: Sequence[ast.stmt]) -> set[str]:
    """The names to which statements give another meaning than one made of what they meant before, as `f = cache(f)`."""
    names: set[str] = set()
    for node in _of_one_scope(body):
        match node:
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                names |= _bound(node) - (_used(value) if not isinstance(value, ast.Lambda) else set())
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Import() | ast.ImportFrom() | ast.For():
                names |= _bound(node.target if isinstance(node, ast.For) else node)
    return names


def _of_one_scope(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements, and those inside their branches and loops, without what functions and classes hold."""
    waiting: list[ast.AST] = [*body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr):
            waiting += ast.iter_child_nodes(node)


def _reached(test: ast.Module, setup: ast.Module) -> set[str]:
    """The names that a test uses when it runs: in itself, and in functions and classes whose names are used so.

    A decorator may call what it decorates, unless it is pytest's; a text that looks names up may call everything.
    """
    defined: dict[str, list[ast.AST]] = {}
    for node in (*ast.walk(setup), *ast.walk(test)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.setdefault(node.name, []).append(node)
    reached: set[str] = set()
    waiting: list[str] = []
    for part in _executed(test.body):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            waiting.append(part.id)
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            waiting += [part.name for decorator in part.decorator_list if "pytest" not in _used(decorator)]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        waiting += defined if name in LOOK_UP else []
        waiting += [used for node in defined.get(name, []) for used in _used(node)]
    return reached


def _strays(test: ast.AST, setup: ast.Module, entry_point: str) -> Iterator[str]:
    """Arguments of the function that are functions or objects of classes of the setup."""
    nodes = [*ast.walk(setup), *ast.walk(test)]
    classes = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)} | classes
    for node in ast.walk(test):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == entry_point:
            for value in (*node.args, *(keyword.value for keyword in node.keywords)):
                match value:
                    case ast.Lambda():
                        yield "a lambda"
                    case ast.Name(id=name) if name in own:
                        yield f"the function or class {name!r}"
                    case ast.Call(func=ast.Name(id=name)) if name in classes:
                        yield f"an object of {name!r}"
