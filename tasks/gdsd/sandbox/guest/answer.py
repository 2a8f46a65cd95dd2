"""Runs an answer: chooses its code, then answers calls to one function, or runs it as a program.

The host sends one line of JSON: `blocks`, the blocks of an answer, first the one that counts if it is what is asked
for; `prefix`, code that stands before a completion; `entry_point`, or None for a program. The reply is `1` where a
block compiles, else `0`. It is written before any of the code runs.

A call is an encoded (arguments, keywords). Its reply is an encoded (whether it returned, the value or exception), or an
empty line. An iterator among the values stays here and gets a number. An encoded [number, how many] asks for its next
items, and the reply is like that to a call with the value (items, whether there are more or the exception that came
instead). For a program the host sends its standard input, an open file, with an empty line. It gets the standard output
back in base 64, after a `1` if the program ended well. Whatever the code does to this process, or writes to the pipe
itself, is only another reply.
"""

import _socket  # the C half of `socket`, whose Python half takes long to import
import binascii
import gc
import os
import select
import sys

from tasks.gdsd.sandbox.guest import wire

TYPE_CHECKING = False  # the module `typing` takes long to import
if TYPE_CHECKING:
    from collections.abc import Iterator

OUTPUT = 1 << 20  # bytes of a program's output
INT = 4  # bytes of a descriptor in a message
SCRIPT = "answer.py"  # the file of a program, in its temporary folder
ONLY_TREE = 1 << 10  # ast.PyCF_ONLY_AST; the module `ast` takes long to import
SCOPES = ("FunctionDef", "AsyncFunctionDef", "ClassDef", "Lambda")
MAY_BE_FUNCTIONS = ("Lambda", "Name", "Attribute", "Call", "Subscript", "IfExp", "BoolOp")


def serve(requests: int, replies: int) -> None:
    """Answers until the host closes the pipe; in a program's process it ends as `python file.py` does."""
    lines = os.fdopen(requests, "rb")
    os.write(replies, b"ready\n")
    order = wire.parse_order(lines.readline()[:-1])
    name, prefix = order["entry_point"], order["prefix"]
    source = _chosen(order["blocks"], prefix, name)
    send(replies, b"0" if source is None else b"1")
    if source is None:
        return
    if not name:
        path = _become_script(source)
        code = compile(source, path, "exec", dont_inherit=True)
        gc.freeze()  # or the end of each process would search what it shares with this one
        # Made after that, or what the program holds would not be finalized at its end, as by `__del__`.
        module = sys.modules["__main__"] = type(sys)("__main__")
        module.__dict__.update(__file__=path, __cached__=None, __annotations__={}, __builtins__=sys.modules["builtins"])
        inputs = _socket.socket(fileno=os.dup(requests))
        while (stdin := _received(inputs)) is not None:
            reply = _run(stdin)
            if reply is None:  # this process is the program's
                inputs.close()
                lines.close()
                os.close(replies)
                exec(code, module.__dict__)  # what this confined process is for: it runs the hostile answer
                sys.exit()
            send(replies, reply)
        return
    module = sys.modules["answer"] = type(sys)("answer")
    try:
        for part in (prefix, source):
            exec(compile(part, "<answer>", "exec", dont_inherit=True), module.__dict__)  # likewise
        function = module.__dict__[name]
    except BaseException:
        function = None
    held: list[Iterator[object]] = []
    for line in lines:
        send(replies, _reply(function, held, line))


def send(replies: int, line: bytes) -> None:
    """Writes a line as a whole."""
    rest = memoryview(line + b"\n")
    while rest:
        rest = rest[os.write(replies, rest) :]


