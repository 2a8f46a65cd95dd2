"""Hostile code: each answer gets its right verdict within the limit, and the host does not notice.

The problem is f(x) = x * x + 1 with three tests. An attack that does its harm and then returns the right values is
solved: what it did must not have worked, which most of them find out themselves and return something else if it did.
"""

import os
import socket
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tasks.gdsd.domains.base import Answer, Verdict
from tasks.gdsd.domains.code import Code, CodeConfig
from tasks.gdsd.sandbox import host
from tests.gdsd.sandbox.sandboxes import left_over, only, unavailable

SECONDS, FILE_MIB, PROCESSES = 2, 2, 6
MEMORY_MIB = 200 + os.getpid() % 97  # on the command line of this suite's sandboxes, so that they are told apart
TOKEN = f"gdsd-attack-{os.getpid()}"
TESTS = Code().read(
    {"problem": "Square and add one.", "tests": ["assert f(2) == 5", "assert f(3) == 10", "assert f(10) == 101"]}
)
RIGHT = "def f(x):\n    return x * x + 1\n"
NOTHING = "def f(x):\n    return None\n"


class Attack(NamedTuple):
    source: str
    share: float = 0.0
    compiles: bool = True
    at: tuple[str, ...] = ("full", "processes")


def unless(condition: str, setup: str = "", **options: object) -> Attack:
    """Right values unless the harm was done."""
    harm = textwrap.indent(textwrap.dedent(setup), "    ")
    return Attack(
        f"def harm():\n{harm}\n    return {condition}\nHARM = harm()\n"
        "def f(x):\n    return x * x + 1 if not HARM else 'harm done'\n",
        1.0,
        **options,  # type: ignore[arg-type]
    )


def before(harm: str, then: str = NOTHING, share: float = 0.0, **options: object) -> Attack:
    """Harm while the code is loaded."""
    return Attack(textwrap.dedent(harm) + "\n" + then, share, **options)  # type: ignore[arg-type]


def inside(body: str, share: float = 0.0, **options: object) -> Attack:
    """Harm when the function is called."""
    return Attack("def f(x):\n" + textwrap.indent(textwrap.dedent(body), "    "), share, **options)  # type: ignore[arg-type]


EVERY_DESCRIPTOR = """
import os
def everywhere(data):
    for descriptor in range(64):
        try:
            os.write(descriptor, data)
        except OSError:
            pass
"""


