r"""What an answer is made of: values with units, words, sets, intervals, tuples, equations, and lists of these.

`readings` gives every way to read a text; most have one. `1,234` has two, a number and a list.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import sympy

from tasks.gdsd.sandbox.mathematics import terms, words
from tasks.gdsd.sandbox.mathematics.marking import INFINITY, JOINING, PHRASE, marked, measured, without_commas
from tasks.gdsd.sandbox.mathematics.terms import CLOSE, DEGREE, OPEN, Unreadable

INEQUALITIES = frozenset(["<", ">", r"\le", r"\ge", r"\ne"])
RELATIONS = INEQUALITIES | {"=", r"\in"}
HALF_OPEN = (("(", "]"), ("[", ")"))
OPERATIONS = frozenset([r"\cup", r"\cap", r"\setminus"])
REALS = sympy.Interval(-sympy.oo, sympy.oo)
NAMED = {
    **{r"\mathbb{R}": REALS, r"\mathbb{Z}": sympy.S.Integers, r"\mathbb{Q}": sympy.S.Rationals},
    **{r"\mathbb{N}": sympy.S.Naturals, r"\mathbb{C}": sympy.S.Complexes, r"\emptyset": sympy.S.EmptySet},
    **{r"\{\}": sympy.S.EmptySet, "all real number": REALS, "all real": REALS},
}
UPRIGHT = frozenset("mgslLhNWJVKCF")  # units of one letter, where they stand in `\mathrm{}`
LETTER = re.compile(  # a unit of one letter, behind what is no sum: `5 m` and `9.8 m/s^2`, but not 2 + 3 s
    r"(-?(?:[^-+]|(?<=\{)-)*(?:[0-9}]|\\pi))( ?)([mgslLh](?:/[sh])?(?: ?\^ ?\{?[23]\}?)?)"
)
CURRENCIES = {r"\$": "dollar", "€": "euro", "£": "£", "¥": "yen", "¢": "cent"}
BASE = re.compile(
    r"\(?([0-9A-Za-z]+)\)?(?:_\{?(?:\\text\{)?(?:base-?\}?)?|\\text\{\(?base-?\}?)\(?([0-9]{1,2}|[a-z]+)(?:\\text\{)?\)?\}{0,2}"
)
CLOCK = re.compile(r"([0-9]{1,2})(?::([0-5][0-9])(?::([0-5][0-9]))?)?(?:\\text\{([ap])\.?m\.?\})?", re.IGNORECASE)


@dataclass(frozen=True)
class Value:
    """An expression, and its unit's name or nothing."""

    term: sympy.Expr
    unit: str = ""
    kept: bool = field(compare=False, default=False)  # may the unit not be left out, as in 7 twice


@dataclass(frozen=True)
class Words:
    """Words, or a text that no grammar here reads; in small letters."""

    text: str
    letters: bool = False  # bare ones, as AB, which are words only beside such as are: AB is not ab


@dataclass(frozen=True)
class Choice:
    """The letter of a choice, and what stands behind it: `(A) 5`."""

    letter: str
    said: Words | None


@dataclass(frozen=True)
class Named:
    """A set that has a name."""

    which: sympy.Set


@dataclass(frozen=True)
class Numeral:
    """Digits in a base."""

    digits: str
    base: int


@dataclass(frozen=True)
class Clock:
    """A time of day: seconds after midnight or noon, and which half where that is said; else it may be a ratio."""

    seconds: int
    half: str
    ratio: "Ratio | None" = field(compare=False, default=None)


@dataclass(frozen=True)
class Ratio:
    """`2:3`, of two or more terms."""

    terms: "tuple[sympy.Expr, ...]"


@dataclass(frozen=True)
class Group:
    """Things in brackets, or a list without: `(1, 2)`, `[1, 2)`, `\\{1, 2\\}`, or `1, 2`."""

    left: str
    right: str
    items: "tuple[Node, ...]"
    joined: str = ""  # by "or" or "and"


@dataclass(frozen=True)
class Operation:
    """A union, intersection or difference of sets."""

    sign: str
    sides: "tuple[Node, ...]"


@dataclass(frozen=True)
class Relation:
    """An equation, an inequality, or a chain of them."""

    sides: "tuple[Node, ...]"
    signs: tuple[str, ...]


Node = Value | Words | Choice | Named | Numeral | Clock | Ratio | Group | Operation | Relation


