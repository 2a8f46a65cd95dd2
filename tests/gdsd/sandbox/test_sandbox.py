"""Untrusted programs at both levels: what they find, what they may take, and what is left of them."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.gdsd.sandbox import bubblewrap, host, levels, users
from tasks.gdsd.sandbox.clocks import Clock, Deadline, LateError
from tasks.gdsd.sandbox.guest import answer, seccomp, wire
from tasks.gdsd.sandbox.host import GoneError, Limits, Route, Sandbox, StartError
from tests.gdsd.sandbox.sandboxes import left_over, way

ROOT = Path(__file__).resolve().parents[3]
MEMORY_MIB = 300 + os.getpid() % 97  # tells this suite's sandboxes apart
LIMITS = Limits(10, MEMORY_MIB, 6, 2)
PATIENCE = 120.0  # seconds, on a busy machine
SYSTEM_PYTHON = Path("/usr/bin/python3.11")
LEVEL = pytest.mark.parametrize("route", ["full", "full as a user", "none"], indirect=True)
FULL = pytest.mark.parametrize("route", ["full", "full as a user"], indirect=True)


@pytest.fixture
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Route]:
    """A level, and for root also the way that another user goes, with an interpreter that such a user may run."""
    level, _, user = request.param.partition(" as ")
    if not user:
        yield way(level)
        return
    if os.geteuid() != 0 or not SYSTEM_PYTHON.exists():
        pytest.skip(f"needs root, which becomes a user, and {SYSTEM_PYTHON}, which a user may run")
    monkeypatch.setattr(bubblewrap, "interpreter", lambda: str(SYSTEM_PYTHON))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sys, "base_exec_prefix", "/usr")
    bubblewrap.files.cache_clear()
    found = Route("full", privileged=False, drop=True)
    try:
        with Sandbox(answer, LIMITS, found) as trial:
            trial.wait_until_ready()
    except StartError as error:
        pytest.skip(f"a user cannot make a sandbox here: {error}")
    else:
        yield found
    finally:
        bubblewrap.files.cache_clear()


@contextmanager
def serving(source: str, route: Route) -> Iterator[tuple[Sandbox, Callable[[], object]]]:
    """A sandbox that has loaded a source, and what calls its f()."""
    clock = Deadline(PATIENCE)
    with Sandbox(answer, LIMITS, route) as side:
        assert load(source, side, clock) == b"1"
        yield side, lambda: call(side, clock)


def load(source: str, side: Sandbox, clock: Clock) -> bytes:
    side.wait_until_ready()
    side.send(json.dumps({"blocks": [source], "prefix": "", "entry_point": "f"}).encode(), clock)
    return side.receive(clock, 100)


def call(side: Sandbox, clock: Clock) -> object:
    side.send(wire.encode(((), {})), clock)
    match wire.decode(side.receive(clock, wire.BYTES)):
        case (True, value):
            return value
        case other:
            raise AssertionError(f"f() raised {other}")


def ask(source: str, route: Route) -> object:
    """Returns what f() of a source gives."""
    with serving(source, route) as (_, f):
        return f()


def refused(harm: str, route: Route) -> bool:
    """Whether a statement raises what the kernel's refusals raise."""
    body = f"try:\n    {harm}\nexcept (OSError, MemoryError):\n    return True\nreturn False"
    return ask("import os, socket\ndef f():\n" + textwrap.indent(body, "    "), route) is True


@LEVEL
def test_a_program_is_nobody_and_finds_nothing(route: Route) -> None:
    """If it fails, a program runs as a person, reads secrets of the environment, or writes to a person's terminal."""
    source = "import os\ndef f(): return os.getuid(), os.getgroups(), dict(os.environ), os.listdir()"
    with serving(source, route) as (side, f):
        uid, groups, environment, files = f()  # type: ignore[misc]
        assert os.getsid(side._process.pid) == side._process.pid, "a new session holds no terminal"
    assert uid >= (1 if os.geteuid() else users.FIRST) and groups in ([], [uid])
    assert (environment, files) == ({}, [])


@LEVEL
@pytest.mark.parametrize(
    "harm",
    [
        f"bytearray({MEMORY_MIB} << 20)",
        f"open('big', 'wb').write(bytes({LIMITS.file_mib + 1} << 20))",
        "os.memfd_create('x')",  # memory that no limit counts
    ],
    ids=["memory", "disk", "files in memory"],
)
def test_resources_are_limited(route: Route, harm: str) -> None:
    """If it fails, a program takes the host's memory or disk."""
    if "memfd" in harm and not seccomp.instructions():
        pytest.skip("no filter of system calls for this machine")
    assert refused(harm, route)


