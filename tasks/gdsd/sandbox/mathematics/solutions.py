"""The sets of numbers that inequalities, intervals and unions stand for."""

import sympy

from tasks.gdsd.sandbox.mathematics.reading import REALS, Group, Named, Node, Operation, Relation, Value

LINKS = {"=": sympy.Eq, "<": sympy.Lt, ">": sympy.Gt, r"\le": sympy.Le, r"\ge": sympy.Ge, r"\ne": sympy.Ne}


def letters(node: Node) -> set[str]:
    """Returns the names of the letters that something has."""
    match node:
        case Value():
            return {str(symbol) for symbol in node.term.free_symbols}
        case Relation():
            return set().union(*map(letters, node.sides))
        case Group():
            return set().union(*map(letters, node.items))
    return set()


def numbers(node: Node) -> sympy.Set | None:
    """Returns the set of numbers that something stands for, or None."""
    match node:
        case Named():
            return node.which
        case Value():
            return sympy.FiniteSet(node.term) if node.term.is_number else None
        case Group(left="" | r"\{"):
            return _listed(node)
        case Group(items=(Value(term=start), Value(term=end))):
            # What would be empty is no interval: (5, 1) is a point. Infinity belongs to none.
            if (start.is_infinite and node.left == "[") or (end.is_infinite and node.right == "]"):
                return None
            if start.is_extended_real and end.is_extended_real and (end - start).is_extended_positive is not False:
                return sympy.Interval(start, end, node.left != "[", node.right != "]")
        case Operation():
            sets = [numbers(side) for side in node.sides]
            if None not in sets:
                kinds = {r"\cup": sympy.Union, r"\cap": sympy.Intersection}
                kind = kinds.get(node.sign)
                return kind(*sets) if kind else sympy.Complement(sets[0], sympy.Union(*sets[1:]))
        case Relation():
            return _solved(node)
    return None


def _listed(group: Group) -> sympy.Set | None:
    r"""A set of numbers, or what relations of one letter say together.

    `x < 1 or x > 3` is a union, and so is `(1,2) or (3,4)`. `x > 1 and x < 3` is an intersection, and so is
    `x > 0, x \ne 1`.
    """
    relations = [item for item in group.items if isinstance(item, Relation)]
    intervals = group.joined == "or" and all(
        isinstance(item, Group) and item.left in ("(", "[") for item in group.items
    )
    if not group.left and not intervals and (len(relations) < len(group.items) or len(letters(group)) != 1):
        return None
    sets = [numbers(item) for item in group.items]
    if None in sets:
        return None
    both = group.joined == "and" or any(r"\ne" in relation.signs for relation in relations)
    return sympy.Intersection(*sets) if both else sympy.Union(*sets)


def _solved(relation: Relation) -> sympy.Set | None:
    """The numbers for which a chain of relations in one letter is true."""
    names = letters(relation)
    if len(names) != 1:
        return None
    letter = sympy.Symbol(names.pop(), real=True)
    found: list[sympy.Set] = []
    for left, right, sign in zip(relation.sides, relation.sides[1:], relation.signs, strict=False):
        if not isinstance(left, Value):
            return None
        if sign == r"\in":
            inside = numbers(right) if left.term == letter else None
            if inside is None:
                return None
            found.append(inside)
        elif isinstance(right, Value):
            link = LINKS[sign](left.term, right.term)
            always = {sympy.true: REALS, sympy.false: sympy.S.EmptySet}
            found.append(always[link] if link in always else link.as_set())
        else:
            return None
    return sympy.Intersection(*found)
