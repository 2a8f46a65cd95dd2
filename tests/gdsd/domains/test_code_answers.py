"""Code answers: which block counts, what a program sees of itself, and tests that import numpy."""

import textwrap
from pathlib import Path

import pytest

from tasks.gdsd.domains.base import Answer, Problem
from tasks.gdsd.domains.code import Code, CodeConfig
from tasks.gdsd.errors import SandboxError
from tasks.gdsd.sandbox import bubblewrap, host, levels
from tests.gdsd.domains.test_code import HUMAN_EVAL, PROGRAM, SUM, judged
from tests.gdsd.sandbox.sandboxes import only

NAMES = "annotations", "builtins", "cached", "doc", "file", "loader", "name", "package", "spec"
LINES = "12\n3 4\n" * 30_000  # more than a pipe holds
LINES_READ = str([b"12\n", b"3 4\n"] * 30_000)
SCRIPTS = {  # what `python file.py < stdin` writes
    "exit": ("print(1)\nexit()\nprint(2)", "", "1"),
    "quit": ("print(1)\nquit(0)", "", "1"),
    "itself": (
        "import sys, __main__\nprint(__name__, sys.argv, __builtins__.__name__, __main__.__file__ == __file__)",
        "",
        "__main__ ['answer.py'] builtins True",
    ),
    "the end of input": ("while True:\n    try: print(input('>'))\n    except EOFError: break", "a\nb", ">a\n>b\n>"),
    "bytes": ("import sys\nprint(sys.stdin.buffer.read())", "a\r\n\u00e9", "b'a\\r\\n\\xc3\\xa9'"),
    "its size": ("import io, os\nprint(io.BytesIO(os.read(0, os.fstat(0).st_size)).readlines())", LINES, LINES_READ),
    "a map of it": (
        "import mmap\nprint([*iter(mmap.mmap(0, 0, access=mmap.ACCESS_READ).readline, b'')])",
        LINES,
        LINES_READ,
    ),
    "twice": (
        "import sys\nsys.stdin.read()\nsys.stdin.seek(0)\nprint(sys.stdin.buffer.readlines())",
        LINES,
        LINES_READ,
    ),
    "a part": ("import os, sys\nos.lseek(0, 4, 0)\nprint([*map(len, sys.stdin)])", "1\n2\n3\nfour", "[2, 4]"),
    "its name": ("import sys\nprint(sys.stdin.name, sys.stdin.mode, sys.stdin is sys.__stdin__)", "", "<stdin> r True"),
    "it cannot be written": (
        "import os\nfor harm in (lambda: os.write(0, b'x'), lambda: os.ftruncate(0, 0)):\n"
        "    try: harm()\n    except OSError: print(open(0, closefd=False).read())\n    os.lseek(0, 0, 0)",
        "a",
        "a\na",
    ),
    "another program": ("import subprocess\nprint(subprocess.check_output(['/bin/cat']))", "a\n", "b'a\\n'"),
    "ends of lines": ("import sys\nprint(sys.stdin.readlines())", "a\r\nb\n", "['a\\r\\n', 'b\\n']"),
    "the descriptor": ("import os\nprint(os.read(0, 1), open(0).read())", "abc", "b'a' bc"),
    "finalizers": (
        "class A:\n    def __del__(self): print('deleted')\na = A()\na.itself = a\nprint('end')",
        "",
        "end\ndeleted",
    ),
    "a generator's end": (
        "def each():\n    try: yield 1\n    finally: print('closed')\none = each()\nprint(next(one))",
        "",
        "1\nclosed",
    ),
    "its names": ("print(*dir())", "", " ".join(f"__{name}__" for name in NAMES)),
    "at exit": ("import atexit\natexit.register(print, 'bye')\nprint('hi', end=' ')", "", "hi bye"),
    "threads": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 26)\n"
        "def deep(n): return n and 1 + deep(n - 1)\n"
        "threading.Thread(target=lambda: print(deep(50_000))).start()",
        "",
        "50000",
    ),
    "names looked up": (
        "from __future__ import annotations\nimport dataclasses, inspect, pickle, typing\n@dataclasses.dataclass\n"
        "class P:\n    x: int\nprint(pickle.loads(pickle.dumps(P(3))), typing.get_type_hints(P)['x'] is int)\n"
        "print(inspect.getsource(P).splitlines()[-1])",
        "",
        "P(x=3) True\n    x: int",
    ),
    "doctest": (
        "import doctest\ndef one():\n    '''\n    >>> one()\n    1\n    '''\n    return 1\nprint(doctest.testmod())",
        "",
        "TestResults(failed=0, attempted=1)",
    ),
    "another process": (
        "import multiprocessing\nif __name__ == '__main__':\n"
        "    one = multiprocessing.Process(target=print, args=(3,))\n    one.start()\n    one.join()",
        "",
        "3",
    ),
}
FAILING = ("exit(1)", "sys.exit('a message')", "raise KeyboardInterrupt", "1 / 0", "os.close(1)")


