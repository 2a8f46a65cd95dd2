"""The values that cross between the answer's process and the tests', neither of which trusts the other."""

import array
import builtins
import contextlib
import datetime
import itertools
import json
import math
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.gdsd.sandbox.guest import answer, wire

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.builds(range, st.integers(-99, 99), st.integers(-99, 99), st.integers(1, 9))
)
STANDARD = (
    st.dates()
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | st.times()
    | st.timedeltas()
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.sampled_from([int, str, list, object, ValueError, datetime.date, Decimal, array.array])
    | st.builds(lambda hours: datetime.timezone(datetime.timedelta(hours=hours), "X"), st.integers(-9, 9))
)
SCALARS |= STANDARD
HASHABLE = SCALARS | st.tuples(SCALARS, SCALARS) | st.frozensets(SCALARS, max_size=3)
VALUES = st.recursive(
    HASHABLE | st.sets(HASHABLE, max_size=3) | st.binary().map(bytearray) | st.just(array.array("d", [1.5])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.dictionaries(HASHABLE, inner, max_size=3).map(OrderedDict)
        | st.dictionaries(HASHABLE, inner, max_size=3).map(lambda one: defaultdict(list, one))
        | st.builds(deque, st.lists(inner, max_size=3), st.none() | st.integers(3, 5))
        | st.dictionaries(HASHABLE, st.integers(), max_size=3).map(Counter)
    ),
    max_leaves=12,
)


def shape(value: object) -> object:
    """The types of a value and of what it holds."""
    if isinstance(value, dict):
        return type(value), [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, list | tuple | deque):
        return type(value), [shape(item) for item in value]
    return type(value)


@given(VALUES)
@settings(deadline=None)
def test_values_cross_unchanged(value: object) -> None:
    """If it fails, a right answer is compared with something else."""
    crossed = wire.decode(wire.encode(value))
    assert crossed == value
    assert shape(crossed) == shape(value)


class Day(datetime.date):
    """A subclass, as an answer would make it to be equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = datetime.date.__hash__


def test_only_exact_types_arrive() -> None:
    """If it fails, an object with its own idea of equality reaches the tests."""
    for value, exact in (
        (Day(2024, 1, 1), datetime.date(2024, 1, 1)),
        (defaultdict(lambda: 1, {2: 3}), defaultdict(None, {2: 3})),
        (Decimal("1E+999999999"), Decimal("1E+999999999")),
    ):
        crossed = wire.decode(wire.encode(value))
        assert type(crossed) is type(exact) and crossed == exact and repr(crossed) == repr(exact)
    for value in (object(), Day, print, lambda: 1, ..., memoryview(b""), type(...), datetime.datetime.now):
        with pytest.raises(wire.WireError, match="no type that crosses"):
            wire.encode(value)


def test_views_and_iterators_cross_as_what_they_give() -> None:
    """If it fails, dict.keys() is equal to what Python says it is not, or an iterator to a list."""
    views = {1: [2], 3: [4]}
    keys, items, values = wire.decode(wire.encode([views.keys(), views.items(), views.values()]))  # type: ignore[misc]
    assert keys == {1, 3} != [1, 3] and sorted(items) == [(1, [2]), (3, [4])] and list(values) == [[2], [4]]
    assert type(keys) is type(views.keys()) and type(values) is type(views.values())
    one = wire.decode(wire.encode(map(abs, [1, -2])))
    assert one != [1, 2] and list(one) == [1, 2]  # type: ignore[call-overload]
    with pytest.raises(wire.WireError, match="more than"):
        wire.encode(itertools.count())
    held: list[object] = []
    line = wire.encode(itertools.count(), lambda iterator: held.append(iterator) or 7)  # type: ignore[func-returns-value]
    assert len(held) == 1 and list(wire.decode(line, lambda number: iter([number]))) == [7]  # type: ignore[call-overload]
    with pytest.raises(wire.WireError):
        wire.decode(line)


def test_numbers_at_the_edges_cross() -> None:
    """If it fails, factorials, powers and infinities count as wrong."""
    numbers = [10**5000, -(10**5000), 1 << 62, -(1 << 62), math.inf, -math.inf]
    assert wire.decode(wire.encode(numbers)) == numbers
    nan, zero = wire.decode(wire.encode([math.nan, -0.0]))  # type: ignore[misc]
    assert math.isnan(nan) and math.copysign(1, zero) == -1


class Own(KeyError):
    """An exception that only the answer's side knows."""


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (Own("x"), KeyError),
        (SystemExit(0), Exception),
        (json.JSONDecodeError("a", "b", 0), ValueError),
        (UnicodeDecodeError("ascii", b"x", 0, 1, "y"), UnicodeDecodeError),
        (UnicodeEncodeError("ascii", "x", 0, 1, "y"), UnicodeEncodeError),
        (UnicodeTranslateError("x", 0, 1, "y"), UnicodeTranslateError),
        (ExceptionGroup("x", [ValueError()]), Exception),
    ],
)
def test_exceptions_cross_as_their_builtin_ancestor(raised: BaseException, kind: type[Exception]) -> None:
    """If it fails, tests of what is raised cannot pass, or an answer ends the tests by what it raises."""
    assert type(wire.decode(wire.encode(raised))) is kind


def test_every_builtin_exception_can_be_made() -> None:
    """If it fails, an answer crashes the tests by the name of an exception."""
    for name, kind in vars(builtins).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            made = wire.decode(f'{{"raised":["{name}","words"]}}'.encode())
            assert issubclass(kind, type(made)) and isinstance(made, Exception), name


TAGS = ["tuple", "set", "frozenset", "dict", "int", "bytes", "complex", "range", "raised", "class", "iterator", "x"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*TAGS, *wire.STANDARD, *wire.VIEWS]),
            inner | st.lists(inner, max_size=3),
            max_size=2,
        )
    ),
    max_leaves=20,
)


@given(JSON, st.binary(max_size=200))
@settings(deadline=None)
def test_any_message_is_decoded_or_refused(message: object, noise: bytes) -> None:
    """If it fails, an answer crashes the tests by what it writes, such as a tag with a wrong body."""
    for line in (json.dumps(message, separators=(",", ":")).encode(), noise):
        with contextlib.suppress(wire.WireError):
            wire.decode(line)


@pytest.mark.parametrize(
    "message",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b"1" * 100_000,
        b'{"int":"' + b"f" * 3_000_000 + b'"}',
        b'{"set":[' + b"1e999," * 1000 + b"1]}",
        b'{"date":[2024,13,1]}',
        b'{"date":[{"bytes":"07e8ff010000"}]}',
        b'{"Fraction":[1,0]}',
        b'{"Fraction":["1e999999999"]}',
        b'{"Decimal":["1e9999999999999999999999"]}',
        b'{"timedelta":[1e300,0,0]}',
        b'{"class":"exec"}',
        b'{"defaultdict":[{"class":"range"},{"dict":[]}]}',
        b'{"array":["d",["x"]]}',
        b"1 2",
        b"",
        b"x" * (wire.BYTES + 1),
    ],
    ids=[
        *("deep", "digits", "hexadecimal", "set", "month", "pickled", "zero", "words", "exponent", "days", "function"),
        *("factory", "array", "two", "none", "long"),
    ],
)
def test_messages_at_size_are_decoded_or_refused(message: bytes) -> None:
    """If it fails, an answer crashes the tests by what it writes, or holds them up for minutes."""
    with contextlib.suppress(wire.WireError):
        wire.decode(message)


def test_messages_have_room() -> None:
    """If it fails, a program's longest output does not fit through the socket."""
    assert 2 * answer.OUTPUT <= wire.BYTES
