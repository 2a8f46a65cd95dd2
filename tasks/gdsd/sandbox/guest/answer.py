"""Runs an answer: loads its code, then answers calls to one function, or runs it as a program.

The host sends one line of JSON: `source`; `prefix`, code that stands before a completion; `entry_point`, or None for
a program. The reply is `1` where the code compiles, else `0`. It is written before any of the code runs.

A call is an encoded (arguments, keywords). Its reply is an encoded (whether it returned, the value or exception), or an
empty line. For a program the host sends its standard input in base 64. It gets the standard output back, after a `1` if
the program ended well. Whatever the code does to this process, or writes to the pipe itself, is only another reply.
"""

import binascii
import os
import select
import sys

from tasks.gdsd.sandbox.guest import wire

OUTPUT = 1 << 20  # bytes of a program's output


def serve(requests: int, replies: int) -> None:
    """Answers until the host closes the pipe."""
    lines = os.fdopen(requests, "rb")
    os.write(replies, b"ready\n")
    order = wire.parse_order(lines.readline()[:-1])
    prefix = _compiled(order["prefix"])
    code = _compiled(order["source"]) or _compiled(order["prefix"] + order["source"])
    send(replies, b"1" if code else b"0")
    if code is None or prefix is None:
        return
    name = "answer" if order["entry_point"] else "__main__"
    module = type(sys)(name)
    sys.modules[name] = module
    if not order["entry_point"]:
        for line in lines:
            send(replies, _run(code, module.__dict__, binascii.a2b_base64(line)))
        return
    try:
        for part in (prefix, code):
            exec(part, module.__dict__)  # what this confined process is for: it runs the hostile answer
        function = module.__dict__[order["entry_point"]]
    except BaseException:
        function = None
    for line in lines:
        send(replies, _call(function, line))


def send(replies: int, line: bytes) -> None:
    """Writes a line as a whole."""
    rest = memoryview(line + b"\n")
    while rest:
        rest = rest[os.write(replies, rest) :]


def _compiled(source: str):  # type: ignore[no-untyped-def]  # the type of code objects is in a module not needed here
    try:
        return compile(source, "<answer>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return None


def _call(function: object, line: bytes) -> bytes:
    call = wire.decode(line[:-1])
    if not (callable(function) and isinstance(call, tuple)):
        return b""
    arguments, keywords = call
    try:
        outcome = (True, function(*arguments, **keywords))
    except Exception as error:
        outcome = (False, error)
    except BaseException:  # it tried to end the program
        return b""
    try:
        return wire.encode(outcome)
    except BaseException:
        return b""


def _run(code: object, namespace: dict[str, object], text: bytes) -> bytes:
    """Runs a program in a process of its own, between two pipes."""
    (source, feed), (drain, sink) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(feed)
        os.close(drain)
        os.dup2(source, 0)
        os.dup2(sink, 1)
        os.close(source)
        os.close(sink)
        sys.stdin = os.fdopen(0, "r", encoding="utf-8", errors="replace", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace", closefd=False)
        status = 1
        try:
            exec(code, namespace)  # type: ignore[arg-type]  # vars() of a module; running it is what this process is for
            status = 0
        except SystemExit as end:
            status = 0 if end.code in (None, 0) else 1
        except BaseException:
            status = 1
        finally:
            try:
                sys.stdout.flush()
            finally:
                os._exit(status)
    os.close(source)
    os.close(sink)
    output = _exchange(child, text, feed, drain)
    if len(output) > OUTPUT:
        os.kill(child, 9)
    _, ended = os.waitpid(child, 0)
    well = ended == 0 and len(output) <= OUTPUT
    return (b"1" if well else b"0") + binascii.b2a_base64(output[:OUTPUT], newline=False)


def _exchange(child: int, text: bytes, feed: int, drain: int) -> bytes:
    """Gives a program its input, and returns its output when it has ended or has written too much; closes both."""
    end = os.pidfd_open(child)
    poller = select.poll()
    ends = {feed: select.POLLOUT, drain: select.POLLIN, end: select.POLLIN}
    for descriptor, event in ends.items():
        os.set_blocking(descriptor, False)
        poller.register(descriptor, event)

    def drop(descriptor: int) -> None:
        poller.unregister(descriptor)
        os.close(descriptor)
        del ends[descriptor]

    rest, output = memoryview(text), b""
    while len(output) <= OUTPUT:
        ready = {descriptor for descriptor, _ in poller.poll(None if end in ends else 0)}
        if not ready and end not in ends:
            break  # it has ended, and all that it wrote is read
        if end in ready:
            drop(end)
        if feed in ready:
            try:
                rest = rest[os.write(feed, rest) :]
            except BrokenPipeError:  # it reads no more
                rest = rest[:0]
            if not rest:
                drop(feed)
        if drain in ready:
            more = os.read(drain, 1 << 16)
            output += more
            if not more:
                drop(drain)
    for descriptor in list(ends):
        drop(descriptor)
    return output