def test_a_program_sees_what_python_shows_a_script(code: Code) -> None:
    """If it fails, programs that run everywhere else count as wrong, or those that fail as right."""
    items, names = [], [*SCRIPTS, *FAILING]
    for source, stdin, stdout in SCRIPTS.values():
        problem = code.read({"problem": "x", "cases": [{"stdin": stdin, "stdout": stdout}] * 2})
        items.append(Answer(*problem, f"```python\n{source}\n```"))
    problem = code.read({"problem": "x", "cases": [{"stdin": "", "stdout": "1"}]})
    items += [Answer(*problem, f"```python\nimport os, sys\nprint(1)\n{end}\n```") for end in FAILING]
    verdicts = code.verify_all(items)
    assert [name for name, verdict in zip(names, verdicts, strict=True) if verdict.solved != (name in SCRIPTS)] == []


def test_no_program_writes_its_input_by_another_way(code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a program fills the host's memory where it has /proc, which no limit of its own counts."""
    only("none", monkeypatch)
    source = (
        "import os\none = os.open('/proc/self/fd/0', os.O_RDWR)\n"
        "for harm in (lambda: os.pwrite(one, b'x', 0), lambda: os.ftruncate(one, 9), lambda: os.ftruncate(one, 0)):\n"
        "    try: harm()\n    except PermissionError: print('refused')\nprint(input())"
    )
    problem = code.read({"problem": "x", "cases": [{"stdin": "a", "stdout": "refused\n" * 3 + "a"}]})
    assert judged(code, problem, source).solved


ADD, HALF = "def add(left, right):\n    return left + right\n", "def add(left, right):\n    return 5\n"
LISTED = textwrap.indent(f"```python\n{ADD}```", "    ")
WHICH = {  # each is right if the block with ADD is the one that counts
    "an example": f"```python\n{ADD}```\nUse it:\n```python\nprint(add(2, 3))\n```\n",
    "an output": f"```python\n{ADD}```\nOutput:\n```text\n5\n```\n",
    "an output that is Python": f"```\n{ADD}```\n```\n5\n```\n",
    "a draft": f"```python\n{HALF}```\nBetter:\n```python\n{ADD}```\n",
    "a draft that never closes": f"```python\n{HALF}\n```python\n{ADD}```\n",
    "tildes": f"~~~python\n{ADD}~~~\n",
    "without an end": f"```python\n{ADD}",
    "another language": f"```python\n{ADD}```\n```cpp\nint add(int left, int right);\n```\n",
    "a specification": f"```python\n{ADD}```\n```text\ndef add(left, right): ...\n```\n",
    "languages": f"```python\n{HALF}```\n``` Python3\n{ADD}```\n",
    "indented": "```python\n" + "".join(f"    {line}" for line in ADD.splitlines(True)) + "```\n",
    "tabs and CRLF": "```python\r\n" + ADD.replace("    ", "\t").replace("\n", "\r\n") + "```\r\n",
    "a byte order mark": f"```python\n\ufeff{ADD}```\n",
    "a lambda": "```python\nadd = lambda left, right: left + right\n```\n```python\nadd(1, 2)\n```\n",
    "an import": "```python\nfrom operator import add\n```\n```python\nadd(1, 2)\n```\n",
    "a session": f"```python\n{ADD}```\n```python\n>>> add(1, 2)\n3\n```\n",
    "a main block": f"```python\n{ADD}\nif __name__ == '__main__':\n    print(add(int(input()), 1))\n```\n",
    "a usage with an import": f"```python\n{ADD}```\n```python\nfrom solution import add\nprint(add(1, 2))\n```\n",
    "an import as another name": f"```python\n{ADD}```\n```python\nfrom operator import add as plus\n```\n",
    "in Markdown": f"````markdown\n# Addition\n```python\n{ADD}```\n```text\n5\n```\n````\n",
    **{
        name: f"```python\n{ADD}```\nSo:\n```python\n{usage}\n```\n"
        for name, usage in {
            "a bare annotation": "add: int\nprint(2)",
            "a loop's name": "for add in [(1, 2)]:\n    print(add)",
            "a result's name": "add = add(1, 2)\nprint(add)",
            "values": "add: int = 3\nadd += 1\nadd = [add for add in (1, 2)]",
            "a file's name": "with open('x') as add:\n    print(add.read())",
            "an attribute": "add.calls, x = 0, {}\nx[add] = add(1, 2)",
        }.items()
    },
    "names": f"```python\n{HALF}```\n```python\nimport operator\nadd, sub = operator.add, operator.sub\n```\n",
    "a partial function": "```python\nimport functools\nadd: object = functools.partial(lambda x, y: x + y)\n```\n",
    "a lambda that calls itself": "```python\nadd = lambda x, y: add(x + 1, y - 1) if y > 0 else x if y == 0 else "
    "add(x - 1, y + 1)\n```\n```python\nadd(1, 2)\n```\n",
    "a quote": "".join(f"> {line}\n" for line in f"```python\n{ADD}```".split("\n")),
    "a list": f"1. So:\n\n{LISTED}\n\n2. Use it.\n",
    "its tests": f"```python\n{ADD}\nassert add(2, 3) == 5\nprint(add(1, 1))\n```\n",
}


@pytest.mark.parametrize("name", WHICH)
def test_the_last_block_that_defines_the_function_counts(code: Code, name: str) -> None:
    """If it fails, an example, an output or a draft is judged in place of the answer."""
    problem = Problem(code.example.problem, code.example.reference)
    assert code.verify(*problem, WHICH[name]).solved


def test_which_block_is_a_program_or_a_completion(code: Code) -> None:
    """If it fails, an output is run in place of the program that made it, or in place of a completion."""
    program, completion = code.read(PROGRAM), code.read(HUMAN_EVAL)
    for problem, right in ((program, SUM), (completion, "    return s[::-1]\n")):
        for output in ("```\n3\n```", "```text\nprint(3)\n```", "```\n[3, 7]\n```", "~~~output\n3 7\n~~~", "```\n"):
            assert code.verify(*problem, f"```python\n{right}```\n{output}").solved, output
            assert code.verify(*problem, f"```\n{right}```\n{output}").solved, output
    assert not code.verify(*program, f"```python\n{SUM}```\n```python\nprint(3)\n```").solved, "not the last program"
    assert not code.verify(*program, "```text\n5\n```").solved


def test_a_completion_may_be_indented_otherwise(code: Code) -> None:
    """If it fails, a right body without the function's first line counts only at the indentation of the prompt."""
    completion = code.read(HUMAN_EVAL)
    body = "if s:\n    return s[::-1]\nreturn ''\n"
    for block in (body, textwrap.indent(body, "  "), textwrap.indent(body, "    ").lstrip()):
        assert code.verify(*completion, f"```python\n{block}```").solved, block
        assert not code.verify(*completion, f"```python\n{block.replace('[::-1]', '')}```").solved, block


PLUS = """import numpy as np

def is_floats(x) -> bool:
    if isinstance(x, float):
        return True
    if isinstance(x, (list, tuple)):
        return all(isinstance(i, float) for i in x)
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64 or x.dtype == np.float32
    return False

def assertion(out, exp, atol):
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if out != exp and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert out == exp, f"out: {out}, exp: {exp}"

"""
INPUTS = "inputs = [[0.5], [3.0], [-1.25]]\nresults = [1.0, 6.0, -2.5]\n"
LOOP = "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion({}(*inp), exp, 0)\n"
CHECK = "def check(candidate):\n" + textwrap.indent(INPUTS + LOOP.format("candidate"), "    ")
PLUS_ROWS = {  # made like those of evalplus
    "MBPP+": {"problem": "Write a function to double.", "tests": PLUS + INPUTS + LOOP.format("twice")},
    "HumanEval+": {
        "problem": 'def twice(x: float) -> float:\n    """ Doubles x. """\n',
        "tests": PLUS + CHECK,
        "entry_point": "twice",
    },
}


@pytest.mark.parametrize("level", levels.LEVELS)
@pytest.mark.parametrize("name", PLUS_ROWS)
def test_tests_may_import_numpy_and_answers_may_not(
    name: str, level: host.Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, HumanEval+ and MBPP+ cannot be judged, or answers get what the prompt does not offer."""
    only(level, monkeypatch)
    code = Code()
    problem = code.read(PLUS_ROWS[name])
    assert code.fault(*problem) is None
    assert "3.0" not in code.phrase(problem.problem), "the tests are shown"
    assert judged(code, problem, "def twice(x):\n    return 2 * x + 1e-9").solved
    assert not judged(code, problem, "def twice(x):\n    return 2 * x + 1e-3").solved
    for empty in ("[]", "[[]]", "range(0)", "bytearray()"):  # numpy broadcasts them
        assert not judged(code, problem, f"def twice(x):\n    return {empty}").solved, empty
    assert not judged(code, problem, "import numpy\ndef twice(x):\n    return 2 * x").solved
    fault = Code(CodeConfig(memory_mib=128)).fault(*problem)
    assert fault is not None and "160 MiB" in fault


COMPARISONS = [
    "import numpy as np\nassert np.isclose(f(1), 1.5).all()",
    "import numpy as np\nassert np.array_equiv(f(1), 1.5)",
    "from numpy import allclose\nassert allclose(b=f(1), a=1.5)",
    "from numpy.testing import assert_allclose\nassert_allclose(f(1), 1.5)",
    "import numpy.testing as npt\nnpt.assert_almost_equal(actual=f(1), desired=1.5)",
    "import numpy as np\nnp.testing.assert_array_equal(f(1), [1.5])",
]


def test_no_comparison_of_numpys_takes_what_is_empty_for_a_number(code: Code) -> None:
    """If it fails, an empty list is the right answer to every problem with floats."""
    problem = code.read({"problem": "x", "tests": COMPARISONS, "entry_point": "f"})
    assert judged(code, problem, "def f(x): return [1.5]").solved
    assert judged(code, problem, "def f(x): return []").parts["tests"] == 0
    empty = code.read({"problem": "x", "tests": "import numpy as np\nassert np.allclose(f(1), [])"})
    assert judged(code, empty, "def f(x): return []").solved


def test_a_numpy_that_tests_cannot_import_is_an_error_and_no_verdict(
    code: Code, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, every answer to a problem with numpy is called wrong where numpy is broken."""
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("raise ImportError('half of it is missing')")
    monkeypatch.setattr(bubblewrap, "numpy_files", lambda: [str(tmp_path / "numpy")])
    tmp_path.chmod(0o755)
    with pytest.raises(SandboxError, match="half of it is missing"):
        judged(code, code.read(PLUS_ROWS["MBPP+"]), "def twice(x):\n    return 2 * x")
