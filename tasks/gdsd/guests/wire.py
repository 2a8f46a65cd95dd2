"""Values between the answer and the tests: JSON with tags, builtin types only.

What is decoded is built anew out of exact builtin types, so that no object of the other side, with its own idea of
equality, comes along. Subclasses of builtin types (Counter, namedtuple, an enumeration of int) cross as those types.
"""

import builtins
import json

DEPTH = 60
BYTES = 4 << 20  # of a message
SMALL = 1 << 62  # larger integers cross in base 16, which is linear in their length and has no limit of digits

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class WireError(Exception):
    """A value is of no builtin type, too deep or too large, or a message is no encoded value."""


def encode(value: object) -> bytes:
    """Returns one line without its end.

    Raises:
        WireError: the value cannot cross.
    """
    try:
        line = json.dumps(_pack(value, DEPTH), separators=(",", ":")).encode()
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
        return _unpack(json.loads(line), DEPTH)
    except (RecursionError, MemoryError, ValueError, TypeError, OverflowError) as error:
        raise WireError(f"no encoded value: {error!r:.100}") from None


def _pack(value: object, depth: int) -> Json:
    if depth == 0:
        raise WireError(f"a value is nested more than {DEPTH} deep")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__index__(value)
        return number if -SMALL < number < SMALL else {"int": hex(number)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, complex):
        return {"complex": [float(value.real), float(value.imag)]}
    if isinstance(value, bytes):
        return {"bytes": bytes.hex(value)}
    if isinstance(value, range):
        return {"range": [_pack(part, depth - 1) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, list):
        return [_pack(item, depth - 1) for item in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[_pack(key, depth - 1), _pack(item, depth - 1)] for key, item in dict.items(value)]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, depth - 1) for item in tuple.__iter__(value)]}
    if isinstance(value, set):
        return {"set": [_pack(item, depth - 1) for item in set.__iter__(value)]}
    if isinstance(value, frozenset):
        return {"frozenset": [_pack(item, depth - 1) for item in frozenset.__iter__(value)]}
    if isinstance(value, BaseException):
        return {"raised": [_ancestor(value), _pack(_words(value), depth - 1)]}
    raise WireError(f"a {type(value).__name__!r:.60} is of no builtin type, so it cannot cross")


def _ancestor(error: BaseException) -> str:
    """The nearest builtin exception among an exception's types."""
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    return next((name for name in names if isinstance(_exception(name), type)), "Exception")


def _exception(name: str) -> type[Exception] | None:
    """The builtin exception of a name; those that end a program are none."""
    kind = vars(builtins).get(name)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None


def _words(error: BaseException) -> str:
    try:
        return str(str(error))[:200]
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
            return (_exception(name) or Exception)(words)
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