def attacks(port: int, victim: Path) -> dict[str, Attack]:
    return {
        # time
        "endless loop": inside("while True: pass"),
        "endless loop while loading": before("while True: pass"),
        "sleeps": inside("import time; time.sleep(1000)"),
        "sleeps in the second call": Attack(
            "calls = []\ndef f(x):\n    calls.append(x)\n    while len(calls) == 2: pass\n    return x * x + 1\n", 0.0
        ),
        "a tower of powers": inside("return 9**9**9"),
        "a huge shift": inside("return 1 << (1 << 60)"),
        "a huge integer in decimal": inside("return str(10 ** 5_000_000)"),
        "a huge integer": inside("return 10 ** 300_000"),
        "constant folding": Attack("X = ((((2**64)**64)**64)**64)**64\n" + NOTHING),
        "regular expression": inside("import re; return re.match('(a*)*b', 'a' * 40)"),
        "ignores signals and loops": before(
            """
            import signal
            for number in range(1, 32):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            while True: pass
            """
        ),
        "stops itself": inside("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"),
        "a finaliser that loops": inside(
            "class Loop:\n    def __del__(self):\n        while True: pass\nLoop()\nreturn x * x + 1"
        ),
        "sleeps at exit": before("import atexit, time\natexit.register(time.sleep, 1000)", RIGHT, 1.0),
        "a generator without end": inside("import itertools; return itertools.count()"),
        "colliding hashes": inside("return {(2**61 - 1) * key for key in range(60_000)}"),
        # the compiler
        "deep parentheses": Attack("(" * 100_000 + RIGHT, compiles=False),
        "deep lists": Attack("X = " + "[" * 5000 + "]" * 5000 + "\n" + NOTHING, compiles=False),
        "a chain of signs": Attack("X = " + "-" * 200_000 + "1\n" + NOTHING, compiles=False),
        "a deep chain of attributes": Attack("X = x" + ".x" * 100_000 + "\n", compiles=False),
        "deep blocks": Attack("".join(" " * i + "if 1:\n" for i in range(120)) + " " * 120 + "x = 1\n", compiles=False),
        "unicode digits": inside("return x * x + \N{ARABIC-INDIC DIGIT ONE}", compiles=False),
        "unicode identifiers": Attack("def \N{FULLWIDTH LATIN SMALL LETTER F}(x):\n    return x * x + 1\n", 1.0),
        "a null byte": Attack(RIGHT + "\0", compiles=False),
        "a lone surrogate": Attack("# \ud800\n" + RIGHT, compiles=False),
        "megabytes of source": Attack("x = 1\n" * 500_000 + RIGHT, compiles=False),
        "much source": Attack("# no comment\n" * 15_000 + RIGHT, 1.0),
        "another encoding": Attack("# coding: utf-7\n+AGQ-ef f(x): return None\n", compiles=False),
        # memory
        "memory at once": inside("return len(bytearray(1 << 40))"),
        "memory by and by": inside("kept = []\nwhile True: kept.append(bytearray(1 << 20))"),
        "memory after an error": inside(
            f"""
            kept = []
            try:
                while True: kept.append(bytearray(1 << 20))
            except MemoryError:
                size = len(kept)
            del kept
            return x * x + 1 if size < {MEMORY_MIB} else size
            """,
            1.0,
        ),
        "recursion": inside("return f(x)"),
        "recursion without limit": inside("import sys; sys.setrecursionlimit(10**9); return f(x)"),
        "shared memory without a file": unless(
            "libc.shmget(0, 1 << 20, 0o1600) >= 0", "import ctypes; libc = ctypes.CDLL(None)"
        ),
        # processes
        "fork bomb": before("import os\nwhile True: os.fork()"),
        "fork bomb that goes on": before(
            """
            import os
            while True:
                try:
                    os.fork()
                except OSError:
                    pass
            """
        ),
        "counted forks": unless(
            f"count > {PROCESSES}",
            """
            import os, time
            count = 0
            while count < 100:
                try:
                    if os.fork() == 0:
                        time.sleep(1000)
                except OSError:
                    break
                count += 1
            """,
        ),
        "thread bomb": unless(
            f"count > {PROCESSES}",
            """
            import threading, time
            count = 0
            while count < 100:
                try:
                    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
                except (RuntimeError, MemoryError):
                    break
                count += 1
            """,
        ),
        "a daemon": before(
            """
            import os, signal, time
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    for number in range(1, 32):
                        try:
                            signal.signal(number, signal.SIG_IGN)
                        except (OSError, ValueError):
                            pass
                    os.closerange(0, 64)
                    while True:
                        time.sleep(1000)
                os._exit(0)
            """,
            RIGHT,
            1.0,
        ),
        "a daemon that holds the pipes": before(
            """
            import os, time
            if os.fork() == 0:
                os.setsid()
                time.sleep(1000)
            os._exit(0)
            """
        ),
        "another program": inside("import os; os.execv('/bin/sh', ['sh', '-c', 'while true; do :; done'])"),
        "kills all": before("import os\ntry:\n    os.kill(-1, 9)\nexcept OSError:\n    pass", RIGHT, 1.0),
        "kills its parent": before("import os\ntry:\n    os.kill(os.getppid(), 9)\nexcept OSError: pass", RIGHT, 1.0),
        "kills its group": before("import os\nos.killpg(0, 9)", RIGHT),
        "kills the host": before(
            f"""
            import os
            for pid in (1, {os.getpid()}, {os.getppid()}):
                for number in (15, 9):
                    try:
                        os.kill(pid, number)
                    except OSError:
                        pass
            """,
            RIGHT,
            1.0,
        ),
        "kills itself": inside("import os; os.kill(os.getpid(), 9)"),
        # files
        "writes to the host": unless(
            "False",
            f"""
            import os
            for folder in ("/", "/tmp", "/var/tmp", "/dev/shm", "/run", "/home", "/root", "/usr", {str(victim)!r}):
                try:
                    with open(os.path.join(folder, {TOKEN!r}), "w") as file:
                        file.write("x")
                except OSError:
                    pass
            """,
        ),
        "deletes": unless("False", f"import shutil; shutil.rmtree({str(victim)!r}, ignore_errors=True)"),
        "a link to a file of the host": unless(
            "False",
            f"""
            import os
            os.symlink({str(victim / "kept")!r}, "link")
            try:
                open("link", "w").write("overwritten")
            except OSError:
                pass
            """,
        ),
        "a big file": unless(
            f"os.path.getsize('big') > {FILE_MIB} << 20",
            """
            import os
            try:
                with open("big", "wb") as file:
                    while True:
                        file.write(bytes(1 << 20))
            except OSError:
                pass
            """,
        ),
        "many files": unless(
            f"size > {FILE_MIB} << 20",
            """
            size = 0
            try:
                for number in range(200):
                    with open(f"file{number}", "wb") as file:
                        file.write(bytes(1 << 18))
                    size += 1 << 18
            except OSError:
                pass
            """,
        ),
        "the folder is not empty": unless("os.listdir()", "import os"),
        "a deep tree": unless(
            "False", "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nos.chmod('.', 0)"
        ),
        "the passwords": unless(
            "found",
            """
            found = False
            for path in ("/etc/shadow", "/root/.bashrc", "/root/.ssh", "/etc/sudoers"):
                try:
                    found = found or bool(open(path).read())
                except OSError:
                    pass
            """,
        ),
        "the list of users": unless("os.path.exists('/etc/passwd')", "import os"),
        "the project": unless("os.path.exists('/work')", "import os"),
        "a readable file of the host": unless(f"os.path.exists({str(victim / 'kept')!r})", "import os"),
        "environment": unless(
            "secret",
            """
            import glob, os
            secret = bool(os.environ) or os.getenv("GDSD_SECRET") is not None
            for path in glob.glob("/proc/[0-9]*/environ"):
                try:
                    secret = secret or b"GDSD_SECRET" in open(path, "rb").read()
                except OSError:
                    pass
            """,
        ),
        "processes of others": unless(
            f"len(pids) > {PROCESSES} or {os.getpid()} in pids",
            """
            import os
            try:
                pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
            except OSError:
                pids = []
            """,
        ),
        "sets its own user": unless(
            "done",
            """
            import os
            done = os.getuid() == 0
            for change in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.chroot("/")):
                try:
                    change()
                    done = True
                except OSError:
                    pass
            """,
        ),
        "raises its limits": unless(
            "raised",
            """
            import resource
            raised = False
            for what in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
                try:
                    resource.setrlimit(what, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                    raised = True
                except (ValueError, OSError):
                    pass
            """,
        ),
        "namespaces of its own": unless(
            "any(libc.unshare(flag) == 0 for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000))",
            "import ctypes; libc = ctypes.CDLL(None)",
        ),
        # the network
        "a connection": unless(
            "connected",
            f"""
            import socket
            connected = False
            for address in (("127.0.0.1", {port}), ("localhost", {port})):
                try:
                    socket.create_connection(address, 1)
                    connected = True
                except OSError:
                    pass
            """,
        ),
        "an abstract socket": unless(
            "connected",
            f"""
            import socket
            connected = True
            try:
                socket.socket(socket.AF_UNIX).connect(chr(0) + {TOKEN!r})
            except OSError:
                connected = False
            """,
        ),
        "opens its own descriptors anew": before(
            """
            import os
            held = []
            for number in range(64):
                for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                    try:
                        held.append(os.open(f"/proc/self/fd/{number}", mode | os.O_NONBLOCK))
                    except OSError:
                        pass
            """,
            RIGHT,
            1.0,
        ),
        "the other side's descriptors": before(
            """
            import glob, os
            for path in glob.glob("/proc/[0-9]*/fd/*"):
                if path.split("/")[2] not in ("self", str(os.getpid())):
                    try:
                        os.write(os.open(path, os.O_WRONLY | os.O_NONBLOCK), b"V111\\n")
                    except OSError:
                        pass
            """
        ),
        "files in memory": unless(
            "done",
            """
            import os
            try:
                done = os.memfd_create("x") >= 0
            except OSError:
                done = False
            """,
        ),
        # the verdict
        "raises the end of a loop": inside("raise StopIteration"),
        "prints a verdict": before("print('V111')\nprint('ok')"),
        "writes a verdict to every descriptor": before(EVERY_DESCRIPTOR + "everywhere(b'V111\\n')"),
        "writes one reply again and again": before(
            EVERY_DESCRIPTOR + "everywhere(b'{\"tuple\":[true,5]}\\n' * 3)", share=1 / 3
        ),
        "writes without end": before(EVERY_DESCRIPTOR + "while True: everywhere(b'x' * 65536)"),
        "writes lines without end": before(EVERY_DESCRIPTOR + "while True: everywhere(b'\\n' * 4096)"),
        "writes deep JSON": before(EVERY_DESCRIPTOR + "everywhere(b'[' * 50_000 + b'\\n')"),
        "writes half a line": before(EVERY_DESCRIPTOR + "everywhere(b'{\"tuple\":[true,')"),
        "a tag with a wrong body": before(EVERY_DESCRIPTOR + "everywhere(b'{\"set\":[[1]]}\\n' * 3)"),
        "prints hundreds of megabytes": before("for _ in range(300): print('x' * 1_000_000)", RIGHT, 1.0),
        "leaves while loading": before("import sys\nsys.exit(0)"),
        "leaves at once while loading": before("import os\nos._exit(0)"),
        "leaves": inside("import sys; sys.exit(0)"),
        "leaves at once": inside("import os; os._exit(0)"),
        "leaves after the first call": Attack(
            "import os\ncalls = []\ndef f(x):\n    calls.append(x)\n    if len(calls) > 1:\n        os._exit(0)\n"
            "    return x * x + 1\n",
            1 / 3,
        ),
        "raises what ends programs": inside("raise KeyboardInterrupt"),
        "raises itself": inside("raise AssertionError('passed')"),
        "an exception that cannot be shown": inside(
            "class Odd(Exception):\n    def __str__(self):\n        raise SystemExit\nraise Odd"
        ),
        "equal to everything": inside("class Any:\n    def __eq__(self, other): return True\nreturn Any()"),
        "an integer equal to everything": inside(
            "class Any(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\nreturn Any(0)"
        ),
        "an integer with another value for each reader": inside(
            "class Any(int):\n    def __index__(self): return x * x + 1\n    __int__ = __index__\nreturn Any(0)"
        ),
        "an unhashable key": inside("class Any(dict): pass\nreturn {1: Any()}"),
        "a list that holds itself": inside("kept = []\nkept.append(kept)\nreturn kept"),
        "a deep list": inside("deep = []\nfor _ in range(100_000): deep = [deep]\nreturn deep"),
        "not a number": inside("return float('nan')"),
        "infinity": inside("return float('inf')"),
        "megabytes": inside("return 'x' * (5 << 20)"),
        "a coroutine": Attack("async def f(x):\n    return x * x + 1\n"),
        "patched builtins": before(
            """
            import builtins
            builtins.AssertionError = type("Never", (Exception,), {})
            builtins.all = builtins.any = builtins.isinstance = lambda *arguments: True
            """
        ),
        "patched encoder": before(
            """
            import sys
            for name, module in list(sys.modules.items()):
                if name.endswith("wire"):
                    module.encode = lambda value: b'{"tuple":[true,true]}'
            """
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
            """
            import os
            for descriptor in range(64):
                try:
                    os.set_blocking(descriptor, False)
                    os.read(descriptor, 1 << 16)
                except OSError:
                    pass
            """,
            NOTHING,
        ),
        "reads standard input": inside("import os; return x * x + 1 + len(os.read(0, 100))", 1.0),
        "asks for input": inside("return input()"),
        "a segmentation fault": inside("import ctypes; return ctypes.string_at(0)"),
        "an abort": inside("import os; os.abort()"),
        "out of file descriptors": before(
            "import os\ntry:\n    while True: os.dup(0)\nexcept OSError:\n    pass", RIGHT, 1.0
        ),
        "threads that write": before(
            EVERY_DESCRIPTOR
            + "import threading\nthreading.Thread(target=lambda: [everywhere(b'x') for _ in range(10**9)]).start()"
        ),
    }


