"""Problems of the code domain: which rows are none, and which tests no answer can pass. Nothing of it is run."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.gdsd.domains.code import Code
from tasks.gdsd.domains.code_faults import fault_of
from tasks.gdsd.domains.code_problem import read_reference
from tasks.gdsd.errors import DataError

CODE = Code()


def changed(reference: str, **changes: object) -> str:
    return json.dumps(json.loads(reference) | changes)


def test_programs_that_no_answer_can_write_are_faults() -> None:
    """If it fails, a case that is too large counts against every answer."""
    least = Code(CODE.config.model_copy(update={"memory_mib": 64}))
    for case, words in (
        ({"stdin": "x" * (5 << 20), "stdout": ""}, "5242880 bytes of standard input"),
        ({"stdin": "", "stdout": "x" * (2 << 20)}, "2097152 bytes of standard output"),
    ):
        fault = least.fault(*least.read({"problem": "x", "cases": [case]}))
        assert fault is not None and words in fault


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"problem": "  ", "tests": ["assert f(1)"]}, "problem is empty"),
        ({"problem": 3, "tests": ["assert f(1)"]}, "problem must be a text"),
        ({"problem": "x"}, "neither tests nor cases"),
        ({"problem": "x", "tests": []}, "neither tests nor cases"),
        ({"problem": "x", "tests": [1]}, "tests must be a text or a list"),
        ({"problem": "x", "tests": ["assert f(1) == g(2)"]}, "call f, g; name it by entry_point"),
        ({"problem": "x", "tests": ["assert 1 == 1"]}, "call none"),
        ({"problem": "x", "tests": ">>> f(1)\n2"}, "do not parse: '>>> f"),
        ({"problem": "x", "tests": "from solution import f\nassert f(1) == 2"}, "the tests import solution, which"),
        ({"problem": "x", "tests": "['assert f(1)']"}, "tests holds a list that is no JSON"),  # as pandas writes CSV
        ({"problem": "x", "tests": "[1]"}, "tests must be a text or a list"),
        ({"problem": "x", "cases": "["}, "cases must be a list"),
        ({"problem": "x", "cases": ""}, "with at least one case"),
        ({"problem": "x", "cases": {"input": [], "output": []}}, "with at least one case"),
        ({"problem": "x", "cases": [{"stdin": "1"}]}, "cases must be a list"),
        ({"problem": "x", "cases": [{"stdin": "1", "stdout": 1}]}, "cases must be a list"),
        ({"problem": "x", "cases": {"inputs": ["1"], "outputs": []}}, "cases must be a list"),
        ({"problem": "x", "cases": {"inputs": "1", "outputs": "1"}}, "cases must be a list"),
        ({"problem": "x", "cases": '{"fn_name": "f", "inputs": [[1]], "outputs": [2]}'}, "cases call a function"),
        ({"problem": "x", "cases": [{"input": "1", "output": "1", "testtype": "functional"}]}, "cases call a function"),
    ],
)
def test_rows_that_are_no_problem_are_refused(row: Mapping[str, object], words: str) -> None:
    """If it fails, a person is not told which column is wrong."""
    with pytest.raises(DataError, match=words):
        CODE.read(row)


def test_a_list_written_as_json_is_a_list() -> None:
    """If it fails, a set whose tests are JSON in a text shows all of them in the prompt, or is refused."""
    tests = ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]
    assert CODE.read({"problem": "x", "tests": json.dumps(tests)}) == CODE.read({"problem": "x", "tests": tests})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tests": ["assert add(1, 2 == 3"]}, "does not parse"),
        ({"tests": ["assert " + "(" * 1000 + "add(1)" + ")" * 1000]}, "does not parse"),
        ({"tests": ["x = " + "1 + " * 600_000 + "1"]}, "at most 2097152 are read"),
        ({"tests": ["assert 3 == 3"]}, "no test uses the entry point 'add'"),
        ({"tests": []}, "tests: List should have at least 1 item"),
        ({"entry_point": "a b"}, "no name of a function"),
        ({"entry_point": "minus"}, "no test uses the entry point 'minus'"),
        ({"prefix": "def other(): pass"}, "does not define the entry point"),
        ({"tests": ["assert add(Node(1), 2) == 3"]}, "uses Node, which neither"),
        ({"tests": ["assert add(Node(1), 2) == 3"], "setup": "class Node:\n    pass"}, "passes an object of 'Node'"),
        ({"tests": ["assert add(lambda: 1, 2) == 3"]}, "passes a lambda"),
        ({"tests": ["assert add(int, helper) == 3"], "setup": "def helper(): pass"}, "function or class 'helper'"),
        ({"tests": ["def test_add():\n    assert add(1, 2) == 3"]}, "never calls 'add' when it is run"),
        ({"tests": ["assert add(1, 2) == 3", "assert 1 == 1"]}, "'assert 1 == 1' never calls 'add' when it is run"),
        (
            {"tests": ["import unittest\nclass Test(unittest.TestCase):\n    def test(self):\n        add(1, 2)\n"]},
            "never calls 'add'",
        ),
        (
            {"tests": ["def check(f):\n    assert f(1, 2) == 3\nif __name__ == '__main__':\n    check(add)"]},
            "never calls 'add'",
        ),
        ({"tests": ["def add(a, b):\n    return a + b\nassert add(1, 2) == 3"]}, "defines 'add' itself"),
        ({"tests": ["from operator import add\nassert add(1, 2) == 3"]}, "defines 'add' itself"),
        ({"tests": ["assert add(sorted, [2, 1]) == [1, 2]"]}, "passes the builtin 'sorted'"),
        ({"tests": ["import asyncio\nassert asyncio.run(add(1, 2)) == 3"]}, "awaits 'add'"),
        ({"tests": ["async def test():\n    assert await add(1, 2) == 3\ntest().send(None)"]}, "awaits 'add'"),
        (
            {"tests": ["import asyncio\nasync def test():\n    assert await add(1, 2) == 3\nasyncio.run(test())"]},
            "awaits 'add'",
        ),
        ({"tests": ["assert callable(add)"]}, "never calls 'add'"),
        ({"tests": ["assert add.__name__ == 'add'"]}, "never calls 'add'"),
        ({"tests": ["print(add(1, 2))"]}, "checks nothing"),
        ({"tests": ["add(1, 2)"]}, "checks nothing"),
        ({"tests": ["add(1, 2) == 3"]}, "checks nothing"),
        ({"tests": ["expected = 3\nsame = add(1, 2) == expected"]}, "checks nothing"),
        ({"tests": ["import math\nx = add(1, math.pi)\nprint(add(x, 2))"]}, "checks nothing"),
        ({"tests": ["def check(candidate):\n    assert True\ncheck(add)"]}, "checks nothing"),
        ({"tests": ["def check(f):\n    return f(1, 2) == 3\ncheck(add)"]}, "checks nothing"),
        ({"tests": ["def check(f):\n    print('ok' if f(1, 2) == 3 else 'wrong')\ncheck(add)"]}, "checks nothing"),
        ({"tests": ["def test_add():\n    sum = add(1, 2)\n    return sum == 3\ntest_add()"]}, "checks nothing"),
        ({"tests": ["n = 0\nfor x in range(3):\n    if add(x, 1) == x + 1:\n        n += 1"]}, "checks nothing"),
        ({"tests": ["assert (add(1, 2) == 3, 'wrong')"]}, "checks nothing"),
        ({"tests": ["assert add().sum(1, 2) == 3"]}, "uses 'sum' of what 'add' returns"),
        ({"tests": ["assert add().add(1, 2) == 3"]}, "uses 'add' of what 'add' returns"),
        ({"tests": ["x = [3]\nadd(x, 4)\nassert x == [3, 4]"]}, "made of its arguments"),
        ({"tests": ["x = [3]\ny = add(x, 4)\nassert x == [3, 4]"]}, "made of its arguments"),
        (
            {"tests": ["def check(f):\n    x = [3]\n    f(x, 4)\n    assert x == [3, 4]\ncheck(add)"]},
            "of its arguments",
        ),
        ({"tests": ["assert add(1)(2) == 3"]}, "calls what 'add' returns"),
        ({"tests": ["one = add(1)\nfor x in (2, 3):\n    assert one(x) == x + 1"]}, "calls what 'add' returns"),
        ({"tests": ["def check(f):\n    assert f(1)['x'](2) == 3\ncheck(add)"]}, "calls what 'add' returns"),
        ({"tests": ["assert [*map(add(1), [2])] == sorted([3], key=abs)"]}, "calls what 'add' returns"),
        ({"tests": ["assert sorted([2, 1], key=add(1)) == [1, 2]"]}, "calls what 'add' returns"),
        ({"tests": ["@add(1)\ndef two():\n    return 2\nassert two() == 3"]}, "calls what 'add' returns"),
        ({"tests": ["@add\ndef two():\n    return 2\nassert two() == 3"]}, "passes the function 'two'"),
        ({"tests": ["with add(1) as one:\n    assert one == 2"]}, "enters what 'add' returns"),
        ({"tests": ["one = add()\nassert one.sum(1, 2) == 3"]}, "uses 'sum' of what 'add' returns"),
        ({"tests": ["one = Add()\none.append(1)\nassert one.pop() == 1"], "entry_point": "Add"}, "uses 'append'"),
        ({"tests": ["one = Node(1)\nassert add([one], 2) == 3"], "setup": "class Node:\n    pass"}, "object of 'Node'"),
        ({"tests": ["assert add({1: [lambda: 1]}) == 3"]}, "passes a lambda"),
        ({"tests": ["import operator as o, operator\nassert add(operator.mul, 2) == 3"]}, "function operator.mul"),
        ({"tests": ["assert add(str.upper, 'a') == 'A'"]}, "function str.upper"),
        ({"tests": ["import functools\nassert add(functools.partial(max, 1), 2) == 2"]}, "a partial function"),
        (
            {"tests": ["import io, sys\nsys.stdout = io.StringIO()\nadd(1)\nassert sys.stdout.getvalue() == '1\\n'"]},
            "reads what was printed, but 'add' runs in another process",
        ),
        ({"tests": ["import io, sys\nsys.stdin = io.StringIO('1')\nassert add() == 1"]}, "replaces sys.stdin"),
        (
            {"tests": ["from unittest.mock import patch\nwith patch('builtins.input', str):\n    assert add() == ''"]},
            "replaces builtins.input",
        ),
        ({"tests": ["import pytest\nwith pytest.raises(ValueError):\n    add(1)"]}, "the tests import pytest, which"),
        ({"setup": "from scipy.stats import norm, t\nimport pandas as pd, os.path"}, "import pandas, scipy, which"),
        ({"tests": ["from solution import add as f\nassert f(add(1, 2), 0) == 3"]}, "import solution, which"),
        ({"prefix": "import numpy as np\ndef add(a, b):\n    pass"}, "code to complete imports numpy"),
        ({"tests": ["assert add(1, 2) == 3  # " + "x" * (1 << 21)]}, "at most 2097152 are read"),
        ({"setup": "x = 1  # " + "x" * (2_000_000)}, "about 520 MiB"),
        ({"unknown": 1}, "unknown: Extra inputs"),
    ],
)
def test_problems_that_no_answer_can_solve_are_faults(changes: dict[str, object], words: str) -> None:
    """If it fails, a problem whose tests cannot pass counts against every answer."""
    fault = CODE.fault(CODE.example.problem, changed(CODE.example.reference, **changes))
    assert fault is not None and words in fault


@pytest.mark.parametrize(
    "reference", ["", "[]", "{", "[" * 100_000, "{}", '{"cases": []}', '{"cases": [{"stdin": 1}]}']
)
def test_references_that_hold_no_tests_are_faults_and_not_judged(reference: str) -> None:
    """If it fails, an answer is called wrong although nobody can say so."""
    assert CODE.fault("x", reference)
    assert CODE.verify("x", reference, "```python\npass\n```").solved is None


@given(
    st.text(alphabet='{}[]",:testscaseentry_point', max_size=100),
    st.text(max_size=200),
    st.lists(st.text(max_size=100), max_size=3),
)
@settings(deadline=None)
def test_faults_of_any_reference_are_told(reference: str, setup: str, tests: list[str]) -> None:
    """If it fails, one row of a file, or odd tests of a data set, stop the run instead of being named."""
    for text in (reference, setup, json.dumps({"entry_point": "f", "setup": setup, "tests": tests})):
        fault_of(text)
        read_reference(text)


def test_tests_that_use_what_the_setup_has_are_no_fault() -> None:
    """If it fails, good problems are dropped."""
    record = {
        "entry_point": "f",
        "setup": "import math as m, os.path\nfrom collections import *\nclass Node:\n    pass\n"
        "def helper():\n    assert f(1)",
        "tests": [
            "for i, (a, *b) in enumerate([(1, 2)]):\n    assert m.isclose(f(a), 1) and os",
            "try:\n    f(-1)\n    assert False\nexcept ValueError as error:\n    assert error.args",
            "def check(candidate):\n    assert candidate(1) == [x for x in range(2)] == Counter()\ncheck(f)",
            "with open('x') as file:\n    assert (n := f(file.read())) == n",
            "def test_f():\n    assert f(1) == 1\ntest_f()",
            "class Test:\n    def test(self):\n        assert f(1) == 1\nTest().test()",
            "def test_f():\n    assert f(1) == 1\nfor one in list(globals().values()):\n    one()",
            "def run(test):\n    test()\n@run\ndef test_f():\n    assert f(1) == 1",
            "def check(f):\n    assert f(1) == 1\ncheck(f)",
            "helper()",
            "if f(0):\n    assert f(2)\n" + "elif f(1):\n    pass\n" * 900,
            "from functools import cache\nf = cache(f)\nassert f(1) == 1",
            "if __name__ == 'tests':\n    assert f(1) == 1",
            "import numpy as np, fractions\nassert np.allclose(f(int, None, 1.0), [1])",
            "try:\n    import pandas\nexcept ImportError:\n    pass\nassert f(1) == 1",
            "x = [1]\nf(x)\nassert f(x) == x",
            "print(f(1))\nassert f(1).upper() == f(2).most_common() == f(3).real == f(4).send(None)",
            "assert list(map(f, [1])) == [1]",
            "one = f([])\none.append(1)\nassert one[0].bit_length() and one.pop() == abs(f(1)[0])",
            "one = f(1)\none = int\nassert one(2) == f(2)",
            "one = [one, one]\nassert f(one, m.pi, 'a'.upper(), str, max(1, 2)) == one",
            "import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()):\n    one = f(1)\nassert one == 1",
        ],
    }
    assert fault_of(json.dumps(record)) is None


def test_cases_are_read_as_data_sets_have_them() -> None:
    """If it fails, APPS, TACO, CodeContests and LiveCodeBench have to be rewritten before they can be used."""
    wanted = {"cases": [{"stdin": "1\n2", "stdout": "3"}, {"stdin": "4", "stdout": "5\n"}]}
    texts = ["1\n2", "4"], ["3", "5\n"]
    for cases in (
        {"inputs": texts[0], "outputs": texts[1]},
        {"input": texts[0], "output": texts[1]},
        {"inputs": [["1", "2"], "4"], "outputs": ["3", ["5", ""]], "fn_name": None},
        [{"input": one, "output": other, "testtype": "stdin"} for one, other in zip(*texts, strict=True)],
    ):
        for written in (cases, json.dumps(cases)):
            problem = CODE.read({"problem": "x", "cases": written})
            assert json.loads(problem.reference) == wanted and CODE.fault(*problem) is None


PYTEST = """import math

