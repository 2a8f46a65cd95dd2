"""Runs a problem's tests against a stand-in for the answer's function, which forwards each call to the host.

The host sends one line of JSON: `setup`, `tests`, `entry_point`. This side writes `C` and an encoded call. The host
answers with `R` and the encoded reply, or with `X` where there is none. In the end this side writes `V` and a `1` or
`0` for each test.
"""

import os

from tasks.gdsd.sandbox.guest import wire
from tasks.gdsd.sandbox.guest.answer import send

CONTROL = StopIteration, StopAsyncIteration  # what Python reads as the end of a loop, and not as an error


class LostError(BaseException):
    """The answer gave no value; no test may take that for an exception that it expects."""


class StandIn:
    """The answer's function, as the tests see it."""

    def __init__(self, lines: object, replies: int) -> None:
        self._lines = lines
        self._replies = replies
        self.called = self.lost = False

    def call(self, arguments: tuple[object, ...], keywords: dict[str, object]) -> object:
        """Forwards a call, and returns or raises what comes back."""
        self.called = True
        try:
            send(self._replies, b"C" + wire.encode((arguments, keywords)))
            line = self._lines.readline()  # type: ignore[attr-defined]  # a file; its type is in a module not needed here
            if line[:1] != b"R":
                raise wire.WireError("the answer gave no value")
            match wire.decode(line[1:-1]):
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


def serve(requests: int, replies: int) -> None:
    """Runs the tests once."""
    lines = os.fdopen(requests, "rb")
    os.write(replies, b"ready\n")
    order = wire.parse_order(lines.readline()[:-1])
    stand_in = StandIn(lines, replies)

    def function(*arguments: object, **keywords: object) -> object:
        return stand_in.call(arguments, keywords)

    function.__name__ = function.__qualname__ = order["entry_point"]
    passed = [_passes(order["setup"], test, order["entry_point"], function, stand_in) for test in order["tests"]]
    send(replies, b"V" + b"".join(b"1" if one else b"0" for one in passed))


def _passes(setup: str, test: str, name: str, function: object, stand_in: StandIn) -> bool:
    """Runs one test in a namespace of its own; one that calls nothing tests nothing."""
    namespace: dict[str, object] = {"__name__": "tests"}
    try:
        exec(setup, namespace)  # the data set's tests, in a confined process of their own, never beside an answer
        namespace[name] = function
        stand_in.called = stand_in.lost = False
        exec(test, namespace)  # likewise; running them is what this process is for
    except BaseException:
        return False
    return stand_in.called and not stand_in.lost
