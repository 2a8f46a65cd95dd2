"""Hostile answers by kind, with the verdict that each must get.

The problem is f(x) = x * x + 1 with three tests. An attack that does its harm and then returns the right values is
solved: what it did must not have worked, which most of them find out themselves and return something else if it did.
"""

import os
import textwrap
from pathlib import Path
from typing import NamedTuple

from tasks.gdsd.sandbox import bubblewrap

FILE_MIB, PROCESSES = 2, 6
MEMORY_MIB = 200 + os.getpid() % 97  # on the command line of this suite's sandboxes, so that they are told apart
TOKEN = f"gdsd-attack-{os.getpid()}"
PLACES = ("/", "/var/tmp", "/dev/shm", "/run", "/home", "/root", "/usr")
RIGHT = "def f(x):\n    return x * x + 1\n"
FENCES = "```\n```python\n"  # the end of a block and the beginning of the next
NOTHING = "def f(x):\n    return None\n"


class Attack(NamedTuple):
    source: str
    share: float = 0.0
    compiles: bool = True
    endless: bool = False  # it runs until its time is up


def unless(condition: str, setup: str = "", **options: object) -> Attack:
    """Right values unless the harm was done."""
    harm = textwrap.indent(textwrap.dedent(setup), "    ")
    return Attack(
        f"def harm():\n{harm}\n    return {condition}\nHARM = harm()\n"
        "def f(x):\n    return x * x + 1 if not HARM else 'harm done'\n",
        1.0,
        **options,  # type: ignore[arg-type]
    )


def any_of(*statements: str) -> Attack:
    """Right values unless one of the statements is not refused."""
    tries = "".join(
        f"try:\n    {statement}\n    done = True\nexcept (OSError, ValueError):\n    pass\n" for statement in statements
    )
    return unless("done", f"import os, resource, socket\ndone = False\n{tries}")


def before(harm: str, then: str = NOTHING, share: float = 0.0, **options: object) -> Attack:
    """Harm while the code is loaded."""
    return Attack(textwrap.dedent(harm) + "\n" + then, share, **options)  # type: ignore[arg-type]


def inside(body: str, share: float = 0.0, **options: object) -> Attack:
    """Harm when the function is called."""
    return Attack("def f(x):\n" + textwrap.indent(textwrap.dedent(body), "    "), share, **options)  # type: ignore[arg-type]


EVERY_DESCRIPTOR = """
import os
def everywhere(act):
    for descriptor in range(64):
        try:
            act(descriptor)
        except OSError:
            pass
"""


def write(data: str, **options: object) -> Attack:
    """Writes to every descriptor while the code is loaded."""
    return before(EVERY_DESCRIPTOR + f"everywhere(lambda descriptor: os.write(descriptor, {data}))", **options)  # type: ignore[arg-type]


def time() -> dict[str, Attack]:
    """To take more of it than there is, or to be late without having used it."""
    work = "for _ in range(300_000): pass\n                os._exit(0)\n"
    forks = "import os, time\ndef f(x):\n    while True:\n        try:\n            if os.fork() == 0:\n"
    forks += f"                {work}        except OSError: time.sleep(0.001)\n"
    return {
        "an endless loop": inside("while True: pass", endless=True),
        "stops itself": inside("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", endless=True),
        "an endless loop while loading": before("while True: pass", endless=True),
        "sleeps": inside("import time; time.sleep(1000)", endless=True),
        "a tower of powers": inside("return 9**9**9", endless=True),
        "constant folding": before("X = ((((2**64)**64)**64)**64)**64", endless=True),
        "ignores signals and loops": before(
            EVERY_DESCRIPTOR + "import signal\neverywhere(lambda number: number % 32 in (0, 9, 19)"
            " or signal.signal(number % 32, signal.SIG_IGN))\nwhile True: pass",
            endless=True,
        ),
        "a finaliser that loops": inside(
            "class Loop:\n    def __del__(self):\n        while True: pass\nLoop()\nreturn x * x + 1", endless=True
        ),
        "sleeps at exit": before("import atexit, time\natexit.register(time.sleep, 1000)", RIGHT, 1.0),
        "sleeps again and again": inside("import time\nwhile True: time.sleep(0.01)", endless=True),
        "waits for itself": inside(
            "import threading; lock = threading.Lock()\nwhile lock.acquire(): pass", endless=True
        ),
        "spreads its work": Attack(forks + "        else: os.wait()\n", endless=True),
        "spreads its work and hides it": before(
            "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)", forks, endless=True
        ),
        "lets others go first": any_of(
            "os.nice(19)",
            "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))",
            "os.sched_setaffinity(0, os.sched_getaffinity(0))",
        ),
        "colliding hashes": inside("return {(2**61 - 1) * key for key in range(60_000)}", endless=True),
    }