@pytest.mark.parametrize("level", levels.LEVELS)
def test_cpu_time_is_limited(level: host.Level) -> None:
    """If it fails, a program that nobody waits for runs on."""
    clock = Deadline(PATIENCE)
    with Sandbox(answer, Limits(1, MEMORY_MIB, 6, 2), way(level)) as side, pytest.raises(GoneError):
        load("while True: pass", side, clock)
        side.receive(clock, 100)


FORKS = """
import os, time
def f():
    count = 1
    while count < 60:
        try:
            if os.fork() == 0:
                time.sleep(1000)
        except OSError:
            break
        count += 1
    return count
"""


@LEVEL
def test_processes_are_limited_and_counted_for_each_program(route: Route) -> None:
    """If it fails, a fork bomb goes off, or verdicts depend on what else runs."""
    with serving(FORKS, route) as (_, first):
        assert first() == ask(FORKS, route) == LIMITS.processes


@FULL
def test_network_and_files_of_the_host_are_out_of_reach(route: Route, tmp_path: Path) -> None:
    """If it fails, a program sends what it likes to whom it likes, or overwrites what every user may write."""
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/tmp"):
            folder.chmod(0o777)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert refused(f"socket.create_connection({server.getsockname()!r}, 1)", route)
    assert refused(f"open({str(tmp_path / 'new')!r}, 'w')", route)
    assert not list(tmp_path.iterdir())


@FULL
def test_files_of_the_host_cannot_be_read(route: Route) -> None:
    """If it fails, a program reads the tests of its problem, or a person's keys, or walks up from an open folder."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        Path(folder, "secret").write_text("secret")
        source = f"""
import glob, os, stat, sys
def readable(path):
    try:
        return bool(os.listdir(path)) if os.path.isdir(path) else bool(open(path).read())
    except OSError:
        return False
def held(descriptor):
    try:
        return stat.S_ISDIR(os.fstat(descriptor).st_mode)
    except OSError:
        return False
def f():
    paths = ["/etc/passwd", "/home", "/mnt", "/opt", "/run", "/srv", "/sys", "/var", "/dev/shm", "/dev/mem", "/proc"]
    paths += [{folder + "/secret"!r}, {str(ROOT)!r}, *glob.glob("/root/*"), *glob.glob("/root/.[!p]*")]
    for prefix in ("/usr", "/usr/local", sys.base_prefix):
        paths += glob.glob(prefix + "/lib/python*/*-packages")
    return [path for path in paths if readable(path)], list(filter(held, range(64))), os.listdir({bubblewrap.GUEST!r})
"""
        read, open_folders, guests = ask(source, route)  # type: ignore[misc]
    assert not read and not open_folders
    assert {name for name in guests if name != "__pycache__"} == {
        path.name for path in Path(bubblewrap.SCRIPT).parent.glob("*.py")
    }


@FULL
def test_a_folder_of_the_host_among_what_is_shown_is_empty(route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a program reads a project in /usr/src, or data in the folder of an interpreter."""
    monkeypatch.setenv("GDSD_HOME", "/usr/share")
    monkeypatch.setenv("HOME", "/usr")
    bubblewrap.files.cache_clear()
    assert "/usr/share" in bubblewrap.files().covered, "the folder of local run data"
    assert "/usr" not in bubblewrap.files().covered, "nothing would be left to run"
    source = "import os\ndef f(): return os.listdir('/usr/share'), 'bin' in os.listdir('/usr')"
    try:
        assert ask(source, route) == ([], True)
    finally:
        bubblewrap.files.cache_clear()


DAEMON = """
import os, signal, time
def f():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.closerange(0, 64)
            while True:
                time.sleep(1000)
        os._exit(0)
    return os.wait()[1]
"""


@LEVEL
def test_no_process_outlives_its_sandbox(route: Route) -> None:
    """If it fails, daemons pile up on the host, or a long run has no user ids left."""
    with serving(DAEMON, route) as (_, f):
        assert f() == 0
        assert len(users.taken) == (route.privileged or route.drop)
    assert not left_over(MEMORY_MIB) and not users.taken


