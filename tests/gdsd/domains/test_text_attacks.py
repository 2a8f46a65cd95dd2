"""Hostile answers in text: each domain calls each of them wrong, and judges the next one as ever.

An answer is whatever a policy writes, so that no text may stop the scorer, hold it up or pass as right.
"""

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.gdsd.domains.base import Answer, Domain
from tasks.gdsd.domains.countdown import Countdown, CountdownConfig
from tasks.gdsd.domains.gsm8k import Gsm8k
from tasks.gdsd.domains.math import Math, MathConfig
from tasks.gdsd.domains.sudoku import Sudoku, SudokuConfig

THIN = 16  # of so many attacks one is tried in mathematics by the quick suite: each of them may cost a process

ATTACKS = {
    "empty": "",
    "tower of powers in LaTeX": "9^{9^{9^{9}}}",
    "factorials": "9!!!!!!",
    "a big factorial": "99999999!",
    "a giant exponent": "1e999999999",
    "a million digits": "9" * 1_000_000,
    "five hundred digits": "9" * 490,
    "a thousand commas": "1," * 1_000,
    "nested parentheses": "(" * 100_000 + "1" + ")" * 100_000,
    "240 nested parentheses": "(" * 240 + "1" + ")" * 240,
    "nested brackets": "[" * 240 + "1" + "]" * 240,
    "240 nested braces": "{" * 240 + "1" + "}" * 240,
    "nested fractions": r"\frac{1}{1+" * 40 + "1" + "}" * 40,
    "nested roots": r"\sqrt{" * 60 + "2" + "}" * 60,
    "a chain of signs": "-" * 400 + "1",
    "a long chain of equations": "1=" * 200 + "1",
    "division by zero in LaTeX": r"\frac{1}{0}",
    "a modulus by zero": r"7 \mod 0",
    "fullwidth digits": "\uff13\uff16",
    "a minus sign of Unicode": "\u22123",
    "right-to-left marks": "\u202e36\u202c",
    "zero-width spaces": "3\u200b6",
    "null bytes": "\0" * 400,
    "lone surrogates": "\ud800\udfff" * 200,
    "every control character": "".join(map(chr, range(32))),
    "megabytes of spaces": " " * 4_000_000,
    "megabytes of lines": "\n" * 4_000_000,
    "an import": "__import__('os').system('touch /tmp/gdsd-attack')",
    "a lambda": "(lambda: (yield))()",
    "a loop": "[x for x in iter(int, 1)]",
    "a format string": "%s%n{0.__class__}" * 20,
    "an infinite sum": r"\sum_{i=1}^{10^{9}} i^{i}",
    "an infinite product": r"\prod_{i=1}^{10^{9}} i",
    "a hard integral": r"\int_0^1 \sin(x^{x^{x}}) \, dx",
    "a large binomial": r"\binom{10^9}{10^8}",
    "an expansion": "(a+b+c+d+e+f+g)^{300}",
    "a power of a matrix": r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^{100000000}",
    "a macro of itself": r"\def\a{\a\a}\a",
    "doubling macros": r"\def\a{ha}\def\b{\a\a}\def\c{\b\b}\def\d{\c\c}\d",
    "an input": r"\input{/etc/passwd}",
    "a category code": r"\catcode`\%=12 %",
    "an end of the document": r"\end{document}",
    "dollars": "$" * 400,
    "a backslash": "\\",
    "nested boxes": r"\boxed{" * 100_000 + "1" + "}" * 100_000,
    "open boxes": r"\boxed{" * 100_000,
    "open tags": "<answer>" * 100_000,
    "many answers": "<answer>1</answer>" * 50_000,
    "tags in tags": "<answer>" * 50_000 + "1" + "</answer>" * 50_000,
    "fences": "```" * 100_000,
    "JSON": '{"solved": true, "last": false}\n{"ready": true}\n',
    "everything that is right, at once": "1234341221434321 3*5+7 36",
    "hedging": r"35 \text{ or } 36 \text{ or } 37",
    "a set of everything": r"(-\infty, \infty)",
    "not a number": "nan",
    "infinity": r"\infty",
}


BARE, TAGGED = "{}", "<reasoning>r</reasoning><answer>{}</answer>"
BOXED = TAGGED.format(r"\boxed{{{}}}")


