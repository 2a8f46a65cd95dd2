"""Whether two texts say the same: exactly, or as nearly as docs/domains/math.md says."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import sympy

from tasks.gdsd.sandbox.mathematics.reading import (
    Choice,
    Clock,
    Group,
    Named,
    Node,
    Numeral,
    Operation,
    Ratio,
    Relation,
    Value,
    Words,
    readings,
)
from tasks.gdsd.sandbox.mathematics.solutions import letters, numbers

DIGITS = 50  # to which irrational numbers are computed
SAME = sympy.Rational(1, 10**40)  # the distance of two of them that counts as none, as a share of the larger one
ROUNDED = sympy.Rational(1, 10**12)  # the same where one of the two is written as a decimal
POINTS = 8  # at which expressions with letters are compared
UNBOUNDED = (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan)
FLIPPED = {"<": ">", r"\le": r"\ge", ">": "<", r"\ge": r"\le"}

known = lru_cache(maxsize=64)(readings)  # the answers of a group have one reference


def equal(reference: str, answer: str) -> bool | None:
    """Whether two plain texts say the same; None where the reference says nothing."""
    wanted = known(reference)
    if not wanted:
        return None
    comparison = Comparison(rounded="." in reference or "." in answer)
    return any(comparison.same(one, other) for one, other in product(wanted, readings(answer)))


class Comparison:
    """Compares what was read of a reference with what was read of an answer."""

    def __init__(self, rounded: bool) -> None:
        self.rounded = rounded  # a decimal stands in one of the texts

    def same(self, one: Node, other: Node) -> bool:
        """Whether two things are equal; `one` is the reference's."""
        match one, other:
            case Relation(), Relation():
                return self.relations(one, other)
            case Relation(), _:
                # x = 5 is another way to write 5, but x + y = 4 is none to write 4.
                stated = self.stated(one) if _named(one.sides[0]) else None
                return self.sets(one, other) if stated is None else self.same(stated, other)
            case _, Relation():
                stated = self.stated(other)
                return self.sets(one, other) if stated is None else self.same(one, stated)
            case Value(), Value():
                return self.values(one, other)
            case Choice(), Choice():
                return one.letter == other.letter and one.said == other.said
            case Choice(), Words():
                return other.text == one.letter
            case Words(), Choice():
                return self.same(other, one)
            case Words(), Words():
                return one.text == other.text and not (one.letters and other.letters)
            case Numeral(), Value():
                return not other.unit and str(other.term) == one.digits
            case Numeral(), Words():
                return other.text == one.digits
            case Clock(), Clock():
                return one.seconds == other.seconds and one.half in ("", other.half)
            case Ratio(), Ratio():
                return len(one.terms) == len(other.terms) and all(
                    self.terms(one.terms[0] * right, other.terms[0] * left)
                    for left, right in zip(one.terms, other.terms, strict=True)
                )
            case Ratio(), Value():
                return len(one.terms) == 2 and self.terms(one.terms[0], other.term * one.terms[1])
            case Clock(ratio=Ratio() as ratio), Value() | Ratio():
                return self.same(ratio, other)
            case (Value() | Words(), Numeral()) | (Value(), Ratio() | Clock()) | (Ratio(), Clock()):
                return self.same(other, one)
            case (Named() | Operation(), _) | (_, Named() | Operation()):
                return self.operations(one, other) or self.sets(one, other)
            case Group(), Group():
                return self.groups(one, other)
            case Group(), _:
                return self.single(one, other)
            case _, Group():
                return self.single(other, one)
        return one == other

    def values(self, one: Value, other: Value) -> bool:
        """Whether two values are equal; one may leave the unit out, and a percent is a unit or a hundredth."""
        if one.unit == other.unit:
            return self.terms(one.term, other.term)
        if one.kept or other.kept or (one.unit and other.unit):
            return False
        if self.terms(one.term, other.term):
            return True
        share, plain = (one, other) if one.unit else (other, one)
        return share.unit == "percent" and self.terms(share.term / 100, plain.term)

    def terms(self, one: sympy.Expr, other: sympy.Expr) -> bool:
        """Whether two expressions are equal."""
        if isinstance(one, sympy.MatrixBase) or isinstance(other, sympy.MatrixBase):
            return getattr(one, "shape", None) == getattr(other, "shape", None) and all(
                self.terms(left, right) for left, right in zip(one.flat(), other.flat(), strict=True)
            )
        if one == other:
            return True
        exact = not self.rounded or (_terminates(one) and _terminates(other))
        if (one.is_Rational and other.is_Rational and exact) or one.has(*UNBOUNDED) or other.has(*UNBOUNDED):
            return False
        symbols = sorted(one.free_symbols | other.free_symbols, key=str)
        if not symbols:
            return self.near(one, other)
        if sympy.expand(one - other) == 0:
            return True
        return all(self.near(one.subs(point), other.subs(point)) for point in _points(symbols))

    def near(self, one: sympy.Expr, other: sympy.Expr) -> bool:
        """Whether two numbers are so close that they count as equal."""
        one, other = sympy.N(one, DIGITS), sympy.N(other, DIGITS)
        return bool(abs(one - other) <= max(abs(one), abs(other)) * (ROUNDED if self.rounded else SAME))

    def groups(self, one: Group, other: Group) -> bool:
        """Whether two lists, sets, tuples or intervals are equal; a list may be a set, or a tuple in its order."""
        if _mixed(one) != _mixed(other):
            return False  # 12 ft 6 in is not 12, 6
        if _coordinates(one) is None or _coordinates(other) is None:
            one, other = _coordinates(one) or one, _coordinates(other) or other
        lefts = {one.left, other.left}
        if lefts <= {"", r"\{"}:
            opposite = {one.joined, other.joined} == {"and", "or"} and any(map(_unequal, one.items))
            if not opposite and self.unordered(one.items, other.items, sets=r"\{" in lefts):
                return True
            return self.sets(one, other)
        if r"\{" in lefts or len(one.items) != len(other.items) or any(map(_unequal, one.items + other.items)):
            return self.sets(one, other)
        if "" not in lefts and len(one.items) == 2 and _brackets(one) != _brackets(other):
            return False  # of two things in brackets these say whether an end belongs to an interval
        return all(self.same(left, right) for left, right in zip(one.items, other.items, strict=True))

    def unordered(self, ones: Sequence[Node], others: Sequence[Node], sets: bool) -> bool:
        """Whether things are equal in any order; in sets a thing counts once."""
        if sets:
            return all(any(self.same(one, other) for other in others) for one in ones) and all(
                any(self.same(one, other) for one in ones) for other in others
            )
        left = list(others)
        for one in ones:
            found = next((index for index, other in enumerate(left) if self.same(one, other)), None)
            if found is None:
                return False
            left.pop(found)
        return not left

    def single(self, group: Group, thing: Node) -> bool:
        r"""A set of one thing is that thing, as is `\frac25 or 0.4`; a tuple may be a matrix of one row or column."""
        first = group.items[0]
        if len(group.items) == 1 or (group.joined == "or" and all(self.same(first, item) for item in group.items)):
            return all(self.same(item, thing) for item in group.items)
        if not isinstance(thing, Value) or not isinstance(thing.term, sympy.MatrixBase):
            return False
        entries = tuple(Value(entry) for entry in thing.term.flat())
        ordered = group.left in ("(", "[", r"\langle")
        return ordered and 1 in thing.term.shape and self.groups(group, Group("(", ")", entries))

    def operations(self, one: Node, other: Node) -> bool:
        r"""Whether two operations have the same sides, as those may that are no sets of numbers: A \cup B."""
        if not isinstance(one, Operation) or not isinstance(other, Operation) or one.sign != other.sign:
            return False
        if one.sign != r"\setminus":
            return self.unordered(one.sides, other.sides, sets=True)
        return len(one.sides) == len(other.sides) and all(map(self.same, one.sides, other.sides))

    def sets(self, one: Node, other: Node) -> bool:
        """Whether two things stand for the same set of numbers."""
        left, right = numbers(one), numbers(other)
        return left is not None and right is not None and self.parts(left, right)

    def parts(self, one: sympy.Set, other: sympy.Set) -> bool:
        """Whether two sets, which SymPy has brought into a normal form, have equal parts."""
        if one == other:
            return True
        if one.func != other.func or len(one.args) != len(other.args):
            return False
        match one:
            case sympy.Interval():
                ends = (one.left_open, one.right_open) == (other.left_open, other.right_open)
                return ends and self.terms(one.start, other.start) and self.terms(one.end, other.end)
            case sympy.FiniteSet():
                return all(any(self.terms(left, right) for right in other.args) for left in one.args)
            case sympy.Union() | sympy.Intersection():
                return all(any(self.parts(left, right) for right in other.args) for left in one.args)
        return False

    def stated(self, relation: Relation) -> Node | None:
        """What an equation says of a name: the 5 of x = 5 and of x = 2 + 3 = 5; nothing where 41 = 42 stands."""
        if relation.signs[0] not in ("=", r"\in") or not set(relation.signs[1:]) <= {"="}:
            return None
        first = relation.sides[0]
        values = relation.sides[1:] if isinstance(first, Words) or letters(first) else relation.sides
        return values[-1] if all(self.same(value, values[-1]) for value in values[:-1]) else None

    def relations(self, one: Relation, other: Relation) -> bool:
        """Whether two equations or inequalities say the same."""
        stated = self.stated(one), self.stated(other)
        if stated[0] is not None and stated[1] is not None:
            names = one.sides[0], other.sides[0]
            if self.same(*names) or (all(map(_named, names)) and any(isinstance(name, Words) for name in names)):
                return self.same(stated[0], stated[1])
        flipped = Relation(other.sides[::-1], tuple(FLIPPED.get(sign, sign) for sign in other.signs[::-1]))
        if any(one.signs == way.signs and self.links(one, way) for way in (other, flipped)):
            return True
        return letters(one) == letters(other) and self.sets(one, other)

    def links(self, one: Relation, other: Relation) -> bool:
        """Whether two chains with the same signs have the same sides, or are multiples of one another."""
        if all(self.same(left, right) for left, right in zip(one.sides, other.sides, strict=True)):
            return True
        left, right = _difference(one), _difference(other)
        if left is None or right is None or right == 0:
            return False
        quotient = sympy.cancel(left / right)
        return bool(quotient.is_number and (quotient != 0 if one.signs in (("=",), (r"\ne",)) else quotient > 0))