class Witness:
    """A server that hopes for no connection."""

    def __init__(self) -> None:
        self.sockets = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
        self.sockets[1].bind("\0" + TOKEN)
        self.sockets[1].listen()
        self.port = self.sockets[0].getsockname()[1]
        self.connections = 0
        for one in self.sockets:
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        while True:
            try:
                one.accept()
            except OSError:
                return
            self.connections += 1


class Battle(NamedTuple):
    """What came of all attacks at a level."""

    verdicts: dict[str, Verdict]
    seconds: float
    connections: int
    processes: list[str]
    files: list[Path]
    kept: str


@pytest.fixture(scope="module", params=["full", "processes"])
def battle(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, Attack], Battle]]:
    level: host.Level = request.param
    if reason := unavailable(level):
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        patch.setenv("GDSD_SECRET", "secret")
        only(level, patch)
        victim = Path(folder)
        victim.chmod(0o777)
        (victim / "kept").write_text("kept")
        (victim / "kept").chmod(0o666)
        witness = Witness()
        chosen = {name: attack for name, attack in attacks(witness.port, victim).items() if level in attack.at}
        code = Code(
            CodeConfig(
                isolation="processes",
                seconds=SECONDS,
                memory_mib=MEMORY_MIB,
                processes=PROCESSES,
                file_mib=FILE_MIB,
                workers=4,
            )
        )
        began = time.monotonic()
        items = [Answer(*TESTS, f"Here it is:\n```python\n{attack.source}```\n") for attack in chosen.values()]
        verdicts = dict(zip(chosen, code.verify_all(items), strict=True))
        seconds = time.monotonic() - began
        files = [
            path
            for place in ("/", "/tmp", "/var/tmp", "/dev/shm", "/run", "/home", "/root", "/usr", folder)
            if (path := Path(place, TOKEN)).exists()
        ]
        kept = (victim / "kept").read_text() if (victim / "kept").exists() else "gone"
        result = Battle(verdicts, seconds, witness.connections, left_over(MEMORY_MIB), files, kept)
        for one in witness.sockets:
            one.shutdown(socket.SHUT_RDWR)  # or the waiting thread would keep it
            one.close()
        yield level, chosen, result