def helper(x):
    return 2 * x

def test_one():
    assert double(1) == helper(1)

def test_two(one=2):
    assert double(one) == 4

def test_fixture(tmp_path):
    assert double(tmp_path) == 4
"""
UNITTEST = """import unittest

class TestDouble(unittest.TestCase):
    def setUp(self):
        self.one = 1

    def test_one(self):
        self.assertEqual(double(self.one), 2)

    def test_two(self):
        with self.subTest(two=2):
            self.assertEqual(double(2), 4)

unittest.main()
"""
RUN = "suite = unittest.TestLoader().loadTestsFromTestCase(TestDouble)\nunittest.TextTestRunner().run(suite)\n"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (PYTEST, 2),
        (UNITTEST, 2),
        (UNITTEST.replace("unittest.main()", "if __name__ == '__main__':\n    unittest.main()"), 2),
        (UNITTEST.replace("unittest.main()", RUN), 1),
    ],
    ids=["pytest", "unittest", "unittest as a script", "a runner"],
)
def test_what_pytest_and_unittest_would_find_is_run(code: Code, text: str, count: int) -> None:
    """If it fails, such suites are refused, or a failure that a runner only reports is a right answer."""
    problem = code.read({"problem": "Double it.", "tests": text, "entry_point": "double"})
    assert code.fault(*problem) is None and "assert" not in problem.problem
    for source, share in (("2 * x", 1.0), ("2", 1 / 2 if count == 2 else 0.0), ("x", 0.0)):
        verdict = code.verify(*problem, f"```python\ndef double(x):\n    return {source}\n```")
        assert (verdict.parts["tests"], verdict.solved) == (share, share == 1.0), source


FIRST = "assert double(21) == 42"
HELPED = "assert double", "assert 0 < double"
NEXT = "assert double(1) == 2\nassert double(\n    5\n) == 10"


@pytest.mark.parametrize(
    ("tests", "parts", "told"),
    [
        (f"{FIRST}\n{NEXT}", [FIRST, *NEXT.split("\n", 1)], FIRST),
        ([f"{FIRST}\n{NEXT}\n"], [FIRST, *NEXT.split("\n", 1)], FIRST),
        (
            f"import math\nx = 21  # half\n{FIRST}\ny = double(x)\nassert y == 42\n",
            [f"import math\nx = 21  # half\n{FIRST}", "import math\nx = 21  # half\ny = double(x)\nassert y == 42"],
            f"import math\nx = 21  # half\n{FIRST}",
        ),
        ([FIRST, "assert double(1) == 2"], [FIRST, "assert double(1) == 2"], FIRST),
        (FIRST, [FIRST], "\n\nName the function double. It takes 1 argument."),
        ("assert double(1, base=2) == 2", ["assert double(1, base=2) == 2"], "It takes 2 arguments, by name base."),
        (f"{FIRST}; assert double(1) == 2", None, "It takes 1 argument."),
        (f"assert callable(double)\n{FIRST}\nassert double(1) == 2", None, "It takes 1 argument."),
        (f"{FIRST}\nassert (one := double(1)) == 2\nassert double(one) == 4", None, "It takes 1 argument."),
        (f"{FIRST}\nassert 1 < 2 < double(3)\nassert 1 < 2", None, "It takes 1 argument."),
        (
            f"{FIRST}\nfor x in range(3):\n    assert double(x) == 2 * x\nassert double(1) == 2",
            None,
            "It takes 1 argument.",
        ),
        (
            "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 4",
            1,
            "It takes 1 argument.",
        ),
        ("for x in [(1,), (2,)]:\n    assert double(*x) == 2 * x[0]", None, "It takes 2 arguments."),
        (["try:\n    double()\nexcept TypeError:\n    pass", FIRST], 2, "\n\nName the function double."),
        (f"right = {{1: 2, 5: 10}}\n{FIRST}\nassert double(5) == right[5]", 2, "It takes 1 argument."),
        ([f"def right(x):\n    return x + x\n{test}(4) == right(4)" for test in HELPED], 2, "It takes 1 argument."),
        (
            [f"pair = [{x}]\nassert double(pair) == [{2 * x}]" for x in (3, 4)],
            2,
            "pair = [3]\nassert double(pair) == [6]",
        ),
    ],
)
def test_one_assert_is_shown_and_nothing_that_an_answer_could_be_made_of(
    tests: object, parts: list[str] | int | None, told: str
) -> None:
    """If it fails, the policy learns to copy the results it was shown, or is not told which function is tested."""
    row = {"problem": "Double it.", "tests": tests, "entry_point": "double"}
    problem = CODE.read(row | {"solution": "def double(x, base=2):\n    return x * base"})
    assert CODE.fault(*problem) is None
    made = json.loads(problem.reference)["tests"]
    assert len(made) == parts if isinstance(parts, int) else made == (parts or [tests])
    assert problem.problem.endswith(told) and "== 10" not in problem.problem
    shown = problem.problem.count("assert double")
    assert shown == (told.count("assert"))
    assert CODE.read(row | {"problem": problem.problem}).problem == problem.problem or not shown, "said twice"
