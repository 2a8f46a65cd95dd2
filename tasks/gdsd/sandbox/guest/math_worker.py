r"""Compares mathematical expressions, one request a line: run as a script by `tasks.gdsd.domains.math`.

Its arguments are the CPU seconds for each request, the MiB of address space, and the descriptor of its lifeline, by
which it ends with the pipeline. It first says `{"ready": true}`, or what `failed`. Then it answers each
`{"reference": ..., "answer": ...}` on standard input by `{"solved": true | false | null, "last": ...}`. `solved` is
null where the reference holds no expression. `last` is true where this process has used much memory and ends. The
kernel ends it where a request takes too long.

The comparison is `tasks.gdsd.sandbox.mathematics.equality`. No text is evaluated as Python.
"""

import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

Judge = Callable[[str, str], bool | None]


def load() -> Judge:
    """Imports SymPy and the grammar, warms them up and returns the comparison."""
    from tasks.gdsd.sandbox.mathematics.equality import equal

    refuse_eval()
    for reference, answer in ((r"\frac12", "0.5"), ("(1,2)", "1<x<2"), ("x+1", "1+x"), (r"\sqrt{3}", r"\cos 1")):
        equal(reference, answer)
    return equal


def refuse_eval() -> None:
    """Keeps texts away from `sympy.parsing.sympy_parser.parse_expr`, which evaluates them as Python.

    No text of an answer is given to it on purpose. Names and fractions pass, for sympy's own modules make constants
    of them.
    """
    import sympy
    from sympy.parsing import sympy_parser

    original = sympy_parser.parse_expr

    def guarded(text: str, *arguments: object, **options: object) -> object:
        if re.fullmatch("[0-9]+", text):
            return sympy.Integer(text)
        if re.fullmatch(r"[0-9]*\.[0-9]+", text):
            return sympy.Float(text)
        if re.fullmatch(r"[A-Za-z]{1,20}|[0-9]{1,4}/[0-9]{1,4}", text):
            return original(text, *arguments, **options)
        raise ValueError("not a number")

    sympy_parser.parse_expr = guarded


def address_space() -> int:
    """Returns the bytes that count against the limit."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    """Answers requests until standard input ends."""
    from tasks.gdsd.sandbox import lifeline

    seconds, memory = float(sys.argv[1]), int(sys.argv[2]) * 2**20
    lifeline.hold_on_to(int(sys.argv[3]))
    pipe = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a library prints is no reply

    def reply(**fields: object) -> None:
        print(json.dumps(fields), file=pipe, flush=True)

    try:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        judge = load()
    except (ImportError, OSError, ValueError, MemoryError) as error:
        reply(failed=f"{type(error).__name__}: {error}")
        return
    reply(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        # CPU time, so that the verdict does not depend on what else the machine does. The default action of its signal
        # ends the process even inside one long multiplication.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            solved = judge(request["reference"], request["answer"])
        except Exception:
            solved = False  # the libraries raise nearly anything on hostile text, and none of it is a right answer
        signal.setitimer(signal.ITIMER_PROF, 0)
        last = address_space() > memory / 2  # caches grow, and the next answer shall have the rest for itself
        reply(solved=solved, last=last)
        if last:
            return


if __name__ == "__main__":
    sys.path.insert(0, __file__[: -len("/tasks/gdsd/sandbox/guest/math_worker.py")])
    main()
