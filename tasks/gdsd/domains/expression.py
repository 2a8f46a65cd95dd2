"""Arithmetic expressions as people and models write them: their numbers, and their exact value.

All of it takes time linear in the text, and nothing here raises or evaluates text.
"""

import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from tasks.gdsd.domains import answers, notation

MOST, DIGITS = 6, 6  # numbers of an expression, and digits of a number
LENGTH = 200  # characters of an expression; the longest without spare parentheses and spaces has 49
WRITTEN = 1000  # characters of an answer in which an expression is looked for

Value = int | Fraction

# A division by zero raises ZeroDivisionError. Whole numbers stay int, which is several times faster than Fraction.
OPERATORS: dict[str, Callable[[Value, Value], Value]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda left, right: Fraction(left, right),
}
FRACTION, HALVES = "\\{", "}{"  # the begin and the middle of \frac{3}{5}, for the parser
OPENS = ("(", "[", "{", FRACTION)
CLOSES = {")": ("(",), "]": ("[",), "}": ("{", HALVES), HALVES: (FRACTION,)}
PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2} | dict.fromkeys((*OPENS, HALVES), 0)

EXPRESSION = re.compile(r"[0-9+\-*/()\[\]{}\\\s]+")
TOKEN = re.compile(r"[0-9]+|\\\{|\}\{|\S")
GAP = re.compile(r"(?<=[\\}])\s+(?=\{)")  # in \frac {3} {5}
UNBRACED = re.compile(r"\\\s*([0-9])\s*([0-9]?)")  # \frac35 or \frac3{5}
PLAIN = re.compile(r"\s*[0-9(][0-9+\-*/()\s]*")

# Unicode's other signs for the operations, and what says nothing about the value.
SIGNS = str.maketrans(
    dict.fromkeys("xX\u00b7\u00d7\u2022\u2217\u2219\u22c5\u2715\u2716\u2a2f\uff0a", "*")
    | dict.fromkeys("\u00f7\u2044\u2215\u2797\uff0f", "/")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\u2796\uff0d", "-")
    | {"\u2795": "+", "\uff0b": "+", "\uff08": "(", "\uff09": ")", "\uff1d": "="}
    | dict.fromkeys("\u2018\u2019", "'")
    | dict.fromkeys("\u201c\u201d", '"')
    | dict.fromkeys("$`", " ")
)
COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
COMMANDS = (
    dict.fromkeys(("times", "cdot", "ast", "*"), "*")
    | dict.fromkeys(("div",), "/")
    | dict.fromkeys(("frac", "dfrac", "tfrac", "cfrac"), "\\")
    | dict.fromkeys(("boxed", "text", "textbf", "mathbf", "mathrm", "displaystyle", "quad", "qquad"), " ")
    | dict.fromkeys(("left", "right", "big", "bigl", "bigr", "Big", "Bigl", "Bigr", *"\\()[],;:! "), " ")
)
UNKNOWN = "?"
EMPHASIS = re.compile(r"(\*\*|__|[*_\"'])(.*)\1", re.DOTALL)
EMPHASES = 3  # of them may lie in each other


class Parsed(NamedTuple):
    """What an expression contains."""

    numbers: list[int]  # as written, in order
    value: Value | None  # None: it divides by zero


def parse(text: str) -> Parsed | None:
    """Reads an expression exactly, in one pass without recursion; None if it is none or exceeds a limit."""
    text = text.strip()
    if len(text) > LENGTH or not EXPRESSION.fullmatch(text):
        return None
    numbers: list[int] = []
    values: list[Value] = []
    waiting: list[str] = []  # operators, and what opens a group
    operand = True  # whether an operand comes next, or an operator
    defined = True

    def apply(sign: str) -> None:
        nonlocal defined
        right = values.pop()
        if sign == "/" and not right:
            defined = False
            right = 1  # only so that the rest is still parsed
        values[-1] = OPERATORS[sign](values[-1], right)

    for token in TOKEN.findall(text):
        if token.isdigit():
            if not operand or len(token) > DIGITS or len(numbers) == MOST:
                return None
            numbers.append(int(token))
            values.append(numbers[-1])
            operand = False
        elif token in OPENS:
            if not operand:
                return None
            waiting.append(token)
        elif operand or token == "\\":
            return None  # an operator or the end of a group where a number belongs, or half a fraction
        else:
            least = PRECEDENCE.get(token) or 1  # the end of a group applies all of its operators
            while waiting and PRECEDENCE[waiting[-1]] >= least:
                apply(waiting.pop())
            if token in CLOSES:
                opened = waiting.pop() if waiting else None
                if opened not in CLOSES[token]:
                    return None
                if opened == HALVES:
                    apply("/")
            operand = token not in CLOSES or token == HALVES
            if operand:
                waiting.append(token)
    while waiting and not operand:
        if (sign := waiting.pop()) not in OPERATORS:
            return None
        apply(sign)
    return None if operand else Parsed(numbers, values[0] if defined else None)


def find(text: str, target: int) -> Parsed | None:
    r"""Reads the expression of an answer; None where there is none.

    It may stand in a fence, a box, dollars or asterisks, have the signs of Unicode or LaTeX, `Answer:` before it, a
    full stop or semicolon behind it, and the target behind or before an equals sign.
    """
    if PLAIN.fullmatch(text):  # as most answers are
        return parse(text)
    text = text.strip()
    if len(text) > WRITTEN:
        return None
    text = answers.last_block(text).strip()
    box = answers.boxed(text)
    if box is not None and not _is(box, target):  # in `3*5+7 = \boxed{22}` the expression stands before it
        text = box
    text = notation.unlabelled(text)
    text = COMMAND.sub(lambda match: COMMANDS.get(match[1], UNKNOWN), text).translate(SIGNS)
    text = UNBRACED.sub(lambda match: f"\\{{{match[1]}}}" + (f"{{{match[2]}}}" if match[2] else ""), text)
    text = GAP.sub("", text)
    sides = [_bared(side) for side in _bared(text).replace("==", "=").split("=")]
    if len(sides) == 2:
        sides = [side for side in sides if not _is(side, target)]
    return parse(sides[0]) if len(sides) == 1 else None


def _is(text: str, target: int) -> bool:
    """Whether a text is nothing but the target; 22.0 is 22."""
    parsed = parse(text.strip().removesuffix(".0"))
    return parsed is not None and parsed.numbers == [target]


def _bared(text: str) -> str:
    """Takes emphasis away, and a full stop, comma or semicolon at the end."""
    for _ in range(EMPHASES):
        text = text.strip().rstrip(".,; ")
        if (found := EMPHASIS.fullmatch(text)) is None:
            break
        text = found[2]
    return text.strip()