def readings(text: str) -> list[Node]:
    """Returns every way to read a plain text; none where it is empty."""
    if not text.strip():
        return []
    text = measured(text)
    written = [marked(without_commas(text)), marked(text)]
    letter = LETTER.fullmatch(text)  # it may be a unit, or a factor
    if letter:
        written.append(f"{letter[1]}\\text{{{letter[3]}}}")
    found: list[Node] = []
    for way in dict.fromkeys(written):
        with contextlib.suppress(Unreadable):
            read: Node = _list(terms.tokens(way))
            if letter and way is written[-1] and isinstance(read, Value) and (not letter[2] or "^" in letter[3]):
                read = replace(read, kept=True)  # 5m and 5 s^2 are units only beside such, and else products
            found.append(read)
    found += _choice(text)
    bare = PHRASE.fullmatch(text) is not None
    if bare or any(isinstance(node, Value) and node.term.is_Symbol for node in found):
        found.append(Words(words.spoken(terms.TEXT.sub(lambda match: match[1], text)), letters=bare and bool(found)))
    return list(dict.fromkeys(found)) or [_literal(text)]


def _choice(text: str) -> list[Node]:
    """The choice whose letter a text begins with, if it does."""
    letter, said = words.choice(terms.TEXT.sub(lambda match: match[1], text).strip())
    return [Choice(letter, _literal(said) if said else None)] if letter else []


def _literal(text: str) -> Words:
    """A text that is compared letter by letter, whether it stands in `\\text{}` or not."""
    bare = re.sub(r"\s+", "", terms.TEXT.sub(lambda match: match[1], text))
    return Words(re.sub(r"\{([\w+*-])\}", r"\1", bare).casefold())


def _split(parts: Sequence[str], is_cut: Callable[[str], bool]) -> tuple[list[list[str]], list[str]]:
    """Cuts tokens outside of brackets; returns the pieces, and what stood between them."""
    pieces: list[list[str]] = [[]]
    cuts: list[str] = []
    depth = 0
    for part in parts:
        depth += (part in OPEN or part.startswith(r"\begin")) - (part in CLOSE or part.startswith(r"\end"))
        if depth == 0 and is_cut(part):
            pieces.append([])
            cuts.append(part)
        else:
            pieces[-1].append(part)
    return pieces, cuts


def _stripped(parts: Sequence[str]) -> list[str]:
    parts = list(parts)
    while parts and parts[0].isspace():
        parts.pop(0)
    while parts and parts[-1].isspace():
        parts.pop()
    return parts


def _text(part: str) -> str | None:
    r"""The words of a `\text{...}` token, or None; `\mathrm{e}` and `\operatorname{lcm}` are no words."""
    match = terms.TEXT.fullmatch(part)
    inner = match[1] if match else ""
    name = inner.strip()
    spelled = part.startswith(r"\text") or name in UPRIGHT or (len(name) > 1 and name not in terms.FUNCTIONS)
    return inner if match and spelled else None


def _list(parts: Sequence[str]) -> Node:
    """Reads things between commas, semicolons, `and` and `or`; one alone is itself."""
    parts = list(_spread(parts))
    if parts and (parts[-1] in (",", ";")):
        parts.pop()
    pieces, cuts = _split(parts, lambda part: part in (",", ";") or words.spoken(_text(part) or "") in JOINING)
    items: list[Node] = []
    for piece in pieces:
        if not _stripped(piece) and len(pieces) > 1 and piece is not pieces[0]:
            continue  # between a comma and an `and`
        for signed in _signs(_stripped(piece)):
            read = _item(signed)
            items += read.items if isinstance(read, Group) and not read.left and len(read.items) > 1 else [read]
    if len(items) == 1:
        return items[0]
    joined = {words.spoken(_text(cut) or "") for cut in cuts} - {""}
    return Group("", "", tuple(items), joined.pop() if len(joined) == 1 else "")


def _spread(parts: Sequence[str]) -> Iterator[str]:
    r"""Takes `\text{}` apart: at commas, `and` and `or`, and where it holds numbers, as in `\text{6 cm and 8 cm}`."""
    for part in parts:
        text = _text(part)
        if text is None:
            yield part
            continue
        for piece in re.split(r"([,;]|\b(?:and|or)\b)", text, flags=re.IGNORECASE):
            if piece in (",", ";") or not piece.strip() or re.fullmatch(r"\s*[-+=:]\s*", piece):
                yield piece.strip() or " "
            elif re.search(r"(?<!\^)(?<!\^\{)[0-9]", piece) and "base" not in piece:
                yield from terms.tokens(marked(piece))
            else:
                yield f"\\text{{{piece}}}"


