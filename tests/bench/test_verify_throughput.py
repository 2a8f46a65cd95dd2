"""Verdicts on text answers a second, in one process, against a plain verifier of each domain.

make bench            or            python -m pytest -m slow -s tests/bench/test_verify_throughput.py

The answers are those of a round: right ones, ones with a character changed, other problems' answers, shuffled text, and
text that goes on to the end of the completion. The plain verifier of Countdown walks the tree of `ast.parse` with
Fractions, that of Sudoku checks clues, rows, columns and boxes; both read bare answers only. Time is the median of
several passes, which take turns.
"""

import ast
import random
import statistics
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from operator import truediv

import pytest

from tasks.gdsd.domains.base import Answer, Domain
from tasks.gdsd.domains.countdown import Countdown, CountdownConfig, read_problem
from tasks.gdsd.domains.sudoku import Sudoku, SudokuConfig
from tests.bench.harness import in_turns, show

ANSWERS, REPETITIONS = 20_000, 5
TAIL = " then 4 more" * 20  # what a completion goes on with; the digit makes the grid before it too long

Verify = Callable[[Answer], bool]


def plain_countdown(item: Answer) -> bool:
    numbers, target = read_problem(item.problem)
    used: list[int] = []

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int() as number):
                used.append(number)
                return Fraction(number)
            case ast.BinOp(left=left, op=operator, right=right):
                first, second = value(left), value(right)
                match operator:
                    case ast.Add():
                        return first + second
                    case ast.Sub():
                        return first - second
                    case ast.Mult():
                        return first * second
                    case ast.Div():
                        return first / second
        raise ValueError("neither a number nor one of the four operations")

    try:
        reached = value(ast.parse(item.text[:200].strip(), mode="eval").body) == target
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False
    return reached and sorted(used) == sorted(numbers)


def plain_sudoku(item: Answer) -> bool:
    grid = item.text
    if len(grid) != 16 or any(clue not in (".", cell) for clue, cell in zip(item.problem, grid, strict=True)):
        return False
    rows = [grid[start : start + 4] for start in range(0, 16, 4)]
    columns = [grid[column::4] for column in range(4)]
    boxes = [grid[corner : corner + 2] + grid[corner + 4 : corner + 6] for corner in (0, 2, 8, 10)]
    return all(set(unit) == set("1234") for unit in (*rows, *columns, *boxes))


def answers_of_a_round(domain: Domain, source: random.Random) -> list[Answer]:
    problems = list(islice(domain.problems(0), 500))
    items = []
    for index in range(ANSWERS):
        problem, reference = problems[index % len(problems)]
        place = source.randrange(len(reference))
        texts = (
            reference,
            reference[:place] + source.choice("1234+-*/") + reference[place + 1 :],
            problems[source.randrange(len(problems))].reference,
            "".join(source.sample(reference, len(reference))),
            reference + TAIL,
        )
        items.append(Answer(problem, reference, source.choice(texts)))
    return items


def measured(domain: Domain, plain: Verify, items: list[Answer], bare: list[Answer]) -> dict[str, float]:
    """Times both, the plain one on the bare answers, and checks that they agree on what is solved."""
    expected = list(map(plain, bare))
    assert [bool(verdict.solved) for verdict in domain.verify_all(items)] == expected and sum(expected) / ANSWERS > 0.1
    times = in_turns({"ours": lambda: domain.verify_all(items), "plain": lambda: list(map(plain, bare))}, REPETITIONS)
    return {
        "answers/s": ANSWERS / statistics.median(times["ours"]),
        "plain answers/s": ANSWERS / statistics.median(times["plain"]),
        "time ratio": statistics.median(map(truediv, times["ours"], times["plain"])),
    }


@pytest.mark.slow
def test_verdicts_keep_up_with_rollouts() -> None:
    """If it fails, scoring a round of a small policy takes as long as sampling it."""
    results = {}
    for name, bare_domain, tagged_domain, plain in (
        ("sudoku", Sudoku(), Sudoku(SudokuConfig(format="tagged")), plain_sudoku),
        ("countdown", Countdown(), Countdown(CountdownConfig(format="tagged")), plain_countdown),
    ):
        bare = answers_of_a_round(bare_domain, random.Random(0))
        tagged = [item._replace(text=f"<reasoning>{TAIL}</reasoning>\n<answer>{item.text}</answer>") for item in bare]
        results[f"{name}, bare"] = measured(bare_domain, plain, bare, bare)
        results[f"{name}, tagged"] = measured(tagged_domain, plain, tagged, bare)
    show(f"{ANSWERS} answers, one process, one thread", results)
    assert all(result["answers/s"] >= 20_000 for result in results.values())
    assert results["countdown, bare"]["time ratio"] <= 0.8
