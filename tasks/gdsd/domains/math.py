r"""MATH: competition problems with an expression in `\boxed{}` as the answer, compared by SymPy in processes."""

import contextlib
import json
import logging
import os
import re
import select
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Literal, cast

from pydantic import Field

from tasks.gdsd.domains import answers, notation
from tasks.gdsd.domains.base import Answer, Domain, DomainConfig, Problem, Verdict, shown
from tasks.gdsd.domains.gsm8k import MARK
from tasks.gdsd.domains.spoiled import spoiled
from tasks.gdsd.errors import DataError
from tasks.gdsd.sandbox.clocks import WALL
from tasks.gdsd.sandbox.guest import math_worker

logger = logging.getLogger(__name__)

WORKER = Path(math_worker.__file__)  # by import, so that the file travels with a remote run
LENGTH = 500  # characters of an answer's expression; the longest of MATH's own has about 150
# One sentence ends and the next begins, unlike in `C. Paris`, `4 p.m. Friday` and `No. It is odd`.
SENTENCES = re.compile(r"[A-Za-z=].*(?:[a-z]{3}|[0-9$)}])[.!?]\s+[A-Z][a-z]+[\s,]", re.DOTALL)
START_SECONDS = 120.0  # for the imports of a worker, on a busy machine
INHERITED = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT")  # and no credentials

INSTRUCTION = """\
Solve the problem. Work it out step by step inside <reasoning> and </reasoning>, then write the final answer in LaTeX \
as \\boxed{...} inside <answer> and </answer>.
"""


EXAMPLES = (
    answers.Example(
        "What is the sum of the solutions of $x^2 - 9x + 14 = 0$?",
        "The equation factors as $(x - 2)(x - 7) = 0$, so the solutions are 2 and 7, and their sum is $2 + 7 = 9$.",
        "9",
    ),
    answers.Example(
        "Two fair dice are thrown. What is the probability that their numbers differ by exactly 4?",
        "The pairs are (1, 5), (2, 6), (5, 1) and (6, 2). That is 4 of 36 equally likely throws, so the probability is "
        r"$\frac{4}{36} = \frac{1}{9}$.",
        r"\frac{1}{9}",
    ),
    answers.Example(
        "A right triangle has legs of length 6 and 9. How long is its hypotenuse?",
        r"By the theorem of Pythagoras it is $\sqrt{6^2 + 9^2} = \sqrt{117} = 3\sqrt{13}$.",
        r"3\sqrt{13}",
    ),
    answers.Example(
        "For which real $x$ is $|x - 3| < 2$?",
        "The distance of $x$ from 3 must be less than 2, so $1 < x < 5$.",
        "(1, 5)",
    ),
)


class MathConfig(DomainConfig):
    """Competition mathematics, read from files or from the hub."""

    name: Literal["math"] = "math"
    shots: int = Field(0, ge=0, le=len(EXAMPLES), description="worked examples in the prompt, not from the data set")
    seconds: float = Field(
        3.0, ge=0.1, le=60, description="processor seconds for an answer; one that takes longer is wrong"
    )
    memory_mib: int = Field(
        512, ge=256, le=8192, description="MiB of address space of a worker; an answer that needs more is wrong"
    )
    workers: int = Field(2, ge=1, le=64, description="processes that compare answers; more than CPUs are of no use")