def test_there_are_enough_attacks() -> None:
    """If it fails, attacks were dropped that the documents still count."""
    assert len(attacks(1, Path("/tmp"))) >= 80


def test_every_attack_gets_its_verdict(battle: tuple[str, dict[str, Attack], Battle]) -> None:
    """If it fails, a policy learns to attack the verifier instead of solving problems."""
    level, chosen, result = battle
    wrong = {
        name: dict(result.verdicts[name].parts)
        for name, attack in chosen.items()
        if result.verdicts[name].parts["tests"] != pytest.approx(attack.share)
        or result.verdicts[name].solved != (attack.share == 1.0)
    }
    assert not wrong, f"verdicts at level {level} that differ from the expected"


def test_the_format_is_judged_before_the_code_runs(battle: tuple[str, dict[str, Attack], Battle]) -> None:
    """If it fails, an answer can say of itself that it compiles, or the host's compiler is exposed to it."""
    _, chosen, result = battle
    formats = {name: result.verdicts[name].parts["format"] == 1.0 for name in chosen}
    assert formats == {name: attack.compiles for name, attack in chosen.items()}


def test_the_host_is_untouched(battle: tuple[str, dict[str, Attack], Battle]) -> None:
    """If it fails, an answer reached outside of its sandbox."""
    _, _, result = battle
    assert not result.connections, "an answer connected to a server of the host"
    assert not result.processes, "processes of answers are left"
    assert not result.files, "an answer wrote files of the host"
    assert result.kept == "kept", "an answer changed or deleted a file of the host"


def test_attacks_do_not_outstay_their_time(battle: tuple[str, dict[str, Attack], Battle]) -> None:
    """If it fails, hostile answers hold up the scoring of all others."""
    _, chosen, result = battle
    assert result.seconds < len(chosen) * (SECONDS + 1) / 4 + 10