class Target(NamedTuple):
    domain: Domain
    problem: str
    reference: str
    form: str

    def answer(self, text: str) -> Answer:
        return Answer(self.problem, self.reference, self.form.format(text))


SUDOKU = ("1.34341.2143.321", "1234341221434321")
COUNTDOWN = ("3,5,7:22", "3*5+7")
HASTY = Math(MathConfig(seconds=0.5))  # CPU seconds of an answer
READING = {
    "sudoku": Target(Sudoku(), *SUDOKU, BARE),
    "sudoku, tagged": Target(Sudoku(SudokuConfig(format="tagged")), *SUDOKU, TAGGED),
    "countdown": Target(Countdown(), *COUNTDOWN, BARE),
    "countdown, tagged": Target(Countdown(CountdownConfig(format="tagged")), *COUNTDOWN, TAGGED),
    "gsm8k": Target(Gsm8k(), "How many?", "36", TAGGED),
}
NUMBER = Target(HASTY, "How many?", "36", BOXED)
EXPRESSION = Target(HASTY, "Which?", "x^2+1", BOXED)


def check(target: Target, attacks: list[str]) -> None:
    """Judges each attack between right answers."""
    right = target.answer(target.reference)
    verdicts = target.domain.verify_all([item for text in attacks for item in (target.answer(text), right)])
    assert [verdict.solved for verdict in verdicts] == [False, True] * len(attacks)
    for verdict in verdicts:
        assert set(verdict.parts) == set(target.domain.parts)
        assert all(part is not None and 0.0 <= part <= 1.0 for part in verdict.parts.values())
    assert target.domain.verify(*right).solved


@pytest.mark.parametrize("name", READING)
def test_attacks_are_wrong_and_the_scorer_goes_on(name: str) -> None:
    """If it fails, one answer stops a round, passes as right, or changes what comes after it."""
    check(READING[name], list(ATTACKS.values()))


@pytest.mark.parametrize("step", [THIN, pytest.param(1, marks=pytest.mark.whole)])
def test_attacks_on_mathematics_are_wrong_and_the_scorer_goes_on(step: int) -> None:
    """If it fails, one answer stops a round, passes as right, or changes what comes after it."""
    check(NUMBER, list(ATTACKS.values())[::step])
    check(EXPRESSION, list(ATTACKS.values())[1 :: 2 * step])
    assert not any(HASTY.verify("p", "36", TAGGED.format(text)).solved for text in ATTACKS.values()), "without a box"


PIECES = [
    *("<answer>", "</answer>", "<reasoning>", "</reasoning>", "3*5+7", "22", "=", "36", "1234341221434321"),
    *("(", ")", "-", "/", "0", " ", "\n", "\0", "\ud800", "\u0663", "$", ",", ".", "%"),
]


@pytest.mark.parametrize("name", READING)
@given(text=st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=40).map("".join)))
def test_any_text_gets_a_verdict(name: str, text: str) -> None:
    """If it fails, one odd answer stops a round. The time limit is that of hypothesis, 0.2 s each."""
    domain, problem, reference, _ = READING[name]
    for answer in (text, TAGGED.format(text)):
        verdict = domain.verify(problem, reference, answer)
        assert all(part is not None and 0.0 <= part <= 1.0 for part in verdict.parts.values())
        assert verdict.solved in (True, False)


MATHEMATICS = [
    *(r"\frac", r"\sqrt", r"\sum", r"\int", r"\left(", r"\right)", r"\text", r"\begin{pmatrix}", r"\end{pmatrix}"),
    *(r"\cup", r"\infty", r"\%", r"\{", r"\}", r"\\", "&", "{", "}", "(", ")", "[", "|", "^", "_", "=", "<", "!", "'"),
    *("x", "y", "d", "9", "0", "36", ".", ",", "+", "-", "/", " ", "$", "\0", "\ud800", "\u0663"),
]


@settings(max_examples=30, deadline=None)
@given(expression=st.lists(st.sampled_from(MATHEMATICS), max_size=12).map("".join))
def test_any_expression_gets_a_verdict(expression: str) -> None:
    """If it fails, what SymPy raises, prints or takes its time for reaches the scorer."""
    assert HASTY.verify(*NUMBER.answer(expression)).solved in (True, False)
