"""How many answers the code domain judges in a second, against a fresh and unconfined interpreter for each.

make bench            or            python -m pytest -m slow -s tests/bench/test_code_throughput.py

An answer has three tests and is right. The plain baseline runs each answer together with its tests in a new `python`
(`subprocess.run`), with as many at a time. Rounds of both take turns after one of each, so that whatever else the
machine does slows both; shown are medians. The processor time of an answer is what other work changes least.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import pytest

from tasks.gdsd.domains.base import Answer
from tasks.gdsd.domains.code import Code, CodeConfig
from tasks.gdsd.sandbox import levels
from tests.gdsd.sandbox.sandboxes import only

WORKERS, ANSWERS, ROUNDS = 4, 50, 5
SOLUTION = "def clamp(number, least, most):\n    return max(least, min(number, most))\n"
TESTS = ["assert clamp(5, 1, 3) == 3", "assert clamp(-5, 1, 3) == 1", "assert clamp(2, 1, 3) == 2"]
PROBLEM = Code().read({"problem": "Write a function that limits a number to a range.", "tests": TESTS})


@dataclass(frozen=True)
class Measured:
    answers_per_s: float
    plain_per_s: float
    ratio: float
    cpu_ms: float
    plain_cpu_ms: float
    load: float


def plain(_: int) -> bool:
    command = [sys.executable, "-c", "\n".join([SOLUTION, *TESTS])]
    return subprocess.run(command, check=False).returncode == 0


def timed(judge: Callable[[], list[bool]]) -> tuple[float, float]:
    """Returns answers in a second, and processor milliseconds of an answer."""
    began, used = time.perf_counter(), cpu_seconds()
    assert judge() == [True] * ANSWERS
    return ANSWERS / (time.perf_counter() - began), 1000 * (cpu_seconds() - used) / ANSWERS


def cpu_seconds() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def measured() -> Measured:
    code = Code(CodeConfig(isolation="none", workers=WORKERS))
    items = [Answer(*PROBLEM, f"```python\n{SOLUTION}```")] * ANSWERS
    runs: dict[str, list[tuple[float, float]]] = {"ours": [], "plain": []}
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in range(1 + ROUNDS):
            runs["ours"].append(timed(lambda: [bool(verdict.solved) for verdict in code.verify_all(items)]))
            runs["plain"].append(timed(lambda: list(pool.map(plain, range(ANSWERS)))))
    speed, cpu = (
        {kind: statistics.median(run[i] for run in several[1:]) for kind, several in runs.items()} for i in (0, 1)
    )
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(runs["ours"][1:], runs["plain"][1:], strict=True)]
    return Measured(
        answers_per_s=speed["ours"],
        plain_per_s=speed["plain"],
        ratio=statistics.median(ratios),
        cpu_ms=cpu["ours"],
        plain_cpu_ms=cpu["plain"],
        load=os.getloadavg()[0],
    )


@pytest.mark.slow
def test_code_is_judged_about_as_fast_as_interpreters_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a round of code answers waits for its sandboxes."""
    results = {}
    for level in levels.LEVELS:
        if levels.offered(level)[0]:
            with monkeypatch.context() as patch:
                only(level, patch)
                results[level] = measured()
    print(f"\n{ANSWERS} answers of 3 tests, {WORKERS} at a time, {os.cpu_count()} cores")
    print("| isolation | answers/s | plain python | ratio | CPU | plain | load |\n|---|---|---|---|---|---|---|")
    for level, of in results.items():
        print(
            f"| {level} | {of.answers_per_s:.1f} | {of.plain_per_s:.1f} | {of.ratio:.2f} "
            f"| {of.cpu_ms:.1f} ms | {of.plain_cpu_ms:.1f} ms | {of.load:.1f} |"
        )
    print(json.dumps({level: asdict(result) for level, result in results.items()}))
    strongest = next(iter(results.values()))
    assert strongest.ratio > 0.4
    # On a machine that others use, what it would be: the processor time of an answer, spread over two cores.
    assert strongest.answers_per_s >= 25 or 2 * 1000 / strongest.cpu_ms >= 25