def compiler() -> dict[str, Attack]:
    """To crash or confuse it."""
    return {
        "deep parentheses": Attack("(" * 100_000 + RIGHT, compiles=False),
        "another encoding": Attack("# coding: utf-7\n+AGQ-ef f(x): return None\n", compiles=False),
        "a deep chain of attributes": Attack("X = x" + ".x" * 100_000 + "\n", compiles=False),
        "Arabic digits": inside("return x * x + \N{ARABIC-INDIC DIGIT ONE}", compiles=False),
        "fullwidth names": Attack("def \N{FULLWIDTH LATIN SMALL LETTER F}(x):\n    return x * x + 1\n", 1.0),
        "a null byte": Attack(RIGHT + "\0", compiles=False),
        "a lone surrogate": Attack("# \ud800\n" + RIGHT, compiles=False),
        "megabytes of source": Attack("x = 1\n" * 500_000 + RIGHT, compiles=False),
        "a block that does not compile behind the right one": Attack(f"{RIGHT}{FENCES}{'(' * 100_000}\n", 1.0),
        "a right block before many": Attack(RIGHT + f"{FENCES}x = 1\n" * 5_000, 1.0),
        "the function in a text": Attack(f"{RIGHT}{FENCES}'''\ndef f(x): return 5\n'''\nf(1)\n", 1.0),
        "much source": Attack("# no comment\n" * 15_000 + RIGHT, 1.0),
    }


def memory() -> dict[str, Attack]:
    """To take more of it than there is."""
    return {
        "at once": inside("return len(bytearray(1 << 40))"),
        "files in memory": any_of("os.memfd_create('x')"),
        "recursion without limit": inside("import sys; sys.setrecursionlimit(10**9); return f(x)", endless=True),
        "by and by, and then the answer": inside(
            "kept = []\ntry:\n    while True: kept.append(bytearray(1 << 20))\nexcept MemoryError: size = len(kept)\n"
            f"del kept\nreturn x * x + 1 if size < {MEMORY_MIB} else size",
            1.0,
        ),
        "shared memory without a file": unless(
            "libc.shmget(0, 1 << 20, 0o1600) >= 0", "import ctypes; libc = ctypes.CDLL(None)"
        ),
    }


def processes() -> dict[str, Attack]:
    """To start too many, to outlive the sandbox, or to end what is not its own."""
    fork = "import os, time\nif os.fork() == 0:\n    os.setsid()\n"
    return {
        "a fork bomb": before("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", endless=True),
        "a daemon": before(fork + "    os.closerange(0, 64)\n    time.sleep(1000)", RIGHT, 1.0),
        "a daemon that holds the sockets": before(fork + "    time.sleep(1000)\nos._exit(0)"),
        "a thread bomb": unless(
            f"threading.active_count() > {PROCESSES}",
            "import threading, time\ntry:\n    while threading.active_count() < 100:\n"
            "        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
            "except (RuntimeError, MemoryError): pass",
        ),
        "another program": inside(
            "import os; os.execv('/bin/sh', ['sh', '-c', 'while true; do :; done'])", endless=True
        ),
        "kills all": before("import os\ntry: os.kill(-1, 9)\nexcept OSError: pass", RIGHT, 1.0),
        "kills its group": before("import os\nos.killpg(0, 9)", RIGHT),
        "kills the host": before(
            "import os\n"
            + "".join(
                f"try: os.kill({pid}, {number})\nexcept OSError: pass\n"
                for pid in (1, os.getpid(), os.getppid())
                for number in (15, 9)
            ),
            RIGHT,
            1.0,
        ),
        "kills itself": inside("import os; os.kill(os.getpid(), 9)"),
    }