def _terminates(number: sympy.Expr) -> bool:
    """Whether a number is a decimal that ends."""
    return number.is_Rational and pow(10, number.q.bit_length(), number.q) == 0


def _points(symbols: Sequence[sympy.Symbol]) -> list[dict[sympy.Symbol, sympy.Rational]]:
    """Points with positive and negative coordinates, where expressions that differ have no reason to agree."""
    return [
        {
            symbol: sympy.Rational((-1) ** (index >> place % 3) * (211 + 97 * place + 31 * index), 101 + 13 * index)
            for place, symbol in enumerate(symbols)
        }
        for index in range(POINTS)
    ]


def _mixed(group: Group) -> bool:
    """Whether a group has things in several units."""
    return len({item.unit for item in group.items if isinstance(item, Value)} - {""}) > 1


def _unequal(node: Node) -> bool:
    """Whether something is an inequality."""
    return isinstance(node, Relation) and "=" not in node.signs


def _coordinates(group: Group) -> Group | None:
    """The tuple (x, y, z) that equations of these letters say, in any order; None of other groups."""
    said: dict[str, Node] = {}
    for item in group.items:
        match item:
            case Relation(sides=(Value(term=letter), value), signs=("=",)) if str(letter) in ("x", "y", "z"):
                said[str(letter)] = value
    if len(said) < max(2, len(group.items)):
        return None
    return Group("(", ")", tuple(said[letter] for letter in sorted(said)))


def _brackets(group: Group) -> tuple[str, str]:
    return group.left.replace(r"\langle", "("), group.right.replace(r"\rangle", ")")


def _named(node: Node) -> bool:
    """Whether the left side of an equation is a name, as x, f(x), AB, |AB| and (x, y), and nothing to be computed."""
    match node:
        case Group():
            return all(map(_named, node.items))
        case Value():
            term = node.term.args[0] if isinstance(node.term, sympy.Abs) else node.term
            return all(factor.as_base_exp()[0].is_Symbol for factor in sympy.Mul.make_args(term))
    return isinstance(node, Words)


def _difference(relation: Relation) -> sympy.Expr | None:
    """The left side without the right one, of a relation of two values."""
    match relation.sides:
        case (Value(term=left), Value(term=right)):
            return left - right
    return None