class Math(Domain):
    r"""Competition problems as in MATH (arXiv 2103.03874), answered by `\boxed{}` inside `<answer>` tags.

    Part `correctness` is 1 where the last box inside the tags equals the reference mathematically, else 0; part
    `format` is 1 for `<reasoning>...</reasoning> <answer>...</answer>` with a box and nothing around the tags.
    An answer over a limit is wrong. None, for the correctness: the reference says nothing, no worker starts, or
    other programs kept it from a processor.
    """

    parts = {"correctness": 1.0, "format": 0.0}
    columns = ("problem", "answer", "solution")
    optional = ("answer", "solution")  # one of them is enough
    example = Answer(r"What is $\frac{1}{2} + \frac{1}{3}$?", r"\frac{5}{6}", r"\boxed{\frac{5}{6}}")

    def __init__(self, config: MathConfig = MathConfig()) -> None:
        self.config = config
        self._idle: list[Worker] = []  # started when first needed; its methods are atomic
        weakref.finalize(self, _close, self._idle)

    def read(self, row: Mapping[str, object]) -> Problem:
        r"""Takes the reference from `answer`, or from the last `\boxed{}` of `answer` or else `solution`.

        Raises:
            DataError: the problem is no text or empty, or there is no reference that is a text or a number.
        """
        problem = row["problem"]
        if not isinstance(problem, str) or not problem.strip():
            raise DataError(f"problem must be a text, not {problem!r:.60}")
        given = {column: row.get(column) for column in self.optional}
        column = next((column for column, value in given.items() if value is not None and str(value).strip()), None)
        if column is None:
            raise DataError("there is neither an answer nor a solution; map a column of the data set to one of them")
        text = notation.text_of(given[column], column)
        reference = answers.boxed(re.sub(r"\\boxed\s+([^\s{}$]+)", r"\\boxed{\1}", text))  # older rows have `\boxed 5`
        if reference is None and column == "answer":
            reference = text.strip()
        if not reference:
            raise DataError(f"there is no answer, nor a \\boxed{{}} in the solution {text[-60:]!r}")
        return Problem(problem.strip(), reference)

    def phrase(self, problem: str) -> str:
        """Returns the instruction, the worked examples and the problem."""
        boxed = [shot._replace(result=f"\\boxed{{{shot.result}}}") for shot in EXAMPLES[: self.config.shots]]
        return answers.worked(INSTRUCTION, boxed, problem)

    def fault(self, problem: str, reference: str) -> str | None:
        """Says what is wrong with a problem of a table, or None; the reference must be equal to itself."""
        if not problem.strip():
            return "the problem is empty"
        if len(reference) > LENGTH:
            return f"the reference has {len(reference)} characters, more than {LENGTH}"
        if (what := spoiled(reference)) is not None:
            return f"the reference {reference!r} is {what}"
        wanted = notation.plain(reference)
        if MARK in reference:
            return f"the reference {reference!r:.80} is a solution as in GSM8K; keep only what stands behind {MARK}"
        box = answers.last_box(reference)
        if box is not None and wanted != notation.plain(box.content):
            return f"the reference {reference!r:.80} is a solution; name its column `solution` by prompts.columns"
        if box is None and SENTENCES.search(reference):
            return f"the reference {reference!r:.80} is a text of several sentences; keep only the answer, or box it"
        match self._compared([(wanted, wanted)])[wanted, wanted]:
            case None:
                return f"the reference {reference!r:.80} says nothing, or the process that compares could not be run"
            case False:
                return f"the reference {reference!r:.80} is not found equal to itself within the limits"
        return None

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        """Verifies one answer; several are faster by `verify_all`."""
        return self.verify_all([Answer(problem, reference, answer)])[0]

    def verify_all(self, items: Sequence[Answer]) -> list[Verdict]:
        """Verifies answers in order, in several processes; equal answers to equal references are compared once."""
        boxes = [answers.boxed(answers.tagged(item.text) or "") for item in items]
        pairs = [
            (notation.plain(item.reference), notation.plain(box)) if box and len(box) <= LENGTH else None
            for item, box in zip(items, boxes, strict=True)
        ]
        wanted = [pair for pair in dict.fromkeys(pairs) if pair is not None]
        solved = self._compared(wanted)
        return [
            _verdict(item.text, box, False if pair is None else solved[pair])
            for item, box, pair in zip(items, boxes, pairs, strict=True)
        ]

    def solution(self, problem: str, reference: str) -> str:
        """Returns the expression in a box inside its tags."""
        return answers.answered(reference if answers.last_box(reference) else f"\\boxed{{{reference}}}")

    def _compared(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bool | None]:
        """Whether the two expressions of each pair are equal; None where that cannot be judged."""
        late: list[tuple[str, str]] = []  # its methods are atomic

        def compare(pair: tuple[str, str]) -> bool | None:
            try:
                return self._compare(*pair)
            except TimeoutError:
                late.append(pair)
                return None

        with ThreadPoolExecutor(self.config.workers) as threads:
            equal = dict(zip(pairs, shown(threads.map(compare, pairs), len(pairs)), strict=True))
        # What other programs kept from a processor is tried again when no other answer is there to do so.
        first = late.copy()
        equal |= {pair: compare(pair) for pair in first}
        if lost := len(late) - len(first):
            logger.warning(
                "%d of %d different answers have no verdict and are left out: other programs kept them from the "
                "processor for %g s, two times; use a machine with more free processors",
                lost,
                len(pairs),
                WALL * self.config.seconds,
            )
        return equal

    def _compare(self, reference: str, expression: str) -> bool | None:
        """Whether two expressions are equal; a worker that died for no visible reason is replaced once.

        Raises:
            TimeoutError: the worker was kept from a processor, for it does nothing but compute and has not used up its
                time.
        """
        started = False
        for _ in range(2):
            try:
                worker = self._take()
            except OSError as error:
                logger.warning("a process that compares expressions did not start: %s", error)
                continue
            started = True
            try:
                reply = worker.ask({"reference": reference, "answer": expression}, WALL * self.config.seconds)
            except TimeoutError:
                worker.close()
                raise
            except OSError:
                if worker.close() == -signal.SIGPROF:
                    return False
                continue
            if reply["last"]:
                worker.close()
            else:
                self._idle.append(worker)
            return reply["solved"]
        return False if started else None

    def _take(self) -> "Worker":
        while self._idle:
            worker = self._idle.pop()
            if worker.owner == os.getpid():  # a forked process must not talk to its parent's workers
                return worker
        return Worker(self.config.seconds, self.config.memory_mib)


