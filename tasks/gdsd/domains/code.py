"""Code: write a function or a program; the prompt, and a verdict by running the tests in two sandboxes.

The answer's code runs in one sandbox and sees calls, one at a time. The tests run in another one and see values of
builtin types. Whatever the answer does, the tests see only another value. So only the right value passes a test.
"""

import binascii
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Literal, NamedTuple

from pydantic import Field

from tasks.gdsd.domains import answers
from tasks.gdsd.domains.base import Answer, Domain, DomainConfig, Problem, Verdict, shown
from tasks.gdsd.domains.code_faults import fault_of, memory_of
from tasks.gdsd.domains.code_problem import Program, Tests, is_function, read_reference, read_row, task_of
from tasks.gdsd.errors import SandboxError
from tasks.gdsd.sandbox import host, levels
from tasks.gdsd.sandbox.clocks import WALL, Allowance, Clock, LateError, SpentError
from tasks.gdsd.sandbox.guest import answer as answer_role
from tasks.gdsd.sandbox.guest import tester as tester_role
from tasks.gdsd.sandbox.guest import wire
from tasks.gdsd.sandbox.host import GoneError, Limits, Route, Sandbox, StartError

logger = logging.getLogger(__name__)

SOURCE = 1 << 18  # bytes of an answer's code
STDIN_SHARE = 16  # of the memory, for a case's standard input, which a program holds several times over
TRIES = 2  # to bring up the sandboxes of an answer
QUOTED = 200  # characters of a test, an input or an output in a remark
UNJUDGED = Verdict(parts={"tests": None, "format": None}, solved=None)

INSTRUCTION = """\
Solve the task in Python 3 with the standard library only. Write the complete code in one block that starts with \
```python and ends with ```.
"""

SHOTS = (
    (
        "Write a function that returns the largest number of a list, or None if the list is empty.\n\n"
        "Your code should pass this test:\nassert largest([3, 9, 2]) == 9",
        "def largest(numbers):\n    return max(numbers, default=None)\n",
    ),
    (
        "Write a function that counts how often each word occurs in a text, whatever its case.\n\n"
        "Your code should pass this test:\nassert count_words('To be or not to be') == "
        "{'to': 2, 'be': 2, 'or': 1, 'not': 1}",
        "def count_words(text):\n    counts = {}\n    for word in text.lower().split():\n"
        "        counts[word] = counts.get(word, 0) + 1\n    return counts\n",
    ),
    (
        "Write a function that says whether a number is prime.\n\n"
        "Your code should pass this test:\nassert is_prime(7) == True",
        "def is_prime(number):\n    if number < 2:\n        return False\n    divisor = 2\n"
        "    while divisor * divisor <= number:\n        if number % divisor == 0:\n            return False\n"
        "        divisor += 1\n    return True\n",
    ),
)


class CodeConfig(DomainConfig):
    """Python code, verified by tests."""

    name: Literal["code"] = "code"
    shots: int = Field(0, ge=0, le=len(SHOTS), description="solved examples in the prompt")
    isolation: host.Level = Field(
        "full",
        description="full: answers run in a sandbox or not at all; none: where the system offers no sandbox, they run "
        "without one, within reach of files and the network, and as root only; see docs/domains/code.md",
    )
    seconds: int = Field(
        5,
        ge=1,
        le=600,
        description="processor seconds for all tests of an answer, start of the sandboxes excluded; one that takes "
        "longer is wrong",
    )
    memory_mib: int = Field(512, ge=64, le=65_536, description="address space of each process of an answer")
    processes: int = Field(8, ge=1, le=1024, description="processes and threads of an answer at a time")
    file_mib: int = Field(8, ge=1, le=4096, description="largest file, and the whole of an answer's temporary folder")
    workers: int = Field(2, ge=1, le=64, description="answers that are verified at a time")


class Ran(NamedTuple):
    """What came of an answer."""

    compiles: bool
    passed: list[bool]  # which tests
    wrote: str = ""  # by a program, where it first failed
    ended: str = ""  # in words, where not all tests were run