def files(victim: Path) -> dict[str, Attack]:
    """To read, write, delete or fill them."""
    kept = str(victim / "kept")
    secrets = ("/etc/passwd", "/etc/shadow", "/root/.ssh", "/root/.bashrc", f"{bubblewrap.ROOT}/pyproject.toml", kept)
    return {
        "writes to the host": any_of(*(f"open('{folder}/{TOKEN}', 'w')" for folder in (*PLACES, victim))),
        "reads the host": any_of(*(f"os.stat({path!r})" for path in secrets)),
        "deletes": unless("False", f"import shutil; shutil.rmtree({str(victim)!r}, ignore_errors=True)"),
        "a link to a file of the host": any_of(f"os.symlink({kept!r}, 'link'); open('link', 'w')"),
        "many files": any_of(f"[open(str(n), 'wb').write(bytes(1 << 18)) for n in range({FILE_MIB} * 4 + 1)]"),
        "the folder is not empty": unless("os.listdir()", "import os"),
        "the packages of the tests": any_of("os.stat('/guest/packages/numpy')"),
        "a deep tree": unless(
            "False", "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nos.chmod('.', 0)"
        ),
    }


def host(port: int) -> dict[str, Attack]:
    """To reach its network, its processes, and what its root may."""
    return {
        "a connection": any_of(
            *(f"socket.create_connection(({name!r}, {port}), 1)" for name in ("127.0.0.1", "localhost"))
        ),
        "processes of others": any_of("os.listdir('/proc')"),
        "an abstract socket": any_of(f"socket.socket(socket.AF_UNIX).connect(chr(0) + {TOKEN!r})"),
        "another user": any_of("os.setuid(0)", "os.setgid(0)", "os.chroot('/')"),
        "higher limits": any_of(
            *(f"resource.setrlimit(resource.RLIMIT_{what}, (-1, -1))" for what in ("CPU", "AS", "NPROC", "FSIZE"))
        ),
        "namespaces of its own": unless(
            "any(libc.unshare(flag) == 0 for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000))",
            "import ctypes; libc = ctypes.CDLL(None)",
        ),
        "secrets of the environment": unless("os.environ", "import os"),
    }


