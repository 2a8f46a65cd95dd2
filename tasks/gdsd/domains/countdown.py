"""Countdown: reach a target with each given number once; problems, the prompt, and an exact verdict."""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache, reduce
from itertools import combinations, islice
from reprlib import repr as brief
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from tasks.gdsd.domains import answers
from tasks.gdsd.domains.base import Answer, Domain, DomainConfig, Problem, Verdict
from tasks.gdsd.domains.expression import DIGITS, LENGTH, MOST, OPERATORS, PRECEDENCE, Parsed, Value, find, parse
from tasks.gdsd.errors import DataError

LEAST = 2  # numbers of a problem; at most there are MOST, for which a full search takes about a second
PATIENCE = 50_000  # draws without a new problem after which there are none left

ATOM = 3  # precedence of a number

NUMBER = r"(?:0|[1-9][0-9]{0,5})"
PROBLEM = rf"^{NUMBER}(?:,{NUMBER}){{1,5}}:{NUMBER}$"

INSTRUCTION = """\
Use the given numbers to reach the target. Write one expression with +, -, * and / that contains every given number \
exactly once and no other number; parentheses are allowed, and the result must equal the target exactly.

Think inside <reasoning> and </reasoning>, then write the expression alone inside <answer> and </answer>.
"""


class CountdownConfig(DomainConfig):
    """Countdown, generated or read."""

    name: Literal["countdown"] = "countdown"
    min_numbers: int = Field(3, ge=LEAST, le=MOST, description="fewest numbers of a generated problem")
    max_numbers: int = Field(4, ge=LEAST, le=MOST, description="most numbers of a generated problem")
    min_number: int = Field(1, ge=1, le=999, description="smallest number")
    max_number: int = Field(99, ge=1, le=999, description="largest number")
    min_target: int = Field(10, ge=1, le=9999, description="smallest target")
    max_target: int = Field(100, ge=1, le=9999, description="largest target")
    format: Literal["bare", "tagged"] = Field(
        "bare",
        description="bare: the problem and `=`, answered by the expression alone; tagged: an instruction in words, "
        "answered inside <answer> tags",
    )
    shots: int = Field(0, ge=0, le=4, description="solved examples in the prompt; none is among the generated problems")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for what, least, most in (
            ("numbers", self.min_numbers, self.max_numbers),
            ("number", self.min_number, self.max_number),
            ("target", self.min_target, self.max_target),
        ):
            if least > most:
                raise ValueError(f"min_{what} {least} exceeds max_{what} {most}; lower it or raise max_{what}")
        return self


class Term(NamedTuple):
    """An expression as text, with what is needed to make it part of a larger one."""

    text: str
    precedence: int  # of its outermost operator
    value: Value