class Code(Domain):
    """Python functions with asserts (MBPP), with a `check` (HumanEval), or programs with input and output.

    Part `tests` is the share of the tests that pass; solved means all of them. Part `format` is 1 for a fenced block
    that compiles, else 0. An answer that runs out of time is wrong as a whole.
    """

    parts = {"tests": 1.0, "format": 0.0}
    columns = ("problem", "tests", "setup", "entry_point", "solution", "cases")
    optional = columns[1:]  # a row has tests or cases
    example = Answer(
        "Write a function that adds two numbers.\n\nYour code should pass this test:\nassert add(2, 3) == 5",
        '{"entry_point":"add","prefix":"","setup":"","tests":["assert add(2, 3) == 5","assert add(-1, 1) == 0"]}',
        "def add(left, right):\n    return left + right\n",
    )
    reference_pattern = r"(?s)^\{.*\}$"
    reference_form = "the record of tests that this project makes of a row, which is JSON"
    reference_is_answer = False

    def __init__(self, config: CodeConfig = CodeConfig()) -> None:
        self.config = config

    def read(self, row: Mapping[str, object]) -> Problem:
        """Takes the row of MBPP, HumanEval or a set of one's own; see docs/domains/code.md.

        Raises:
            DataError: the row has no tests, or does not say which function they test.
        """
        return read_row(row)

    def phrase(self, problem: str) -> str:
        """Returns the instruction, the examples and the task."""
        shown = [f"\nTask:\n{task}\n\n```python\n{solution}```\n" for task, solution in SHOTS[: self.config.shots]]
        if is_function(problem):
            problem = f"Complete this function.\n\n```python\n{problem.rstrip()}\n```"
        return f"{INSTRUCTION}{''.join(shown)}\nTask:\n{problem}\n"

    def task(self, problem: str) -> str:
        """Returns a problem without the test or the name that it shows: other values make no other task."""
        return task_of(problem)

    def fault(self, problem: str, reference: str) -> str | None:
        """Says what is wrong with a problem from a file, or None; nothing of it is run."""
        task = read_reference(reference)
        for case in task.cases if isinstance(task, Program) else ():
            read, written = (len(text.encode(errors="replace")) for text in (case.stdin, case.stdout))
            if read > (most := self.config.memory_mib * host.MIB // STDIN_SHARE):
                return (
                    f"{read} bytes of standard input; with memory_mib {self.config.memory_mib} at most {most} are read"
                )
            if written > answer_role.OUTPUT:
                return f"{written} bytes of standard output; at most {answer_role.OUTPUT} of an answer's are kept"
        if fault := fault_of(reference):
            return fault
        if isinstance(task, Tests) and (needed := memory_of(task)) > (most := self.config.memory_mib):
            return f"the tests take about {needed} MiB for their text and numpy; memory_mib is {most}, so raise it"
        return None

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        """Verifies one answer; see `verify_all`."""
        return self.verify_all([Answer(problem, reference, answer)])[0]

    def require(self) -> None:
        """Refuses a system that does not offer the isolation that the configuration asks for.

        Raises:
            SandboxError: it does not.
        """
        levels.choose(self.config.isolation)

    def verify_all(self, items: Sequence[Answer]) -> list[Verdict]:
        """Runs the block of each answer that counts, `workers` at a time; each thread only waits for processes.

        Raises:
            SandboxError: this system does not offer the isolation that the configuration asks for, or does not start
                what it has offered.
        """
        with ThreadPoolExecutor(self.config.workers) as pool:
            verdicts = list(shown(pool.map(self._verdict, items), len(items)))
        # What other programs kept from a processor is tried again when no other answer is there to do so.
        verdicts = [verdict or self._verdict(item) for verdict, item in zip(verdicts, items, strict=True)]
        if None in verdicts:
            logger.warning(
                "%d of %d answers have no verdict and are left out: other programs kept them from the processor for "
                "%d s, two times; use a machine with more free processors",
                verdicts.count(None),
                len(items),
                WALL * self.config.seconds,
            )
        return [verdict or UNJUDGED for verdict in verdicts]

    def _verdict(self, item: Answer) -> Verdict | None:
        """Verifies one answer, None where other programs kept it from a processor.

        Raises:
            SandboxError: there is no sandbox for it.
        """
        task = read_reference(item.reference)
        blocks = _blocks(item.text, isinstance(task, Program))
        if isinstance(task, str):
            return UNJUDGED
        if not blocks:
            return Verdict(parts={"tests": 0.0, "format": 0.0}, solved=False, remark="It has no fenced block.")
        route = levels.choose(self.config.isolation)
        failures = []
        for _ in range(TRIES):
            try:
                ran = self._run(task, blocks, route)
            except StartError as error:
                failures.append(str(error))
                continue
            except LateError:
                return None
            parts = {"tests": sum(ran.passed) / len(ran.passed), "format": float(ran.compiles)}
            return Verdict(parts=parts, solved=all(ran.passed), remark=_remark(task, ran))
        raise SandboxError(
            f"the sandbox of an answer did not start in {TRIES} tries ({'; '.join(failures)}), so there is no verdict, "
            "and none is kept; lower domain.workers if the machine has no processes or memory left, and run it again"
        )

    def _run(self, task: Tests | Program, blocks: list[str], route: Route) -> Ran:
        """Whether an answer compiles, which tests it passes, and what a program wrote.

        Raises:
            StartError: a sandbox did not come up, or had no room for a program's input.
            LateError: other programs kept it from a processor.
            SandboxError: the tests need numpy, and there is none.
        """
        config = self.config
        # The allowance is spent first; the kernel's limit of CPU time is for what nobody waits for.
        processes = config.processes + isinstance(task, Program)  # one more, which serves the program's runs
        limits = Limits(config.seconds + 1, config.memory_mib, processes, config.file_mib)
        with ExitStack() as stack:
            side = stack.enter_context(Sandbox(answer_role, limits, route))
            tester = stack.enter_context(Sandbox(tester_role, limits, route)) if isinstance(task, Tests) else None
            sandboxes = [side] if tester is None else [side, tester]
            for sandbox in sandboxes:
                sandbox.wait_until_ready()
            clock = Allowance(config.seconds, [sandbox.gauge for sandbox in sandboxes])
            order: dict[str, object] = {"blocks": blocks, "prefix": "", "entry_point": None}
            if isinstance(task, Tests):
                order |= {"prefix": task.prefix, "entry_point": task.entry_point}
            compiles, passed, wrote = False, [False] * task.count, ""
            try:
                side.send(json.dumps(order).encode(), clock)
                compiles = side.receive(clock, 1) == b"1"
                if compiles and isinstance(task, Program):
                    wrong = [_match(case.stdin, case.stdout, side, clock) for case in task.cases]
                    passed, wrote = [one is None for one in wrong], next(filter(None, wrong), "")
                elif compiles and isinstance(task, Tests) and tester is not None:
                    passed = _test(task, side, tester, clock)
            except SpentError:
                return Ran(compiles, passed, ended="It ran out of time, so no test counts as passed.")
            except GoneError:
                return Ran(compiles, passed, ended="A sandbox ended before the tests did, so none counts as passed.")
            return Ran(compiles, passed, wrote)


def _blocks(answer: str, program: bool) -> list[str]:
    """The fenced blocks of an answer, first the one that counts if it is code: the last ones, of Python before others.

    Without a language a block is as good as one of Python, but for a program: there it may as well be an output.
    """

    def rank(block: answers.Block) -> int:
        language = block.info.strip(" \t\r{.").casefold()
        python = language.startswith(("py", "ipy"))
        return 0 if python else int(program) if not language else 2

    blocks: list[answers.Block] = []
    for block in answers.fenced(answer):
        markdown = block.info.strip().casefold() in ("markdown", "md")
        blocks += answers.fenced(block.text) if markdown else [block]
    blocks = [block for block in reversed(blocks) if len(block.text) <= SOURCE]
    return [block.text for block in sorted(blocks, key=rank)]


def _test(task: Tests, side: Sandbox, tester: Sandbox, clock: Clock) -> list[bool]:
    """Carries calls from the tests to the answer and values back, and returns which tests passed.

    Raises:
        GoneError: the tests ended without a verdict.
        LateError, SpentError: there was not time enough; see `Clock`.
        SandboxError: the tests need numpy, and there is none.
    """
    order = {"setup": task.setup, "tests": task.tests, "entry_point": task.entry_point, "numpy": tester.numpy}
    tester.send(json.dumps(order).encode(), clock)
    lost = False
    while True:
        message = tester.receive(clock, wire.BYTES + 1)
        kind, body = message[:1], message[1:]
        if kind == b"V":
            verdicts = [flag == ord("1") for flag in body]
            return verdicts if len(verdicts) == task.count else [False] * task.count
        if kind == b"N":
            raise SandboxError(f"the tests import numpy, which their sandbox cannot: {body.decode()}; reinstall numpy")
        reply = b""
        if not lost:
            try:
                side.send(body, clock)
                reply = side.receive(clock, wire.BYTES)
            except GoneError:
                lost = True  # and stays so: the rest of an overlong line must not become the next reply
        tester.send(b"R" + reply if reply else b"X", clock)


def _match(text: str, wanted: str, side: Sandbox, clock: Clock) -> str | None:
    """Runs the program on one input and compares its output by lines, without spaces at their ends.

    Returns None where that is right, else what it wrote, in words.

    Raises:
        GoneError: the process that runs it is no more.
        LateError, SpentError: there was not time enough; see `Clock`.
        StartError: there is no memory or descriptor for the input.
    """
    with host.file_in_memory(text.encode(errors="replace")) as stdin:
        side.send(b"", clock, stdin)
    reply = side.receive(clock, 2 * answer_role.OUTPUT)
    try:
        output = binascii.a2b_base64(reply[1:]).decode(errors="replace")
    except binascii.Error:
        return "what cannot be read"
    if _lines(output) != _lines(wanted):
        return _quoted(output) or "nothing"
    return None if reply[:1] == b"1" else "the same, but it did not end with status 0"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _remark(task: Tests | Program, ran: Ran) -> str | None:
    """Says why an answer is wrong: the first test that failed and, of a program, what it wrote; None if it is right.

    Of a function the sandbox of the tests says no more than which ones passed.
    """
    if all(ran.passed):
        return None
    if ran.ended or not ran.compiles:
        return ran.ended or "No block is code that compiles."
    first = ran.passed.index(False)
    said = f"{sum(ran.passed)} of {task.count} tests passed. Test {first + 1} failed"
    if isinstance(task, Tests):
        return f"{said}:\n{_quoted(task.tests[first])}"
    read, wanted = map(_quoted, (task.cases[first].stdin, task.cases[first].stdout))
    return f"{said}. It read:\n{read}\nIt should write:\n{wanted}\nIt wrote:\n{ran.wrote}"


def _quoted(text: str) -> str:
    text = text.strip("\n")
    return text if len(text) <= QUOTED else f"{text[:QUOTED]} [...]"
