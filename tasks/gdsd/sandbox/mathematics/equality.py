"""Whether two things that were read are equal: exactly, or as far as the page docs/domains/math.md says."""

from collections.abc import Sequence
from itertools import product

import sympy

from tasks.gdsd.sandbox.mathematics import words
from tasks.gdsd.sandbox.mathematics.reading import (
    REALS,
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

DIGITS = 50  # to which irrational numbers are computed
SAME = sympy.Rational(1, 10**40)  # the relative distance of two of them that counts as none
ROUNDED = sympy.Rational(1, 10**12)  # the same where one is written as a decimal
POINTS = 8  # at which expressions with letters are compared
UNBOUNDED = (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan)
FLIPPED = {"<": ">", r"\le": r"\ge", ">": "<", r"\ge": r"\le"}


def equal(reference: str, answer: str) -> bool | None:
    """Whether two plain texts say the same; None where the reference says nothing."""
    wanted = readings(reference)
    if not wanted:
        return None
    rounded = "." in reference or "." in answer
    return any(_Comparison(rounded).same(*pair) for pair in product(wanted, readings(answer)))


class _Comparison:
    def __init__(self, rounded: bool) -> None:
        self.rounded = rounded  # a decimal stands in one of the texts

    def same(self, one: Node, other: Node) -> bool:
        """Whether two things are equal; the reference is `one`."""
        if isinstance(one, Relation) or isinstance(other, Relation):
            return self.relations(one, other)
        match one, other:
            case Value(), Value():
                return self.values(one, other)
            case Words(), Words():
                return one.text == other.text and not (one.letters and other.letters)
            case Numeral(), Numeral():
                return one == other
            case (Numeral(), Value()) | (Value(), Numeral()):
                numeral, value = (one, other) if isinstance(one, Numeral) else (other, one)
                return value.unit == "" and str(value.term) == numeral.digits
            case (Numeral(), Words()) | (Words(), Numeral()):
                numeral, spelled = (one, other) if isinstance(one, Numeral) else (other, one)
                return spelled.text == numeral.digits
            case Clock(), Clock():
                return one.seconds == other.seconds and (other.half == one.half or one.half == "")
            case Ratio(), Ratio():
                return len(one.terms) == len(other.terms) and all(
                    self.terms(one.terms[0] * right, other.terms[0] * left)
                    for left, right in zip(one.terms[1:], other.terms[1:], strict=True)
                )
            case (Ratio(), Value()) | (Value(), Ratio()):
                ratio, value = (one, other) if isinstance(one, Ratio) else (other, one)
                return len(ratio.terms) == 2 and self.terms(ratio.terms[0], value.term * ratio.terms[1])
            case Group(), Group() if self.groups(one, other):
                return True
        if isinstance(one, Named | Operation) or isinstance(other, Named | Operation):
            return self.sets(_set(one), _set(other))
        return self.single(one, other)

    def single(self, one: Node, other: Node) -> bool:
        """A set of one thing is that thing, and a tuple may stand for a matrix of one row or column."""
        for group, thing in ((one, other), (other, one)):
            if isinstance(group, Group) and not isinstance(thing, Group):
                if len(group.items) == 1:
                    return self.same(group.items[0], thing)
                if isinstance(thing, Value) and isinstance(thing.term, sympy.MatrixBase) and group.left in "([":
                    entries = tuple(Value(entry) for entry in thing.term.flat())
                    return 1 in thing.term.shape and self.groups(group, Group("(", ")", entries))
        return False

    def groups(self, one: Group, other: Group) -> bool:
        """Whether two lists, sets, tuples or intervals are equal; a list may be a set, or a tuple in its order."""
        if _mixed(one) != _mixed(other):
            return False  # 12 ft 6 in is not 12, 6
        lefts = {one.left, other.left}
        if lefts <= {"", r"\{"}:
            return self.unordered(one.items, other.items, sets=r"\{" in lefts)
        if r"\{" in lefts or len(one.items) != len(other.items):
            return False
        if "" not in lefts and len(one.items) == 2 and _brackets(one) != _brackets(other):
            return False  # of two things in brackets these say whether an end belongs to an interval
        return all(self.same(*pair) for pair in zip(one.items, other.items, strict=True))

    def unordered(self, ones: Sequence[Node], others: Sequence[Node], sets: bool) -> bool:
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

    def values(self, one: Value, other: Value) -> bool:
        if one.unit != other.unit:
            if one.unit and other.unit:
                return False
            if "percent" in (one.unit, other.unit):
                hundredth = {"percent": sympy.Rational(1, 100)}
                return self.terms(one.term, other.term) or self.terms(
                    one.term * hundredth.get(one.unit, 1), other.term * hundredth.get(other.unit, 1)
                )
            if words.telling(one.unit or other.unit):
                return False
        return self.terms(one.term, other.term)

    def terms(self, one: sympy.Expr, other: sympy.Expr) -> bool:
        """Whether two expressions are equal."""
        if isinstance(one, sympy.MatrixBase) or isinstance(other, sympy.MatrixBase):
            return (
                isinstance(one, sympy.MatrixBase)
                and isinstance(other, sympy.MatrixBase)
                and one.shape == other.shape
                and all(self.terms(left, right) for left, right in zip(one.flat(), other.flat(), strict=True))
            )
        if one == other:
            return True
        exact = not self.rounded or (_terminates(one) and _terminates(other))
        if one.is_Rational and other.is_Rational and exact:
            return False
        if one.has(*UNBOUNDED) or other.has(*UNBOUNDED):
            return False
        symbols = sorted(one.free_symbols | other.free_symbols, key=str)
        if not symbols:
            return self.near(one, other)
        if sympy.expand(one - other) == 0:
            return True
        found = [self.near(*(term.subs(point) for term in (one, other))) for point in _points(symbols)]
        return all(found)

    def near(self, one: sympy.Expr, other: sympy.Expr) -> bool:
        one, other = sympy.N(one, DIGITS), sympy.N(other, DIGITS)
        scale = max(abs(one), abs(other))
        return bool(abs(one - other) <= scale * (ROUNDED if self.rounded else SAME))

    def sets(self, one: sympy.Set | None, other: sympy.Set | None) -> bool:
        """Whether two sets of numbers, as SymPy has simplified them, have the same parts."""
        if one is None or other is None or one.func != other.func or len(one.args) != len(other.args):
            return False
        if one == other:
            return True
        match one:
            case sympy.Interval():
                ends = (one.left_open, one.right_open) == (other.left_open, other.right_open)
                return ends and self.terms(one.start, other.start) and self.terms(one.end, other.end)
            case sympy.FiniteSet():
                return all(any(self.terms(left, right) for right in other.args) for left in one.args)
            case sympy.Complement():
                return all(self.sets(*pair) for pair in zip(one.args, other.args, strict=True))
        return all(any(self.sets(left, right) for right in other.args) for left in one.args)

    def relations(self, one: Node, other: Node) -> bool:
        if isinstance(one, Relation) and isinstance(other, Relation):
            if set(one.signs) == set(other.signs) == {"="}:
                return self.equations(one, other)
            if self.chains(one, other):
                return True
            letters = [_letters(relation) for relation in (one, other)]
            return letters[0] == letters[1] and self.sets(_set(one), _set(other))
        relation, thing = (one, other) if isinstance(one, Relation) else (other, one)
        assert isinstance(relation, Relation)
        if relation.signs[0] in ("=", r"\in") and set(relation.signs[1:]) <= {"="}:
            if relation is one and not _named(one.sides[0]):
                return False  # x + y = 4 is no other way to write 4
            value = self.stated(relation)
            return value is not None and (self.same(value, thing) if relation is one else self.same(thing, value))
        return self.sets(_set(relation), _set(thing))

    def stated(self, relation: Relation) -> Node | None:
        """What an equation says of a name: the 5 of x = 5, of x = 2 + 3 = 5, and not of 41 = 42."""
        values = relation.sides[1:] if _has_letters(relation.sides[0]) else relation.sides
        return values[-1] if all(self.same(value, values[-1]) for value in values[:-1]) else None

    def equations(self, one: Relation, other: Relation) -> bool:
        values = self.stated(one), self.stated(other)
        names = one.sides[0], other.sides[0]
        if None in values:
            return False
        if any(isinstance(name, Words) for name in names) or self.same(*names):
            return self.same(*values)
        return _multiple(_difference(one), _difference(other), positive=False)

    def chains(self, one: Relation, other: Relation) -> bool:
        """Whether the links of two chains are the same inequalities, in either direction."""
        flipped = Relation(other.sides[::-1], tuple(FLIPPED.get(sign, sign) for sign in other.signs[::-1]))
        return any(
            one.signs == way.signs
            and (
                all(self.same(*pair) for pair in zip(one.sides, way.sides, strict=True))
                or (len(one.signs) == 1 and _multiple(_difference(one), _difference(way), positive=True))
            )
            for way in (other, flipped)
        )


def _terminates(number: sympy.Expr) -> bool:
    """Whether a number is a decimal that ends."""
    return number.is_Rational and pow(10, number.q.bit_length(), number.q) == 0


def _points(symbols: Sequence[sympy.Symbol]) -> list[dict[sympy.Symbol, sympy.Rational]]:
    """Points with positive and negative coordinates, which no identity that is none has a reason to meet."""
    return [
        {
            symbol: sympy.Rational((-1) ** (index >> place % 3) * (211 + 97 * place + 31 * index), 101 + 13 * index)
            for place, symbol in enumerate(symbols)
        }
        for index in range(POINTS)
    ]


def _letters(node: Node) -> set[str]:
    match node:
        case Value():
            return {str(symbol) for symbol in node.term.free_symbols}
        case Relation():
            return set().union(*map(_letters, node.sides))
        case Group():
            return set().union(*map(_letters, node.items))
    return set()


def _mixed(group: Group) -> bool:
    """Whether a group has things in several units."""
    return len({item.unit for item in group.items if isinstance(item, Value)} - {""}) > 1


def _brackets(group: Group) -> tuple[str, str]:
    return group.left.replace(r"\langle", "("), group.right.replace(r"\rangle", ")")


def _difference(relation: Relation) -> sympy.Expr | None:
    left, right = relation.sides[0], relation.sides[-1]
    return left.term - right.term if isinstance(left, Value) and isinstance(right, Value) else None


def _multiple(one: sympy.Expr | None, other: sympy.Expr | None, positive: bool) -> bool:
    """Whether an expression is another one times a number that is not zero."""
    if one is None or other is None or other == 0:
        return False
    quotient = sympy.cancel(one / other)
    return bool(quotient.is_number and (quotient > 0 if positive else quotient != 0))


def _has_letters(node: Node) -> bool:
    return isinstance(node, Words) or bool(_letters(node))


def _named(node: Node) -> bool:
    """Whether the left side of an equation is a name, as x, f(x), AB and (x, y), and nothing that is computed."""
    match node:
        case Group():
            return all(map(_named, node.items))
        case Value():
            term = node.term.args[0] if isinstance(node.term, sympy.Abs) else node.term
            return all(factor.as_base_exp()[0].is_Symbol for factor in sympy.Mul.make_args(term))
    return isinstance(node, Words)


def _set(node: Node) -> sympy.Set | None:
    """The set of numbers that a thing is, or None."""
    match node:
        case Named():
            return node.which
        case Value():
            return sympy.FiniteSet(node.term) if node.term.is_number else None
        case Group(left=r"\{") | Group(left=""):
            sets = [_set(item) for item in node.items]
            if None in sets:
                return None
            relations = [item for item in node.items if isinstance(item, Relation)]
            all_hold = node.joined == "and" or any(r"\ne" in relation.signs for relation in relations)
            return sympy.Intersection(*sets) if relations and all_hold else sympy.Union(*sets)
        case Group(items=(Value(term=start), Value(term=end))):
            if start.is_extended_real and end.is_extended_real and (end - start).is_extended_positive is not False:
                return sympy.Interval(start, end, node.left != "[", node.right != "]")
        case Operation():
            sets = [_set(side) for side in node.sides]
            if None in sets:
                return None
            kind = {r"\cup": sympy.Union, r"\cap": sympy.Intersection}.get(node.sign)
            return kind(*sets) if kind else sympy.Complement(sets[0], sympy.Union(*sets[1:]))
        case Relation():
            return _solution(node)
    return None


def _solution(relation: Relation) -> sympy.Set | None:
    """The numbers for which a chain of relations in one letter is true."""
    names = _letters(relation)
    if len(names) != 1:
        return None
    letter = sympy.Symbol(names.pop(), real=True)
    kinds = {"=": sympy.Eq, "<": sympy.Lt, ">": sympy.Gt, r"\le": sympy.Le, r"\ge": sympy.Ge, r"\ne": sympy.Ne}
    links = []
    for left, right, sign in zip(relation.sides, relation.sides[1:], relation.signs, strict=False):
        if sign == r"\in":
            found = _set(right)
            if found is None or not isinstance(left, Value) or left.term != letter:
                return None
            links.append(found)
        elif isinstance(left, Value) and isinstance(right, Value):
            link = kinds[sign](left.term, right.term)
            links.append(REALS if link == True else sympy.S.EmptySet if link == False else link.as_set())  # noqa: E712
        else:
            return None
    return sympy.Intersection(*links)