def _signs(parts: list[str]) -> list[list[str]]:
    r"""Both cases of what has a `\pm`, the upper signs first; a set has both of them as elements."""
    if (r"\pm" not in parts and r"\mp" not in parts) or (parts[0], parts[-1]) == (r"\{", r"\}"):
        return [parts]
    return [
        [{r"\pm": upper, r"\mp": lower}.get(part, part) for part in parts] for upper, lower in (("+", "-"), ("-", "+"))
    ]


def _item(parts: Sequence[str]) -> Node:
    """Reads one thing."""
    parts = _stripped(parts)
    text = "".join(parts).replace(" ", "")
    if not parts:
        raise Unreadable("nothing stands there")
    sides, cuts = _split(parts, lambda part: part == r"\cup")
    if cuts and all(INEQUALITIES.intersection(side) for side in sides):  # x < 1 \cup x > 3
        return Group("", "", tuple(map(_item, sides)), "or")
    for signs, kind in ((RELATIONS, Relation), (OPERATIONS, Operation)):
        sides, cuts = _split(parts, signs.__contains__)
        if cuts and kind is Relation:
            return Relation((_name(sides[0], cuts[0]), *map(_item, sides[1:])), tuple(cuts))
        if cuts:
            if len(set(cuts)) > 1:
                raise Unreadable("unions and intersections without brackets")
            return Operation(cuts[0], tuple(map(_item, sides)))
    sides, cuts = _split(parts, lambda part: part == r"\approx")
    if len(cuts) == 1:
        return _rounded(sides[0], sides[1])
    if (named := re.sub(r"(?<=\\mathbb)([A-Z])", r"{\1}", text)) in NAMED:
        return Named(NAMED[named])
    if (group := _group(parts)) is not None:
        return group
    if (match := BASE.fullmatch(text)) and (numeral := _numeral(*match.groups())):
        return numeral
    if (match := CLOCK.fullmatch(text)) and (clock := _clock(match)) is not None:
        return clock
    sides, cuts = _split(parts, lambda part: part == ":" or words.spoken(_text(part) or "") == "to")
    if cuts:
        return Ratio(tuple(terms.expression(side) for side in sides))
    return _quantity(parts)


def _rounded(parts: Sequence[str], decimal: Sequence[str]) -> Value:
    r"""The exact value of `2\sqrt{3} \approx 3.46`, where the decimal is what it rounds to."""
    exact, near = _quantity(_stripped(parts)), _quantity(_stripped(decimal))
    digits = re.fullmatch(r"-?[0-9]+(?:\.([0-9]*))?", "".join(decimal).replace(" ", ""))
    if not isinstance(exact, Value) or not isinstance(near, Value) or not digits or not exact.term.is_real:
        raise Unreadable("no value with a decimal")
    if exact.term.free_symbols or abs(exact.term - near.term) > sympy.Rational(1, 2 * 10 ** len(digits[1] or "")):
        raise Unreadable("another decimal")
    return exact


def _name(parts: Sequence[str], sign: str) -> Node:
    r"""The left side of an equation, which may be a name that is no expression, as \angle ABC."""
    try:
        return _item(parts)
    except Unreadable:
        if sign != "=":
            raise
        return _literal("".join(parts))


def _group(parts: list[str]) -> Node | None:
    """Reads what one pair of brackets encloses as a whole; None where that is not so, or is an expression."""
    left, right = parts[0], parts[-1]
    if left not in OPEN or right not in CLOSE:
        return None
    depth = 0
    for place, part in enumerate(parts):
        depth += (part in OPEN or part.startswith(r"\begin")) - (part in CLOSE or part.startswith(r"\end"))
        if depth == 0 and place < len(parts) - 1:
            return None
    inner = parts[1:-1]
    if left == r"\{":
        builder, bars = _split(inner, lambda part: part in ("|", ":"))
        if len(bars) == 1 and RELATIONS & set(builder[1]):
            return _list(builder[1])
    pieces, cuts = _split(inner, lambda part: part in (",", ";"))
    if (left, right) == ("{", "}") or ((left, right) == ("(", ")") and not cuts):
        return _list(inner)
    if left == r"\{" or (cuts and left in ("(", "[", r"\langle") and right in (")", "]", r"\rangle")):
        items: list[Node] = []
        for piece in pieces:
            items += map(_item, _signs(piece))
        if len(items) > 2 and (left, right) in HALF_OPEN:
            raise Unreadable("an interval has two ends")
        return Group(left, right, tuple(items))
    return None


