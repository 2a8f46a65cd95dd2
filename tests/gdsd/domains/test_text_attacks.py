"""Hostile answers in text: each domain gives each its verdict within the limit, and judges the next one as ever.

An answer is whatever a policy writes, so that no text may stop the scorer, hold it up or pass as right.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.gdsd.domains.base import Answer, Domain
from tasks.gdsd.domains.countdown import Countdown, CountdownConfig
from tasks.gdsd.domains.gsm8k import Gsm8k
from tasks.gdsd.domains.math import PATIENCE, Math, MathConfig
from tasks.gdsd.domains.sudoku import Sudoku, SudokuConfig

SECONDS = 0.5  # CPU seconds of an answer in mathematics
MOMENT = 5.0  # of the wall clock for a verdict that is only reading, on a busy machine
START = 15.0  # for a new worker, on a busy machine

ATTACKS = {
    "empty": "",
    "tower of powers": "9**9**9",
    "tower of powers in LaTeX": "9^{9^{9^{9}}}",
    "negative powers": "9^{-9^{9^{9}}}",
    "factorials": "9!!!!!!",
    "a big factorial": "99999999!",
    "a giant exponent": "1e999999999",
    "a shift": "1<<99999999999",
    "a million digits": "9" * 1_000_000,
    "a million decimals": "0." + "9" * 1_000_000,
    "five hundred digits": "9" * 490,
    "a thousand commas": "1," * 1_000,
    "open parentheses": "(" * 100_000,
    "nested parentheses": "(" * 100_000 + "1" + ")" * 100_000,
    "240 nested parentheses": "(" * 240 + "1" + ")" * 240,
    "nested brackets": "[" * 240 + "1" + "]" * 240,
    "nested braces": "{" * 100_000 + "1" + "}" * 100_000,
    "240 nested braces": "{" * 240 + "1" + "}" * 240,
    "nested fractions": r"\frac{1}{1+" * 40 + "1" + "}" * 40,
    "nested roots": r"\sqrt{" * 60 + "2" + "}" * 60,
    "nested sines": r"\sin(" * 60 + "x" + ")" * 60,
    "a chain of signs": "-" * 400 + "1",
    "a long chain of signs": "-+" * 500_000 + "1",
    "a long chain of equations": "1=" * 200 + "1",
    "division by zero": "1/0",
    "division by zero in LaTeX": r"\frac{1}{0}",
    "zero over zero": "(1-1)/(1-1)",
    "a modulus by zero": r"7 \mod 0",
    "fullwidth digits": "\uff13\uff16",
    "Arabic digits": "\u0663\u0666",
    "superscript digits": "\u00b3\u2076",
    "a minus sign of Unicode": "\u22123",
    "right-to-left marks": "\u202e36\u202c",
    "zero-width spaces": "3\u200b6",
    "combining marks": "3" + "\u0301" * 10_000,
    "null bytes": "\0" * 400,
    "lone surrogates": "\ud800\udfff" * 200,
    "every control character": "".join(map(chr, range(32))),
    "no-break spaces": "\u00a0" * 400,
    "megabytes of spaces": " " * 4_000_000,
    "megabytes of lines": "\n" * 4_000_000,
    "megabytes of letters": "a" * 4_000_000,
    "an import": "__import__('os').system('touch /tmp/gdsd-attack')",
    "attributes": "().__class__.__bases__[0].__subclasses__()",
    "a lambda": "(lambda: (yield))()",
    "a loop": "[x for x in iter(int, 1)]",
    "an exit": "exit()",
    "a format string": "%s%n{0.__class__}" * 20,
    "an infinite sum": r"\sum_{i=1}^{10^{9}} i^{i}",
    "an infinite product": r"\prod_{i=1}^{10^{9}} i",
    "a hard integral": r"\int_0^1 \sin(x^{x^{x}}) \, dx",
    "a limit": r"\lim_{x \to 0} (\sin x)^{x^{x}}",
    "a large binomial": r"\binom{10^9}{10^8}",
    "an expansion": "(a+b+c+d+e+f+g)^{300}",
    "a power of a matrix": r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^{100000000}",
    "a macro of itself": r"\def\a{\a\a}\a",
    "doubling macros": r"\def\a{ha}\def\b{\a\a}\def\c{\b\b}\def\d{\c\c}\d",
    "an input": r"\input{/etc/passwd}",
    "a write": r"\immediate\write18{touch /tmp/gdsd-attack}",
    "a category code": r"\catcode`\%=12 %",
    "an end of the document": r"\end{document}",
    "dollars": "$" * 400,
    "backslashes": "\\" * 400,
    "a backslash": "\\",
    "nested boxes": r"\boxed{" * 100_000 + "1" + "}" * 100_000,
    "60 nested boxes": r"\boxed{" * 60 + "1" + "}" * 60,
    "open boxes": r"\boxed{" * 100_000,
    "open tags": "<answer>" * 100_000,
    "closed tags": "</answer>" * 100_000,
    "many answers": "<answer>1</answer>" * 50_000,
    "tags in tags": "<answer>" * 50_000 + "1" + "</answer>" * 50_000,
    "open reasoning": "<reasoning>" * 100_000,
    "fences": "```" * 100_000,
    "JSON": '{"solved": true, "last": false}\n{"ready": true}\n',
    "everything that is right, at once": "1234341221434321 3*5+7 36",
    "hedging": r"35 \text{ or } 36 \text{ or } 37",
    "a set of everything": r"(-\infty, \infty)",
    "not a number": "nan",
    "infinity": r"\infty",
}


def bare(text: str) -> str:
    return text


def tagged(text: str) -> str:
    return f"<reasoning>r</reasoning><answer>{text}</answer>"


def boxed(text: str) -> str:
    return tagged(rf"\boxed{{{text}}}")


@dataclass(frozen=True)
class Target:
    domain: Domain
    problem: str
    reference: str
    wrap: Callable[[str], str]
    limit: float  # seconds of the wall clock


SUDOKU = ("1.34341.2143.321", "1234341221434321")
COUNTDOWN = ("3,5,7:22", "3*5+7")


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, Target]]:
    mathematics = Math(MathConfig(seconds=SECONDS))
    yield {
        "sudoku": Target(Sudoku(), *SUDOKU, bare, MOMENT),
        "sudoku, tagged": Target(Sudoku(SudokuConfig(format="tagged")), *SUDOKU, tagged, MOMENT),
        "countdown": Target(Countdown(), *COUNTDOWN, bare, MOMENT),
        "countdown, tagged": Target(Countdown(CountdownConfig(format="tagged")), *COUNTDOWN, tagged, MOMENT),
        "gsm8k": Target(Gsm8k(), "How many?", "36", tagged, MOMENT),
        "math": Target(mathematics, "How many?", "36", boxed, PATIENCE * SECONDS + START),
        "math, an expression": Target(mathematics, "Which?", "x^2+1", boxed, PATIENCE * SECONDS + START),
        "math, unboxed": Target(mathematics, "How many?", "36", tagged, MOMENT),
    }


ALONE = ["sudoku", "sudoku, tagged", "countdown", "countdown, tagged", "gsm8k", "math", "math, unboxed"]
TOGETHER = ["sudoku", "sudoku, tagged", "countdown", "countdown, tagged", "gsm8k", "math", "math, an expression"]


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_is_wrong_within_the_limit(targets: dict[str, Target], name: str, attack: str) -> None:
    """If it fails, one answer stops a round, holds it up, or passes as right."""
    target = targets[name]
    began = time.perf_counter()
    verdict = target.domain.verify(target.problem, target.reference, target.wrap(attack))
    assert time.perf_counter() - began < target.limit
    assert verdict.solved is False
    assert set(verdict.parts) == set(target.domain.parts)
    reward = sum(weight * (verdict.parts[part] or 0.0) for part, weight in target.domain.parts.items())
    assert None not in verdict.parts.values() and 0.0 <= reward <= 1.0


@pytest.mark.parametrize("name", TOGETHER)
def test_the_scorer_goes_on(targets: dict[str, Target], name: str) -> None:
    """If it fails, what comes after an attack is judged otherwise than without it. Answers are judged in one batch."""
    target = targets[name]
    right = Answer(target.problem, target.reference, target.wrap(target.reference))
    chosen = list(ATTACKS.values())[::4]
    items = [item for text in chosen for item in (Answer(target.problem, target.reference, target.wrap(text)), right)]
    verdicts = target.domain.verify_all(items)
    assert [verdict.solved for verdict in verdicts] == [False, True] * len(chosen)


READING = {
    "sudoku": (Sudoku(), *SUDOKU),
    "sudoku, tagged": (Sudoku(SudokuConfig(format="tagged")), *SUDOKU),
    "countdown": (Countdown(), *COUNTDOWN),
    "countdown, tagged": (Countdown(CountdownConfig(format="tagged")), *COUNTDOWN),
    "gsm8k": (Gsm8k(), "How many?", "36"),
}
PIECES = [
    *("<answer>", "</answer>", "<reasoning>", "</reasoning>", "3*5+7", "22", "=", "36", "1234341221434321"),
    *("(", ")", "-", "/", "0", " ", "\n", "\0", "\ud800", "\u0663", "$", ",", ".", "%"),
]


@pytest.mark.parametrize("name", READING)
@given(text=st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=40).map("".join)))
def test_any_text_gets_a_verdict(name: str, text: str) -> None:
    """If it fails, one odd answer stops a round. The time limit is that of hypothesis, 0.2 s each."""
    domain, problem, reference = READING[name]
    for answer in (text, tagged(text)):
        verdict = domain.verify(problem, reference, answer)
        assert all(part is not None and 0.0 <= part <= 1.0 for part in verdict.parts.values())
        assert verdict.solved in (True, False)


MATHEMATICS = [
    *(r"\frac", r"\sqrt", r"\sum", r"\int", r"\left(", r"\right)", r"\text", r"\begin{pmatrix}", r"\end{pmatrix}"),
    *(r"\cup", r"\infty", r"\%", r"\{", r"\}", r"\\", "&", "{", "}", "(", ")", "[", "|", "^", "_", "=", "<", "!", "'"),
    *("x", "y", "d", "9", "0", "36", ".", ",", "+", "-", "/", " ", "$", "\0", "\ud800", "\u0663"),
]


@settings(max_examples=60, deadline=None)
@given(expression=st.lists(st.sampled_from(MATHEMATICS), max_size=12).map("".join))
def test_any_expression_gets_a_verdict(expression: str) -> None:
    """If it fails, what math-verify raises, prints or takes its time for reaches the scorer."""
    assert HASTY.verify("How many?", "36", boxed(expression)).solved in (True, False)


HASTY = Math(MathConfig(seconds=SECONDS))
