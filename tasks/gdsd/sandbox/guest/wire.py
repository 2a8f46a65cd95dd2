"""Values between the answer and the tests: JSON with tags, builtin types only.

What is decoded is built anew out of exact builtin types, so that no object of the other side, with its own idea of
equality, comes along. Subclasses of builtin types (Counter, namedtuple, an enumeration of int) cross as those types.
"""

import builtins

# The C half of the module `json`, whose Python half takes longer to import than an answer to run.
from _json import encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False  # the module `typing` takes long as well
if TYPE_CHECKING:
    from collections.abc import Iterable

DEPTH = 60
BYTES = 4 << 20  # of a message
WORDS = 200  # characters of what an exception says
SMALL = 1 << 62  # larger integers cross in base 16, which is linear in their length and has no limit of digits

BEFORE_WORDS: "dict[str, tuple[object, ...]]" = {
    "UnicodeDecodeError": ("ascii", b"", 0, 1),
    "UnicodeEncodeError": ("ascii", "", 0, 1),
    "UnicodeTranslateError": ("", 0, 1),
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


def parse_order(line: bytes) -> dict[str, str]:
    """Returns the host's order, a JSON object; it is not hostile."""
    order = parse(line)
    assert isinstance(order, dict)
    return order  # type: ignore[return-value]  # the host puts text into it alone


def encode(value: object) -> bytes:
    """Returns one line without its end.

    Raises:
        WireError: the value cannot cross.
    """
    try:
        line = "".join(_encode(_pack(value, DEPTH), 0)).encode()
    except (RecursionError, MemoryError, ValueError) as error:
        raise WireError(f"a value cannot cross: {error!r:.100}") from None
    if len(line) > BYTES:
        raise WireError(f"a value takes {len(line)} bytes; at most {BYTES} cross")
    return line


def decode(line: bytes) -> object:
    """Returns the value of a line.

    Raises:
        WireError: it is not an encoded value.
    """
    if len(line) > BYTES:
        raise WireError(f"a message of {len(line)} bytes; at most {BYTES} are read")
    try:
        return _unpack(parse(line), DEPTH)
    except (RecursionError, MemoryError, ValueError, TypeError, OverflowError) as error:
        raise WireError(f"no encoded value: {error!r:.100}") from None


def _pack(value: object, depth: int) -> Json:
    """Returns a value as JSON with tags; the values of subclasses are read as those of the builtin types."""
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
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes):
        return {"bytes": bytes.hex(value)}
    if isinstance(value, range):
        return {"range": _items((value.start, value.stop, value.step), depth)}
    if isinstance(value, list):
        return _items(list.__iter__(value), depth)
    if isinstance(value, dict):
        return {"dict": _items(map(list, dict.items(value)), depth)}
    if isinstance(value, BaseException):
        return {"raised": [_ancestor(value), _words(value)]}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: _items(kind.__iter__(value), depth)}  # type: ignore[arg-type]  # it is of that kind
    raise WireError(f"a {type(value).__name__!r:.60} is of no builtin type, so it cannot cross")


def _items(items: "Iterable[object]", depth: int) -> list[Json]:
    return [_pack(item, depth - 1) for item in items]


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


def _unpack(value: Json, depth: int) -> object:
    if depth == 0:
        raise WireError(f"a message is nested more than {DEPTH} deep")
    if isinstance(value, list):
        return [_unpack(item, depth - 1) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise WireError("a message has an object without exactly one tag")
    ((tag, body),) = value.items()
    match tag, body:
        case "int" | "bytes", str(text):
            return int(text, 16) if tag == "int" else bytes.fromhex(text)
        case "complex", [float(real), float(imaginary)]:
            return complex(real, imaginary)
        case "raised", [str(name), str(words)]:
            return _made(_exception(name) or Exception, words)
        case "range", [_, _, _]:
            start, stop, step = (_unpack(part, depth - 1) for part in body)
            if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
                return range(start, stop, step)
        case "dict", list(pairs):
            return dict(_pair(pair, depth) for pair in pairs)
        case "tuple" | "set" | "frozenset", list(items):
            unpacked = [_unpack(item, depth - 1) for item in items]
            return tuple(unpacked) if tag == "tuple" else set(unpacked) if tag == "set" else frozenset(unpacked)
    raise WireError(f"a message has the tag {tag!r:.40} with a wrong body")


def _pair(pair: Json, depth: int) -> tuple[object, object]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise WireError("a dictionary has an item that is no pair")
    return _unpack(pair[0], depth - 1), _unpack(pair[1], depth - 1)
