"""Values between the answer and the tests: JSON with tags, builtin types and some of the standard library.

What is decoded is built anew out of exactly these types, so that no object of the other side, with its own idea of
equality, comes along. Subclasses (namedtuple, an enumeration of int) cross as the type that they are made of. A class
crosses by its name. An iterator crosses as the items that it gives, or as a number by which the other side asks for
them.
"""

import builtins
import sys

# The C half of the module `json`, whose Python half takes longer to import than an answer to run.
from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False  # the module `typing` takes long as well
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DEPTH = 60
BYTES = 4 << 20  # of a message
WORDS = 200  # characters of what an exception says
ITEMS = 100_000  # of an iterator that crosses as its items
SMALL = 1 << 62  # larger integers cross in base 16, which is linear in their length and has no limit of digits

BEFORE_WORDS: "dict[str, tuple[object, ...]]" = {
    "UnicodeDecodeError": ("ascii", b"", 0, 1),
    "UnicodeEncodeError": ("ascii", "", 0, 1),
    "UnicodeTranslateError": ("", 0, 1),
}

# What crosses as its constructor's arguments: the module, the arguments of a value, and their types. `object` is what
# the constructor checks itself; of the others it would also take what is slow or odd, such as the state of a pickle.
STANDARD: "dict[str, tuple[str, Callable[..., tuple[object, ...]], tuple[type, ...]]]" = {
    "date": ("datetime", lambda it: (it.year, it.month, it.day), (int,) * 3),
    "datetime": (
        "datetime",
        lambda it: (it.year, it.month, it.day, it.hour, it.minute, it.second, it.microsecond, it.tzinfo),
        (int,) * 7 + (object,),
    ),
    "time": ("datetime", lambda it: (it.hour, it.minute, it.second, it.microsecond, it.tzinfo), (int,) * 4 + (object,)),
    "timedelta": ("datetime", lambda it: (it.days, it.seconds, it.microseconds), (int,) * 3),
    "timezone": ("datetime", lambda it: it.__getinitargs__(), (object, str)),  # the name is optional
    "Fraction": ("fractions", lambda it: (it.numerator, it.denominator), (int,) * 2),
    "Decimal": ("decimal", lambda it: (str(it),), (str,)),
    "Counter": ("collections", lambda it: (dict(it),), (dict,)),
    "OrderedDict": ("collections", lambda it: (dict(it),), (dict,)),
    "defaultdict": ("collections", lambda it: (crossing_class(it.default_factory), dict(it)), (object, dict)),
    "deque": ("collections", lambda it: (list(it), it.maxlen), (list, object)),
    "bytearray": ("builtins", lambda it: (bytes(it),), (bytes,)),
    "array": ("array", lambda it: (it.typecode, it.tolist()), (str, list)),
}
# Classes that cross beside these and the builtin exceptions.
CLASSES = {"bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set", "str"}
CLASSES |= {"tuple", "type", "NoneType"}
VIEWS: "dict[str, Callable[[Iterable[object]], Iterable[object]]]" = {  # of a dictionary
    "dict_keys": lambda items: dict.fromkeys(items).keys(),
    "dict_values": lambda items: dict(enumerate(items)).values(),
    "dict_items": lambda items: dict(map(_pair, items)).items(),
}

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class WireError(Exception):
    """A value is of no builtin type, too deep or too large, or a message is no encoded value."""


class _Options:
    """What the scanner asks for."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {name: float(name) for name in ("NaN", "Infinity", "-Infinity")}.__getitem__


_scan = make_scanner(_Options())  # type: ignore[arg-type]  # any object with these attributes will do
# No check for circles, nothing that needs a default, no indentation, no sorting and no skipping; NaN may pass.
_encode = make_encoder(None, repr, encode_basestring_ascii, None, ":", ",", False, False, True)


def parse(line: bytes) -> Json:
    """Returns the value of a line of plain JSON without space around it.

    Raises:
        WireError: it is none.
    """
    try:
        text = line.decode()
        value, end = _scan(text, 0)
        if end != len(text):
            raise WireError(f"{len(text) - end} more characters behind the JSON")
        return value
    except (RecursionError, MemoryError, ValueError, OverflowError, StopIteration) as error:
        raise WireError(f"no JSON: {error!r:.100}") from None


def parse_order(line: bytes):  # type: ignore[no-untyped-def]  # its type is in a module that takes long to import
    """Returns the host's order, a JSON object; it is not hostile."""
    order = parse(line)
    assert isinstance(order, dict)
    return order


