"""Runs a problem's tests against a stand-in for the answer's function, which forwards each call to the host.

The host sends one line of JSON: `setup`, `tests`, `entry_point`, and `numpy`, the folder of that package. This side
writes `C` and an encoded call, or the number of an iterator and how many of its items are wanted; see `answer`. The
host answers with `R` and the encoded reply, or with `X` where there is none. In the end this side writes `V` and a `1`
or `0` for each test, or `N` and why numpy, which the tests import, cannot be.
"""

import os
import sys

from tasks.gdsd.sandbox.guest import wire
from tasks.gdsd.sandbox.guest.answer import send

TYPE_CHECKING = False  # the module `typing` takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from importlib.machinery import ModuleSpec

CONTROL = StopIteration, StopAsyncIteration  # what Python reads as the end of a loop, and not as an error
SINGLE, MOST = 16, 1024  # items that are asked for one at a time, as an endless iterator may be slow; and then at once

COMPARISONS = "allclose", "isclose", "array_equiv"  # of numpy, which broadcast
TESTING = "assert_allclose", "assert_almost_equal", "assert_array_almost_equal", "assert_array_equal"


class LostError(BaseException):
    """The answer gave no value; no test may take that for an exception that it expects."""


class StandIn:
    """The answer's function, as the tests see it."""

    def __init__(self, lines: object, replies: int) -> None:
        self._lines = lines
        self._replies = replies
        self.called = self.lost = self.failed = False

    def call(self, arguments: tuple[object, ...], keywords: dict[str, object]) -> object:
        """Forwards a call, and returns or raises what comes back."""
        self.called = True
        return self._asked((arguments, keywords))

    def _asked(self, question: object) -> object:
        try:
            send(self._replies, b"C" + wire.encode(question))
            line = self._lines.readline()  # type: ignore[attr-defined]  # a file; its type is in a module not needed here
            if line[:1] != b"R":
                raise wire.WireError("the answer gave no value")
            match wire.decode(line[1:-1], self._items):
                case (True, value):
                    return value
                case (False, Exception() as error) if not isinstance(error, CONTROL):
                    pass
                case _:
                    raise wire.WireError("not the reply to a call")
        except wire.WireError:
            self.lost = True
            raise LostError from None
        raise error

    def _items(self, number: int) -> "Iterator[object]":
        """The items of an iterator that the answer holds, asked for when they are needed."""
        count = 0
        while True:
            match self._asked([number, 1 if count < SINGLE else min(count, MOST)]):
                case (list(items), bool() | Exception() as more) if not isinstance(more, CONTROL):
                    yield from items
                case _:
                    self.lost = True
                    raise LostError
            if isinstance(more, Exception):
                raise more
            if not more:
                return
            count += len(items)


class Finder:
    """Finds numpy in its folder, and no other package of the folder above."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(self, name: str, path: "Sequence[str] | None", target: object = None) -> "ModuleSpec | None":
        """Called by Python for each import."""
        if name != "numpy":
            return None
        from importlib.util import spec_from_file_location

        return spec_from_file_location(name, f"{self._folder}/__init__.py", submodule_search_locations=[self._folder])


def serve(requests: int, replies: int) -> None:
    """Runs the tests once."""
    lines = os.fdopen(requests, "rb")
    os.write(replies, b"ready\n")
    order = wire.parse_order(lines.readline()[:-1])
    stand_in = StandIn(lines, replies)
    texts = [order["setup"], *order["tests"]]
    if any("unittest" in text for text in texts):
        _watch(stand_in)
    if any("numpy" in text for text in texts):
        sys.meta_path.append(Finder(order["numpy"]))
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread would take memory
        try:
            _guard(__import__("numpy"), COMPARISONS)
            if any("testing" in text for text in texts):
                _guard(__import__("numpy.testing").testing, TESTING)
        except ImportError as error:
            send(replies, b"N" + repr(error).encode())
            return

    def function(*arguments: object, **keywords: object) -> object:
        return stand_in.call(arguments, keywords)

    function.__name__ = function.__qualname__ = order["entry_point"]
    passed = [_passes(order["setup"], test, order["entry_point"], function, stand_in) for test in order["tests"]]
    send(replies, b"V" + b"".join(b"1" if one else b"0" for one in passed))


def _guard(module: object, names: "Sequence[str]") -> None:
    """Makes comparisons of numpy's fail between what is empty and what is not: broadcast, `[]` is close to 1.5."""
    from inspect import signature  # numpy has imported it

    size = vars(sys.modules["numpy"])["size"]

    def guarded(compare: "Callable[..., object]") -> "Callable[..., object]":
        def compared(*values: object, **named: object) -> object:
            left, right, *_ = signature(compare).bind(*values, **named).arguments.values()
            assert (size(left) == 0) == (size(right) == 0)
            return compare(*values, **named)

        return compared

    for name in names:
        setattr(module, name, guarded(getattr(module, name)))


def _watch(stand_in: StandIn) -> None:
    """Makes a test fail if unittest finds a failure in it: a runner only reports it."""
    from unittest import TestResult

    def watched(add: "Callable[..., object]") -> "Callable[..., object]":
        def added(result: object, *found: object) -> object:
            stand_in.failed = stand_in.failed or found[-1] is not None  # as for a part of a test that passes
            return add(result, *found)

        return added

    for name in ("addError", "addFailure", "addSubTest", "addUnexpectedSuccess"):
        setattr(TestResult, name, watched(getattr(TestResult, name)))


def _passes(setup: str, test: str, name: str, function: object, stand_in: StandIn) -> bool:
    """Runs one test in a namespace of its own; one that calls nothing tests nothing."""
    namespace: dict[str, object] = {"__name__": "tests"}
    try:
        exec(setup, namespace)  # the data set's tests, in a confined process of their own, never beside an answer
        namespace[name] = function
        stand_in.called = stand_in.lost = stand_in.failed = False
        exec(test, namespace)  # likewise; running them is what this process is for
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code:
            return False
    return stand_in.called and not stand_in.lost and not stand_in.failed