class Countdown(Domain):
    """Countdown on texts such as `3,5,7:22`: the numbers in the order in which they were drawn, then the target.

    Part `correctness` is 1 for an expression of exactly the given numbers that equals the target, else 0; part `format`
    is 1 for an expression of exactly the given numbers, whatever its value. Expressions have binary + - * / and
    parentheses only, which may be written in several ways: no signs before a number, no powers, no decimals.
    """

    parts = {"correctness": 0.9, "format": 0.1}
    columns = ("numbers", "target")
    example = Answer("3,5,7:22", "3*5+7", "7+5*3")
    generates = True
    problem_pattern = PROBLEM
    reference_pattern = r"^[0-9+\-*/() ]{1,200}$"
    problem_form = "numbers and a target, such as 3,5,7:22"
    reference_form = "numbers, + - * / and parentheses, such as 7+5*3, in at most 200 characters"

    def __init__(self, config: CountdownConfig = CountdownConfig()) -> None:
        self.config = config
        self.shots = list(islice(self._draw("countdown:shots", frozenset()), config.shots))

    def problems(self, seed: int) -> Iterator[Problem]:
        """Yields solvable problems, distinct up to the order of their numbers; none of the prompt's examples.

        Raises:
            DataError: no new problem turns up.
        """
        return self._draw(f"countdown:{seed}", frozenset(canonical(shot.problem) for shot in self.shots))

    def _draw(self, seed: str, shown: frozenset[str]) -> Iterator[Problem]:
        config = self.config
        source = random.Random(seed)
        seen = set(shown)
        misses = 0
        while misses < PATIENCE:
            misses += 1
            count = source.randint(config.min_numbers, config.max_numbers)
            numbers = [source.randint(config.min_number, config.max_number) for _ in range(count)]
            term = _random_term(numbers, source)
            problem = f"{','.join(map(str, numbers))}:{term.value}"
            if config.min_target <= term.value <= config.max_target and canonical(problem) not in seen:
                seen.add(canonical(problem))
                misses = 0
                yield Problem(problem, term.text)
        raise DataError(
            f"there are hardly more than {len(seen)} problems of {config.min_numbers} to {config.max_numbers} numbers "
            f"from {config.min_number} to {config.max_number} with a target from {config.min_target} to "
            f"{config.max_target} ({PATIENCE} draws gave no new one); ask for fewer problems, or for others by "
            "prompts.domain.max_numbers, max_number and max_target"
        )

    def read(self, row: Mapping[str, object]) -> Problem:
        """Takes the numbers as a list or as text such as `3,5,7`; the reference is the first solution of a search.

        Whole numbers may have become floats, as in a column with gaps: 88.0 is 88.

        Raises:
            DataError: these are not 2 to 6 whole numbers below a million and a target, or nothing reaches the target.
        """
        given = row["numbers"]
        if isinstance(given, str) and len(given) <= LENGTH:
            given = re.split(r"\s*,\s*|\s+", given.strip(" []()"))
        texts = [_whole(number) for number in given] if isinstance(given, list) else []
        problem = f"{','.join(texts)}:{_whole(row['target'])}"
        if len(problem) > LENGTH or not re.fullmatch(PROBLEM, problem):
            raise DataError(
                f"numbers must be {LEAST} to {MOST} whole numbers of at most {DIGITS} digits and target another, not "
                f"{brief(row['numbers'])} and {brief(row['target'])}"
            )
        numbers, target = read_problem(problem)
        if (solution := solve(numbers, target)) is None:
            raise DataError(f"{problem!r} has no solution")
        return Problem(problem, solution)

    def phrase(self, problem: str) -> str:
        """Returns the problem behind the examples; its `=` anchors the positions of a bare answer."""
        if self.config.format == "bare":
            return "".join(f"{shot.problem}={shot.reference}|" for shot in self.shots) + f"{problem}="
        shown = [f"\n{_in_words(shot.problem)}\n<answer>{shot.reference}</answer>\n" for shot in self.shots]
        return f"{INSTRUCTION}{''.join(shown)}\n{_in_words(problem)}"

    def fault(self, problem: str, reference: str) -> str | None:
        """Says what is wrong with a problem from a file, or None."""
        if not re.fullmatch(PROBLEM, problem):
            return f"{problem!r:.80} is not {LEAST} to {MOST} numbers and a target such as '3,5,7:22'"
        if _judge(*read_problem(problem), parse(reference)) != (True, True):
            return f"{problem!r} is not solved by {reference!r:.80}"
        return None

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        """Verifies an answer, whose expression may be written in any of the ways that `expression.find` reads."""
        expression = (answers.tagged(answer) or "") if self.config.format == "tagged" else answer
        numbers, target = read_problem(problem)
        found = find(expression, target)
        formed, solved = _judge(numbers, target, found)
        parts = {"correctness": float(solved), "format": float(formed)}
        return Verdict(parts=parts, solved=solved, remark=_remark(numbers, target, found))

    def solution(self, problem: str, reference: str) -> str:
        """Returns the expression of the reference, in the form that the prompt asks for."""
        return answers.answered(reference) if self.config.format == "tagged" else reference

    def shingles(self, problem: str) -> frozenset[str]:
        """Two problems are alike only if they have the same numbers, in any order, and the same target."""
        return frozenset([canonical(problem)])


def read_problem(problem: str) -> tuple[list[int], int]:
    """Returns the numbers and the target of a problem's text."""
    numbers, _, target = problem.partition(":")
    return [int(number) for number in numbers.split(",")], int(target)


def _judge(numbers: list[int], target: int, parsed: Parsed | None) -> tuple[bool, bool]:
    """Whether an expression has exactly the given numbers, and whether it also reaches the target."""
    if parsed is None or sorted(parsed.numbers) != sorted(numbers):
        return False, False
    return True, parsed.value == target