def _numeral(digits: str, base: str) -> Numeral | None:
    number = int(base) if base.isdigit() else words.NUMBERS.get(base, 0)
    if not 2 <= number <= 36 or (not digits[0].isdigit() and number < 11):
        return None
    if any(int(digit, 36) >= number for digit in digits):
        raise Unreadable(f"{digits} has a digit that base {number} does not have")
    return Numeral(digits.lstrip("0").lower() or "0", number)


def _clock(match: re.Match[str]) -> Clock | None:
    hours, half = int(match[1]), (match[4] or "").lower()
    if hours > 23 or (half and not 1 <= hours <= 12) or not (match[2] or half):
        return None
    ratio = None if half else Ratio(tuple(map(sympy.Integer, (part for part in match.groups()[:3] if part))))
    seconds = (hours % 12) * 3600 + int(match[2] or 0) * 60 + int(match[3] or 0)
    return Clock(seconds, "p" if hours > 12 else half if hours else "a", ratio)


def _quantity(parts: list[str]) -> Node:
    """Reads an expression with its unit, words alone, or several quantities in a row as in 2 hours 30 minutes."""
    runs: list[tuple[list[str], str]] = [([], "")]  # what is a formula, and the words behind it
    for part in parts:
        text = _text(part)
        if text is not None:
            runs[-1] = (runs[-1][0], f"{runs[-1][1]} {text}".strip())
        elif runs[-1][1] and re.fullmatch(r"\s+|\^|\{|\}|[2-3]", part) and _raises(runs[-1][1], part):
            runs[-1] = (runs[-1][0], f"{runs[-1][1]}{part.strip()}")
        elif runs[-1][1] and not part.isspace():
            runs.append(([part], ""))
        else:
            runs[-1][0].append(part)
    if not _stripped(runs[0][0]):
        if len(runs) == 1:
            return _words(runs[0][1])
        raise Unreadable("words before a formula")
    values = tuple(_value(_stripped(formula), unit) for formula, unit in runs)
    return values[0] if len(values) == 1 else Group("", "", values)


def _raises(text: str, part: str) -> bool:
    """Whether a token goes on with the exponent of a unit."""
    return part.isspace() or part == "^" or text.endswith(("^", "^{")) or (part == "}" and "^{" in text[-3:])


def _words(text: str) -> Node:
    spoken = words.spoken(text)
    number, _, unit = spoken.partition(" ")
    if number in words.NUMBERS:
        return _value([str(words.NUMBERS[number])], unit)
    if spoken in INFINITY:
        return Value(sympy.oo)
    if re.fullmatch("[a-z]", spoken):
        return Value(sympy.Symbol(text.strip(" .()"), real=True))
    phrase = words.phrase(text)
    return Named(NAMED[phrase]) if phrase in NAMED else Words(phrase)


def _value(parts: list[str], text: str) -> Value:
    factor, rest = words.scaled(text)
    unit = words.unit(rest)
    before = [part for part in parts if not part.isspace()]
    for place in (0, 1, -1):  # $5, -$5 and 5$
        if len(before) > 1 and before[place] in CURRENCIES and (place != 1 or before[0] == "-"):
            currency = CURRENCIES[before.pop(place)]
            unit = unit if unit == currency else f"{currency} {unit}".strip()
            break
    if before and before[-1] == "%":
        before[-1] = r"\%"
    if before and before[-1] == r"\%":
        before.pop()
        unit = f"percent {unit}".strip()
    if DEGREE in before and not any(part.lstrip("\\") in terms.TRIGONOMETRIC for part in before):
        before = [part for part in before if part != DEGREE]
        unit = f"degree {unit}".strip()
    term = factor * terms.expression(before)
    few = bool(term.is_Rational and abs(term) <= 1)
    return Value(term, unit, kept=not words.droppable(rest, few) or bool(words.SCALED.search(text)))