def verdict() -> dict[str, Attack]:
    """To write it, or to confuse who gives it."""
    equal = "class Any{}:\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\nreturn Any()"
    standard = "import collections, datetime, decimal, fractions\n" + equal
    huge = "property(lambda self: (1 << 6_000_000) + {})"
    return {
        "writes a verdict everywhere": write("b'V111\\n'"),
        "equal to everything": inside(equal.format("")),
        "leaves at once": inside("import os; os._exit(0)"),
        "prints a verdict": before("print('V111')\nprint('ok')"),
        "the other side's descriptors": before(
            """
            import glob, os
            for path in glob.glob("/proc/[0-9]*/fd/*"):
                try:
                    os.write(os.open(path, os.O_WRONLY | os.O_NONBLOCK), b"V111\\n")
                except OSError:
                    pass
            """
        ),
        "raises the end of a loop": inside("raise StopIteration"),
        "raises what ends programs": inside("raise KeyboardInterrupt"),
        "an exception that cannot be shown": inside(
            "class Odd(Exception):\n    def __str__(self):\n        raise SystemExit\nraise Odd"
        ),
        "writes one reply again and again": write("b'{\"tuple\":[true,5]}\\n' * 3", share=1 / 3),
        "writes without end": write(
            "b'x' * 65536", then="while True: everywhere(lambda one: os.write(one, b'x' * 65536))"
        ),
        "writes deep JSON": write("b'[' * 50_000 + b'\\n'"),
        "writes half a line": write("b'{\"tuple\":[true,'"),
        "a tag with a wrong body": write("b'{\"set\":[[1]]}\\n' * 3"),
        "prints hundreds of megabytes": before("for _ in range(300): print('x' * 1_000_000)", RIGHT, 1.0),
        "leaves while loading": before("import sys\nsys.exit(0)"),
        "leaves after the first call": inside(
            "import os\nf.calls = vars(f).get('calls', 0) + 1\nif f.calls > 1: os._exit(0)\nreturn x * x + 1", 1 / 3
        ),
        "an integer equal to everything": inside(equal.format("(int)")),
        "a date equal to everything": inside(standard.format("(datetime.date)").replace("Any()", "Any(1, 1, 1)")),
        "a number equal to everything": inside(standard.format("(fractions.Fraction)")),
        "a decimal equal to everything": inside(standard.format("(decimal.Decimal)")),
        "a counter equal to everything": inside(standard.format("(collections.Counter)")),
        "an iterator equal to everything": inside(
            equal.format("").replace("return Any", "    __next__ = int\nreturn Any")
        ),
        "a class for a number": inside("return int"),
        "a decimal beyond all digits": inside("import decimal; return decimal.Decimal('1e999999999')"),
        "a fraction that takes minutes to reduce": inside(
            "import fractions\nclass Any(fractions.Fraction):\n"
            f"    numerator = {huge.format(1)}\n    denominator = {huge.format(3)}\nreturn Any()",
            endless=True,
        ),
        "an iterator that was never given": write('b\'{"tuple":[true,{"iterator":7}]}\\n\' * 3'),
        "an integer with another value for each reader": inside(
            "class Any(int):\n    def __index__(self): return x * x + 1\n    __int__ = __index__\nreturn Any(0)"
        ),
        "an unhashable key": inside("class Any(dict): pass\nreturn {1: Any()}"),
        "a list that holds itself": inside("kept = []\nkept.append(kept)\nreturn kept"),
        "a deep list": inside("deep = []\nfor _ in range(100_000): deep = [deep]\nreturn deep"),
        "a generator without end": inside("import itertools; return itertools.count()"),
        "not a number": inside("return float('nan')"),
        "megabytes": inside("return 'x' * (5 << 20)"),
        "a huge integer": inside("return 10 ** 300_000"),
        "a coroutine": Attack("async def f(x):\n    return x * x + 1\n"),
        "patched builtins": before(
            "import builtins\nbuiltins.AssertionError = type('Never', (Exception,), {})\n"
            "builtins.all = builtins.any = builtins.isinstance = lambda *arguments: True"
        ),
        "a patched encoder": before(
            "import sys\nfor name, module in list(sys.modules.items()):\n    if name.endswith('wire'):\n"
            "        module.encode = lambda value: b'{\"tuple\":[true,true]}'"
        ),
        "looks for the tests": inside(
            """
            import gc, sys
            needle = " ".join(["assert", "f(2)"])
            frame = sys._getframe().f_back
            values = list(gc.get_objects())
            while frame is not None:
                values += frame.f_locals.values()
                frame = frame.f_back
            if any(needle in repr(value)[:10_000] for value in values if isinstance(value, (str, list, dict, tuple))):
                return x * x + 1
            """
        ),
        "empties the modules": before("import sys\nsys.modules.clear()", RIGHT, 1.0),
        "closes every descriptor": before("import os\nos.closerange(0, 64)", RIGHT),
        "reads the questions": before(
            EVERY_DESCRIPTOR
            + "everywhere(lambda one: os.set_blocking(one, False))\neverywhere(lambda one: os.read(one, 1 << 16))"
        ),
        "reads standard input": inside("import os; return x * x + 1 + len(os.read(0, 100))", 1.0),
        "a segmentation fault": inside("import ctypes; return ctypes.string_at(0)"),
        "an abort": inside("import os; os.abort()"),
        "out of file descriptors": before(
            "import os\ntry:\n    while True: os.dup(0)\nexcept OSError: pass", RIGHT, 1.0
        ),
        "threads that write": before(
            EVERY_DESCRIPTOR
            + "import threading\ndef flood():\n    while True: everywhere(lambda one: os.write(one, b'x'))\n"
            "threading.Thread(target=flood).start()"
        ),
    }


def kinds(port: int, victim: Path) -> list[dict[str, Attack]]:
    """Returns all attacks by kind, the most telling ones first.

    Args:
        port: of a server of the host.
        victim: a folder of the host with a file `kept`, which every user may write.
    """
    return [time(), compiler(), memory(), processes(), files(victim), host(port), verdict()]