def encode(value: object, hold: "Callable[[Iterator[object]], int] | None" = None) -> bytes:
    """Returns one line without its end.

    Args:
        value: what crosses.
        hold: gives an iterator the number by which the other side asks for its items; without it they cross at once.

    Raises:
        WireError: the value cannot cross.
    """
    try:
        line = "".join(_encode(_pack(value, DEPTH, hold), 0)).encode()
    except (RecursionError, MemoryError, ValueError) as error:
        raise WireError(f"a value cannot cross: {error!r:.100}") from None
    if len(line) > BYTES:
        raise WireError(f"a value takes {len(line)} bytes; at most {BYTES} cross")
    return line


def decode(line: bytes, draw: "Callable[[int], Iterator[object]] | None" = None) -> object:
    """Returns the value of a line.

    Args:
        line: as `encode` has made it, or whatever else a hostile process writes.
        draw: makes an iterator that asks for the items of a number; without it no numbers are taken.

    Raises:
        WireError: it is not an encoded value.
    """
    if len(line) > BYTES:
        raise WireError(f"a message of {len(line)} bytes; at most {BYTES} are read")
    try:
        return _unpack(parse(line), DEPTH, draw)
    except (RecursionError, MemoryError, ValueError, TypeError, ArithmeticError) as error:
        raise WireError(f"no encoded value: {error!r:.100}") from None


def crossing_class(value: object) -> type | None:
    """Returns a value if it is a class that crosses by its name."""
    if isinstance(value, type) and (value is _builtin(value.__name__) or _standard(value) == value.__name__):
        return value
    return None


def class_named(name: str) -> type | None:
    """Returns the class that crosses by a name."""
    return _builtin(name) or _of_library(name)


def _pack(value: object, depth: int, hold: "Callable[[Iterator[object]], int] | None") -> Json:
    """Returns a value as JSON with tags; the values of subclasses are read as those of the types that cross."""
    if depth == 0:
        raise WireError(f"a value is nested more than {DEPTH} deep")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__index__(value)
        return number if -SMALL < number < SMALL else {"int": f"{number:x}"}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, list):
        return [_pack(item, depth - 1, hold) for item in list.__iter__(value)]

    def items(several: "Iterable[object]") -> list[Json]:
        return [_pack(item, depth - 1, hold) for item in several]

    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: items(kind.__iter__(value))}  # type: ignore[arg-type]  # it is of that kind
    if (name := _standard(type(value))) is not None:
        return {name: items(STANDARD[name][1](value))}
    if isinstance(value, dict):
        return {"dict": items(map(list, dict.items(value)))}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes):
        return {"bytes": bytes.hex(value)}
    if isinstance(value, range):
        return {"range": items((value.start, value.stop, value.step))}
    if isinstance(value, BaseException):
        return {"raised": [_ancestor(value), _words(value)]}
    for name, view in VIEWS.items():
        if isinstance(value, type(view(()))):
            return {name: items(value)}
    if isinstance(value, type) and crossing_class(value):
        return {"class": value.__name__}
    if hasattr(type(value), "__next__"):
        return {"iterator": hold(value) if hold else items(_bounded(value))}  # type: ignore[arg-type]  # it is one
    raise WireError(f"a {type(value).__name__!r:.60} is of no type that crosses")