def _compiles(source: str) -> bool:
    try:
        compile(source, "<answer>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return False
    return True


def _chosen(blocks: "list[str]", prefix: str, name: str | None) -> str | None:
    """The code of the first block that is what was asked for.

    That is one that defines the function, or a program that calls something: an output may be Python by chance. Without
    one it is the first that completes the prefix, and without that the first that compiles.
    """
    completion = spare = None
    for block in blocks:
        block = block.removeprefix("\ufeff")  # a byte order mark, which Python skips in files
        for source in (block, _dedented(block)):
            if _compiles(source):
                if _defines(source, name) if name else _calls(source):
                    return source
                spare = spare or source
                break
        else:
            for source in _completed(prefix, block) if completion is None and name else ():
                if _compiles(source):
                    completion = source
                    break
    return completion or spare


def _completed(prefix: str, block: str) -> "list[str]":
    """A text behind the prefix: as it is, at the indentation of the prefix's end, or with its first line there."""
    last = prefix.rstrip().rpartition("\n")[2]
    margin = last[: len(last) - len(last.lstrip(" \t"))]
    whole = "\n".join(margin + line for line in _dedented(block).split("\n"))
    return [prefix + text for text in (block, whole, margin + block.lstrip(" \t"))]


def _dedented(block: str) -> str:
    lines = block.split("\n")
    margin = min((len(line) - len(line.lstrip(" \t")) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:] for line in lines)


def _defines(source: str, name: str) -> bool:
    """Whether a text makes a function of a name, outside of its functions and classes."""
    for node in _nodes(_tree(source), SCOPES):
        match type(node).__name__:
            case "FunctionDef" | "AsyncFunctionDef" | "ClassDef" if node.name == name:
                return True
            case "Assign" if any(_assigns(target, node.value, name) for target in node.targets):
                return True
            case "AnnAssign" | "NamedExpr" if _assigns(node.target, node.value, name):
                return True
            case "Import" | "ImportFrom" if any(_imports(node, alias, name) for alias in node.names):
                return True
    return False


def _assigns(target, value, name: str) -> bool:  # type: ignore[no-untyped-def]  # as `_nodes`
    """Whether an assignment to a name may make a function of it: out of something else, and of no plain value."""
    if not _names(target, name, "Store"):
        return False
    if type(target).__name__ != "Name":  # several names
        return True
    return type(value).__name__ in MAY_BE_FUNCTIONS and not _names(value, name, "Load")


def _names(tree, name: str, use: str) -> bool:  # type: ignore[no-untyped-def]  # as `_nodes`
    """Whether a name is used in some way, outside of functions."""
    return any(
        type(node).__name__ == "Name" and node.id == name and type(node.ctx).__name__ == use
        for node in _nodes(tree, SCOPES)
    )


def _imports(node, alias, name: str) -> bool:  # type: ignore[no-untyped-def]  # as `_nodes`
    """Whether an import gives a meaning to a name; one from a file that only a usage example has does not."""
    module = node.module if "module" in node._fields else alias.name
    return name == (alias.asname or alias.name) and str(module).partition(".")[0] in sys.stdlib_module_names


def _calls(source: str) -> bool:
    return any(type(node).__name__ == "Call" for node in _nodes(_tree(source), ()))


def _tree(source: str):  # type: ignore[no-untyped-def]  # the types of nodes are in a module not needed here
    return compile(source, "<answer>", "exec", ONLY_TREE, dont_inherit=True)


def _nodes(tree, closed: "tuple[str, ...]"):  # type: ignore[no-untyped-def]  # likewise
    """The nodes of a syntax tree, without what is inside of those of some types."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for field in () if type(node).__name__ in closed else node._fields:
            value = getattr(node, field, None)
            waiting += [part for part in (value if isinstance(value, list) else [value]) if hasattr(part, "_fields")]


def _reply(function: object, held: "list[Iterator[object]]", line: bytes) -> bytes:
    """Calls the function, or draws from an iterator that it gave."""

    def hold(iterator: "Iterator[object]") -> int:
        held.append(iterator)
        return len(held) - 1

    try:
        match wire.decode(line[:-1]):
            case [int(number), int(count)]:
                outcome: tuple[bool, object] = (True, _drawn(held[number], count))
            case (tuple(arguments), dict(keywords)) if callable(function):
                outcome = (True, function(*arguments, **keywords))
            case _:
                return b""
    except Exception as error:
        outcome = (False, error)
    except BaseException:  # it tried to end the program
        return b""
    try:
        return wire.encode(outcome, hold)
    except BaseException:
        return b""


def _drawn(iterator: "Iterator[object]", count: int) -> "tuple[list[object], object]":
    """Some items, and whether there may be more, or what came instead of the next one."""
    items: list[object] = []
    try:
        while len(items) < count:
            items.append(next(iterator))
    except StopIteration:
        return items, False
    except Exception as error:
        return items, error
    return items, True


def _become_script(source: str) -> str:
    """Writes a program's file, makes what it sees around it what `python file.py` would show, and returns its path."""
    import site  # takes time, and only a program needs what it adds: exit, quit, help and the like

    for add in (site.setquit, site.sethelper, site.setcopyright):
        add()
    folder = os.getcwd()
    path = os.path.join(folder, SCRIPT)
    # Not by its path, which at the level `none` may lead through a folder that is closed to it, as a private TMPDIR is.
    with open(SCRIPT, "w", encoding="utf-8", newline="") as file:
        file.write(source)
    sys.argv = [SCRIPT]
    sys.path.insert(0, folder)
    return path


def _received(inputs: _socket.socket) -> int | None:
    """The next open file that the host sends, None when it sends no more."""
    line, rights, *_ = inputs.recvmsg(1, _socket.CMSG_SPACE(INT))
    return int.from_bytes(rights[0][2][:INT], sys.byteorder) if line else None


def _run(stdin: int) -> bytes | None:
    """Runs a program on an input, in a process of its own, in which it returns None."""
    drain, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(stdin, 0)
        os.dup2(sink, 1)
        for end in (stdin, drain, sink):
            os.close(end)
        _read_file()
        return None
    os.close(stdin)
    os.close(sink)
    output = _output(child, drain)
    if len(output) > OUTPUT:
        os.kill(child, 9)
    _, ended = os.waitpid(child, 0)
    well = ended == 0 and len(output) <= OUTPUT
    return (b"1" if well else b"0") + binascii.b2a_base64(output[:OUTPUT], newline=False)


def _read_file() -> None:
    """Makes `sys.stdin` anew, as Python does: the one that was made of the host's socket cannot seek."""
    old = sys.stdin
    new = open(0, encoding=old.encoding, errors=old.errors, newline="\n", closefd=False)  # noqa: SIM115  # it stays
    new.buffer.raw.name = old.name  # type: ignore[attr-defined]  # a file's own raw half, which has one
    vars(sys).update(stdin=new, __stdin__=new)


def _output(child: int, drain: int) -> bytes:
    """Returns a program's output when it has ended or has written too much, and closes its end."""
    end = os.pidfd_open(child)
    poller = select.poll()
    ends = {drain, end}
    for descriptor in ends:
        os.set_blocking(descriptor, False)
        poller.register(descriptor, select.POLLIN)

    def drop(descriptor: int) -> None:
        poller.unregister(descriptor)
        os.close(descriptor)
        ends.remove(descriptor)

    output = b""
    while len(output) <= OUTPUT:
        ready = {descriptor for descriptor, _ in poller.poll(None if end in ends else 0)}
        if not ready and end not in ends:
            break  # it has ended, and all that it wrote is read
        if end in ready:
            drop(end)
        if drain in ready:
            more = os.read(drain, 1 << 16)
            output += more
            if not more:
                drop(drain)
    for descriptor in list(ends):
        drop(descriptor)
    return output