def _verdict(text: str, box: str | None, solved: bool | None) -> Verdict:
    correctness = None if solved is None else float(solved)
    formed = box is not None and answers.well_formed(text)
    return Verdict(parts={"correctness": correctness, "format": float(formed)}, solved=solved)


def _close(workers: "list[Worker]") -> None:
    for worker in workers:
        if worker.owner == os.getpid():
            worker.close()


class Worker:
    """A process that compares expressions one after the other; see `tasks.gdsd.sandbox.guest.math_worker`.

    Raises:
        OSError: it does not start; of `ask`: it has died, or (TimeoutError) does not answer in time.
    """

    def __init__(self, seconds: float, memory_mib: int) -> None:
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self.owner = os.getpid()
        theirs, ours = os.pipe()
        self._lifeline = open(ours, "wb")  # noqa: SIM115  # for as long as the process lives
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER), str(seconds), str(memory_mib), str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment | {"PYTHONHASHSEED": "0"},
                pass_fds=[theirs],
            )
        except OSError:
            self._lifeline.close()
            raise
        finally:
            os.close(theirs)
        try:
            greeting = self._receive(START_SECONDS)
            if "failed" in greeting:
                raise OSError(greeting["failed"])
        except OSError:
            self.close()
            raise

    def ask(self, request: Mapping[str, str], seconds: float) -> dict[str, bool | None]:
        """Sends a request and returns the reply, waiting for at most so many seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        return self._receive(seconds)

    def _receive(self, seconds: float) -> dict[str, bool | None]:
        assert self.process.stdout is not None
        poller = select.poll()
        poller.register(self.process.stdout, select.POLLIN)
        if not poller.poll(1000 * seconds):
            raise TimeoutError(f"no reply within {seconds:.1f} s")
        line = self.process.stdout.readline()  # a worker writes a line as a whole
        if not line.endswith(b"\n"):
            raise BrokenPipeError("the worker has ended")
        return json.loads(line)

    def close(self) -> int:
        """Ends the process if it still runs, reaps it and returns its exit status."""
        for pipe in (self.process.stdout, self.process.stdin):
            with contextlib.suppress(OSError):  # its input may be broken, with the rest of a request
                cast(IO[bytes], pipe).close()
        try:
            return self.process.wait(0.05)  # it may be about to end by itself, and then its status is of interest
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self._lifeline.close()