def _remark(numbers: list[int], target: int, parsed: Parsed | None) -> str:
    """Says which value an expression has, how far that is from the target, and whose numbers it takes."""
    if parsed is None:
        return "It is no expression that can be read."
    if parsed.value is None:
        value = "It divides by zero"
    elif parsed.value == target:
        value = f"Its value is {target}, the target"
    else:
        side = "above" if parsed.value > target else "below"
        value = f"Its value is {parsed.value}, {abs(parsed.value - target)} {side} the target"
    if sorted(parsed.numbers) == sorted(numbers):
        return f"{value}."
    return f"{value}; its numbers are {', '.join(map(str, parsed.numbers))}."


def _whole(number: object) -> str:
    """Returns a number of a data set as text, without a `.0` behind it."""
    return str(number).strip().removesuffix(".0") if isinstance(number, str | int | float) else ""


def canonical(problem: str) -> str:
    """Returns a problem's text with its numbers in rising order."""
    numbers, target = read_problem(problem)
    return f"{','.join(map(str, sorted(numbers)))}:{target}"


def _in_words(problem: str) -> str:
    numbers, _, target = problem.partition(":")
    return f"Numbers: {numbers.replace(',', ', ')}\nTarget: {target}"


def _leaf(number: int) -> Term:
    return Term(str(number), ATOM, number)


def _combine(sign: str, left: Term, right: Term) -> Term:
    """Joins two terms with as few parentheses as the value allows."""
    rank = PRECEDENCE[sign]
    first = f"({left.text})" if left.precedence < rank else left.text
    binds = right.precedence > rank or (right.precedence == rank and sign in "+*")
    second = right.text if binds else f"({right.text})"
    value = OPERATORS[sign](left.value, right.value)
    return Term(f"{first}{sign}{second}", rank, value.numerator if value.denominator == 1 else value)


def _random_term(numbers: Sequence[int], source: random.Random) -> Term:
    """Joins the numbers in random order by random operators; a division only where it leaves no remainder."""
    terms = [_leaf(number) for number in numbers]
    while len(terms) > 1:
        right, left = (terms.pop(source.randrange(len(terms))) for _ in range(2))
        divides = right.value and left.value % right.value == 0
        terms.append(_combine(source.choice("+-*/" if divides else "+-*"), left, right))
    return terms[0]


def solve(numbers: Sequence[int], target: Value) -> str | None:
    """Returns the first expression found that uses each number once and equals the target exactly; None without one."""
    term = _search(tuple(numbers), target)
    return term.text if term is not None else None


def _splits(numbers: tuple[int, ...], most: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for size in range(1, most + 1):
        for chosen in combinations(range(len(numbers)), size):
            yield (
                tuple(numbers[index] for index in chosen),
                tuple(number for index, number in enumerate(numbers) if index not in chosen),
            )


def _search(numbers: tuple[int, ...], target: Value) -> Term | None:
    """Enumerates the smaller side of the outermost operator, and searches for what the larger one must then be."""
    if len(numbers) <= MOST // 2:
        return _terms(numbers).get(target)
    for few, rest in _splits(numbers, len(numbers) // 2):
        for part in _terms(few).values():
            if part.value == target == 0:  # zero times anything
                return _combine("*", part, reduce(lambda left, right: _combine("+", left, right), map(_leaf, rest)))
            wanted: list[tuple[str, bool, Value]] = [
                ("+", False, target - part.value),
                ("-", False, part.value - target),
                ("-", True, target + part.value),
            ]
            if part.value:
                wanted += [("*", False, Fraction(target, part.value)), ("/", True, target * part.value)]
                wanted += [("/", False, Fraction(part.value, target))] if target else []
            for sign, behind, value in wanted:
                if (other := _search(rest, value)) is not None:
                    return _combine(sign, other, part) if behind else _combine(sign, part, other)
    return None


@lru_cache(maxsize=64)  # a search of six numbers asks for 41 subsets, each many times
def _terms(numbers: tuple[int, ...]) -> dict[Value, Term]:
    """Every value that an expression of these numbers can have, with one such expression."""
    if len(numbers) == 1:
        return {numbers[0]: _leaf(numbers[0])}
    found: dict[Value, Term] = {}
    for some, others in _splits(numbers, len(numbers) - 1):
        for left in _terms(some).values():
            for right in _terms(others).values():
                for sign in "+-*/" if right.value else "+-*":
                    term = _combine(sign, left, right)
                    found.setdefault(term.value, term)
    return found