def _standard(kind: type) -> str | None:
    """The name of the nearest type of STANDARD that a type is made of."""
    for one in kind.__mro__:
        if one.__name__ in STANDARD and one.__module__ == STANDARD[one.__name__][0]:
            return one.__name__
    return None


def _builtin(name: str) -> type | None:
    known = vars(builtins) | {"NoneType": type(None)}
    kind = known[name] if name in CLASSES else None
    return kind if isinstance(kind, type) else _exception(name)


def _bounded(iterator: "Iterator[object]") -> "Iterator[object]":
    for number, item in enumerate(iterator):
        if number == ITEMS:
            raise WireError(f"an iterator gives more than {ITEMS} items")
        yield item


def _ancestor(error: BaseException) -> str:
    """The nearest builtin exception among an exception's types."""
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    return next((name for name in names if isinstance(_exception(name), type)), "Exception")


def _exception(name: str) -> type[Exception] | None:
    """The builtin exception of a name; those that end a program are none."""
    kind = vars(builtins).get(name)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None


def _made(kind: type[Exception], words: str) -> Exception:
    """An exception that says something; of its nearest ancestor where one of its own type takes more than words."""
    arguments = (*BEFORE_WORDS.get(kind.__name__, ()), *([words] if words or kind.__name__ in BEFORE_WORDS else []))
    for one in kind.__mro__:
        try:
            made = one(*arguments)
        except TypeError:
            continue
        if isinstance(made, Exception):
            return made
    return Exception(words)


def _words(error: BaseException) -> str:
    """What an exception says; empty where it says nothing or cannot be asked."""
    try:
        (said,) = error.args if len(error.args) == 1 else (str(error),)
        return str.__str__(said)[:WORDS] if isinstance(said, str) else str.__str__(str(said))[:WORDS]
    except Exception:
        return ""


def _unpack(value: Json, depth: int, draw: "Callable[[int], Iterator[object]] | None") -> object:
    if depth == 0:
        raise WireError(f"a message is nested more than {DEPTH} deep")
    if isinstance(value, list):
        return [_unpack(item, depth - 1, draw) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise WireError("a message has an object without exactly one tag")

    def each(several: list[Json]) -> list[object]:
        return [_unpack(item, depth - 1, draw) for item in several]

    ((tag, body),) = value.items()
    match tag, body:
        case "int" | "bytes", str(text):
            return int(text, 16) if tag == "int" else bytes.fromhex(text)
        case "complex", [float(real), float(imaginary)]:
            return complex(real, imaginary)
        case "raised", [str(name), str(words)]:
            return _made(_exception(name) or Exception, words)
        case "class", str(name) if kind := class_named(name):
            return kind
        case "iterator", int(number) if draw:
            return draw(number)
        case "iterator", list(items):
            return iter(each(items))
        case "range", [_, _, _]:
            start, stop, step = each(body)
            if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
                return range(start, stop, step)
        case "dict", list(pairs):
            return dict(map(_pair, each(pairs)))
        case "tuple" | "set" | "frozenset", list(items):
            unpacked = each(items)
            return tuple(unpacked) if tag == "tuple" else set(unpacked) if tag == "set" else frozenset(unpacked)
        case str(name), list(items) if view := VIEWS.get(name):
            return view(each(items))
        case str(name), list(items) if kind := _of_library(name):
            arguments = each(items)
            kinds = STANDARD[name][2]
            if len(arguments) <= len(kinds) and all(map(isinstance, arguments, kinds)):
                return kind(*arguments)
    raise WireError(f"a message has the tag {tag!r:.40} with a wrong body")


def _of_library(name: str) -> type | None:
    """The class of STANDARD that has a name; its module is imported only here, since that takes time."""
    if name not in STANDARD:
        return None
    module = STANDARD[name][0]
    __import__(module)
    kind = vars(sys.modules[module])[name]
    return kind if isinstance(kind, type) else None


def _pair(pair: object) -> tuple[object, object]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise WireError("a dictionary has an item that is no pair")
    return pair[0], pair[1]