SCRIPT = """
import json, sys, time
sys.path.insert(0, {root!r})
from tasks.gdsd.sandbox import levels
from tasks.gdsd.sandbox.clocks import Deadline
from tasks.gdsd.sandbox.guest import answer, wire
from tasks.gdsd.sandbox.host import Limits, Sandbox
seconds = {{}}
for level in {levels}:
    route, reason = levels.offered(level)
    if route is None:
        seconds[level] = reason
        continue
    with Sandbox(answer, Limits(100, {memory}, 6, 2), route) as side:
        clock = Deadline(120)
        side.wait_until_ready()
        side.send(json.dumps({{"blocks": [{source!r}], "prefix": "", "entry_point": "f"}}).encode(), clock)
        side.receive(clock, 100)
        side.send(wire.encode(((), {{}})), clock)
        side.receive(clock, 100)
        began = time.monotonic()
        {then}
    seconds[level] = time.monotonic() - began
print(json.dumps(seconds))
"""


@pytest.mark.parametrize("level", levels.LEVELS)
def test_a_sandbox_does_not_outlive_the_host(level: host.Level, tmp_path: Path) -> None:
    """If it fails, a killed run leaves programs behind."""
    way(level)
    memory = MEMORY_MIB + 200
    then = 'print("running", flush=True); time.sleep(1000)'
    script = SCRIPT.format(root=str(ROOT), levels=[level], memory=memory, source=DAEMON, then=then)
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # a killed host cannot remove the program's folder
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout and run.stdout.readline() == "running\n"
        assert left_over(memory)
        run.send_signal(signal.SIGKILL)
    until = time.monotonic() + PATIENCE
    while (left := left_over(memory)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


HOLDING = """
import glob, os
held = []
for path in glob.glob("/proc/[0-9]*/fd/*"):
    for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        try:
            held.append(os.open(path, mode | os.O_NONBLOCK))
        except OSError:
            pass
def f():
    return 1
"""


def test_an_ordinary_user_is_offered_what_holds_for_it() -> None:
    """If it fails, an ordinary user's answers forge verdicts, or stall the scorer by holding their own line open."""
    if os.geteuid() != 0 or not SYSTEM_PYTHON.exists() or shutil.which("setpriv") is None:
        pytest.skip(f"needs root, which becomes a user, setpriv, and {SYSTEM_PYTHON}, which a user may run")
    script = SCRIPT.format(root=str(ROOT), levels=levels.LEVELS, memory=MEMORY_MIB, source=HOLDING, then="pass")
    command = ["setpriv", "--reuid", "4242", "--regid", "4242", "--clear-groups", str(SYSTEM_PYTHON), "-c", script]
    ended = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    seconds = json.loads(ended.stdout)
    assert seconds["none"] == host.ONLY_ROOT
    if isinstance(seconds["full"], str):
        pytest.skip(f"a user cannot make a sandbox here: {seconds}")
    assert seconds["full"] < host.STOP_SECONDS, "it was not ended, but killed after its time"


def test_the_temporary_folder_goes_however_deep_it_is() -> None:
    """If it fails, answers fill the host's temporary folder where there is no sandbox."""
    source = """
import os
here = os.getcwd()
for _ in range(300):
    os.mkdir('d' * 50)
    os.chdir('d' * 50)
os.chmod('.', 0)
os.chmod(here, 0)
def f(): return here
"""
    folder = ask(source, way("none"))
    assert isinstance(folder, str) and host.PREFIX in folder
    assert not os.path.lexists(folder)


@LEVEL
def test_what_a_program_writes_is_bounded(route: Route) -> None:
    """If it fails, a program fills the host's memory through its socket, or holds it up."""
    clock = Deadline(PATIENCE)
    flood = """
import os
while True:
    for descriptor in range(3, 9):
        try:
            os.write(descriptor, b'x' * 65536)
        except OSError:
            pass
"""
    with Sandbox(answer, LIMITS, route) as side:
        load(flood, side, clock)
        with pytest.raises(GoneError):
            side.receive(clock, 1 << 20)
    with Sandbox(answer, LIMITS, route) as side:
        load("import time; time.sleep(1000)", side, clock)
        with pytest.raises(LateError):
            side.receive(Deadline(0.1), 100)
        with pytest.raises(LateError):
            side.send(b"x" * (1 << 20), Deadline(0.1))


def test_a_sandbox_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a broken sandbox counts as a wrong answer."""
    ways = [levels.offered(level)[0] for level in levels.LEVELS]
    monkeypatch.setattr(bubblewrap, "interpreter", lambda: "/no/python")
    for found in ways:
        if found is not None:
            with pytest.raises(StartError), Sandbox(answer, LIMITS, found) as side:
                side.wait_until_ready()


@LEVEL
def test_a_host_without_free_descriptors_says_so(route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, the error of a host with many open files is none of ours, or a user id is never given back."""

    def none_left(*arguments: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", none_left)
    with pytest.raises(StartError, match="Too many"):
        Sandbox(answer, LIMITS, route)
    assert not users.taken
