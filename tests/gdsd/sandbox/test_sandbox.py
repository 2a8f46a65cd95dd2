"""The sandbox at every level that this system offers, and the values that cross between two of them."""

import builtins
import contextlib
import errno
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.gdsd.errors import GdsdError, SandboxError
from tasks.gdsd.sandbox import host as sandbox
from tasks.gdsd.sandbox.guest import answer, seccomp, wire
from tasks.gdsd.sandbox.host import GoneError, LateError, Limits, Route, Sandbox, StartError
from tests.gdsd.sandbox.sandboxes import left_over, unavailable

ROOT = Path(__file__).resolve().parents[3]
MEMORY_MIB = 300 + os.getpid() % 97  # tells this suite's sandboxes apart
LIMITS = Limits(10, MEMORY_MIB, 6, 2)
PATIENCE = 20.0
SYSTEM_PYTHON = Path("/usr/bin/python3.11")


@pytest.fixture(params=[*sandbox.LEVELS, "full as a user", "processes as a user"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Route]:
    """Each level, and for root also the way that another user goes, with an interpreter that such a user may run."""
    level, _, user = request.param.partition(" as ")
    if not user:
        if reason := unavailable(level):
            pytest.skip(reason)
        found, _ = sandbox.offered(level)
        assert found is not None
        yield found
        return
    if os.geteuid() != 0 or not SYSTEM_PYTHON.exists():
        pytest.skip(f"needs root, which becomes a user, and {SYSTEM_PYTHON}, which a user may run")
    monkeypatch.setattr(sandbox, "_interpreter", lambda: str(SYSTEM_PYTHON))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sys, "base_exec_prefix", "/usr")
    sandbox._files.cache_clear()
    found = Route(level, privileged=False, drop=True)
    try:
        with Sandbox(answer, LIMITS, found) as trial:
            trial.wait_until_ready()
    except StartError as error:
        pytest.skip(f"a user cannot make a sandbox of level {level!r} here: {error}")
    else:
        yield found
    finally:
        sandbox._files.cache_clear()


def load(source: str, side: Sandbox, deadline: float) -> bytes:
    side.wait_until_ready()
    side.send(json.dumps({"source": source, "prefix": "", "entry_point": "f"}).encode(), deadline)
    return side.receive(deadline, 100)


def ask(source: str, route: Route, limits: Limits = LIMITS) -> object:
    """Returns what f() of a source gives in a sandbox."""
    deadline = time.monotonic() + PATIENCE
    with Sandbox(answer, limits, route) as side:
        assert load(source, side, deadline) == b"1"
        side.send(wire.encode(((), {})), deadline)
        match wire.decode(side.receive(deadline, wire.BYTES)):
            case (True, value):
                return value
            case other:
                raise AssertionError(f"f() raised {other}")


def test_a_program_is_nobody_and_finds_nothing(route: Route) -> None:
    """If it fails, a program runs as a person, or reads the environment's secrets, or another program's files."""
    source = "import os\ndef f(): return os.getuid(), os.getgroups(), dict(os.environ), os.listdir()"
    uid, groups, environment, files = ask(source, route)  # type: ignore[misc]
    assert uid != 0
    if os.geteuid() == 0:
        assert uid >= sandbox.FIRST_UID
    assert groups in ([], [uid])
    assert (environment, files) == ({}, [])


def test_a_program_has_no_terminal(route: Route) -> None:
    """If it fails, a program writes to the terminal of the person who runs the pipeline.

    Only a session can hold a terminal, and a new one holds none. A session's number means nothing in the program's
    own process namespace, or in ours if its leader is outside, so the leader is asked for from here.
    """
    with Sandbox(answer, LIMITS, route) as side:
        side.wait_until_ready()
        assert os.getsid(side._process.pid) == side._process.pid


def test_cpu_time_is_limited(route: Route) -> None:
    """If it fails, a program that nobody waits for runs on."""
    deadline = time.monotonic() + PATIENCE
    with Sandbox(answer, Limits(1, MEMORY_MIB, 6, 2), route) as side, pytest.raises(GoneError):
        load("while True: pass", side, deadline)
        side.receive(deadline, 100)
    assert time.monotonic() < deadline


def test_memory_is_limited(route: Route) -> None:
    """If it fails, a program takes the host's memory."""
    source = f"""
def f():
    try:
        bytearray({MEMORY_MIB} << 20)
    except MemoryError:
        return 'refused'
"""
    assert ask(source, route) == "refused"


def test_processes_are_limited(route: Route) -> None:
    """If it fails, a fork bomb goes off. Where processes of a user are counted together, others may end meanwhile."""
    source = """
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
    count = ask(source, route)
    assert isinstance(count, int)
    assert 2 <= count <= 6 + (10 if route.level == "limits" and os.geteuid() else 0)


def test_two_sandboxes_do_not_count_each_others_processes(route: Route) -> None:
    """If it fails, verdicts depend on what else runs."""
    source = "import os, time\nfor _ in range(5):\n    if os.fork() == 0:\n        time.sleep(1000)\ndef f(): return 1"
    deadline = time.monotonic() + PATIENCE
    with Sandbox(answer, LIMITS, route) as first:
        assert load(source, first, deadline) == b"1"
        first.send(wire.encode(((), {})), deadline)
        first.receive(deadline, 1000)
        assert ask(source, route) == 1


def test_files_are_limited(route: Route) -> None:
    """If it fails, a program fills the disk."""
    source = """
import os
def f():
    try:
        with open('big', 'wb') as file:
            while True:
                file.write(bytes(1 << 16))
    except OSError:
        return os.path.getsize('big')
"""
    assert ask(source, route) <= 2 << 20  # type: ignore[operator]


def test_the_network_is_out_of_reach(route: Route) -> None:
    """If it fails, a program sends what it likes to whom it likes."""
    if route.level == "limits":
        pytest.skip("the level `limits` does not confine the network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = f"""
import socket
def f():
    try:
        socket.create_connection(("127.0.0.1", {port}), 1)
    except OSError:
        return 'refused'
"""
        assert ask(source, route) == "refused"


def test_files_of_the_host_cannot_be_written(route: Route, tmp_path: Path) -> None:
    """If it fails, a program overwrites what is there, even where every user may write."""
    if route.level == "limits":
        pytest.skip("the level `limits` does not confine files")
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/tmp"):
            folder.chmod(0o777)
    source = f"""
def f():
    try:
        open({str(tmp_path / "new")!r}, 'w')
    except OSError:
        return 'refused'
"""
    assert ask(source, route) == "refused"
    assert not list(tmp_path.iterdir())


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


def test_no_process_outlives_its_sandbox(route: Route) -> None:
    """If it fails, daemons pile up on the host."""
    assert ask(DAEMON, route) == 0
    assert not left_over(MEMORY_MIB)


def test_a_sandbox_does_not_outlive_the_host() -> None:
    """If it fails, a killed run leaves programs behind. Strongest level only: each has the same watchdog."""
    memory = MEMORY_MIB + 200
    script = f"""
import os, json, time
from tasks.gdsd.sandbox import host as sandbox
from tasks.gdsd.sandbox.guest import answer, seccomp, wire
side = sandbox.Sandbox(answer, sandbox.Limits(100, {memory}, 6, 2), sandbox.choose("limits"))
side.wait_until_ready()
side.send(json.dumps({{"source": {DAEMON!r}, "prefix": "", "entry_point": "f"}}).encode(), time.monotonic() + 20)
side.receive(time.monotonic() + 20, 100)
side.send(wire.encode(((), {{}})), time.monotonic() + 20)
side.receive(time.monotonic() + 20, 100)
print("running", flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout and host.stdout.readline() == "running\n"
        assert left_over(memory)
        host.send_signal(signal.SIGKILL)
    until = time.monotonic() + PATIENCE
    while (left := left_over(memory)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def test_the_temporary_folder_goes_however_deep_it_is() -> None:
    """If it fails, answers fill the host's temporary folder where there are no namespaces."""
    if reason := unavailable("limits"):
        pytest.skip(reason)
    found, _ = sandbox.offered("limits")
    assert found is not None
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
    folder = ask(source, found)
    assert isinstance(folder, str) and "gdsd-sandbox-" in folder
    assert not os.path.lexists(folder)


def test_what_a_program_writes_is_bounded(route: Route) -> None:
    """If it fails, a program fills the host's memory through its pipe, or holds it up."""
    deadline = time.monotonic() + PATIENCE
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
        load(flood, side, deadline)
        with pytest.raises(GoneError):
            side.receive(deadline, 1 << 20)
    with Sandbox(answer, LIMITS, route) as side:
        load("import time; time.sleep(1000)", side, deadline)
        with pytest.raises(LateError):
            side.receive(time.monotonic() + 0.1, 100)
        with pytest.raises(LateError):
            side.send(b"x" * (1 << 20), time.monotonic() + 0.1)


def test_it_refuses_to_run_without_its_guarantees(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, untrusted code runs less confined than the configuration says."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    sandbox._probe.cache_clear()
    try:
        with pytest.raises(SandboxError) as caught:
            sandbox.choose("processes")
        assert isinstance(caught.value, GdsdError)
        for word in ("'processes'", "no bwrap", "no unshare", "install bubblewrap", "isolation", "limits"):
            assert word in str(caught.value)
        if not unavailable("limits"):
            assert sandbox.choose("limits").level == "limits"
    finally:
        sandbox._probe.cache_clear()


def test_the_strongest_level_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a configuration that accepts less gets less than the system offers."""
    ways = {level: Route(level, False, False) for level in sandbox.LEVELS}
    monkeypatch.setattr(sandbox, "offered", lambda level: (ways.get(level), "missing"))
    assert sandbox.choose("limits").level == "full"
    del ways["full"]
    assert sandbox.choose("limits").level == "processes"
    with pytest.raises(SandboxError):
        sandbox.choose("full")


def test_a_sandbox_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a broken sandbox counts as a wrong answer."""
    ways = [sandbox.offered(level)[0] for level in sandbox.LEVELS]
    monkeypatch.setattr(sandbox, "_interpreter", lambda: "/no/python")
    for found in ways:
        if found is not None:
            with pytest.raises(StartError), Sandbox(answer, LIMITS, found) as side:
                side.wait_until_ready()


def test_user_ids_lie_high_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a program runs as a service of the host, or its processes are another's and counted with them."""
    monkeypatch.setattr(sandbox, "_taken", set())
    assert all(sandbox._own_uid() >= 5000 for _ in range(100))
    assert len(sandbox._taken) == 100
    monkeypatch.setattr(sandbox, "_uid_range", lambda: (65500, 65537))  # a small map, which ends where nobody lives
    monkeypatch.setattr(sandbox, "_taken", set())
    assert {sandbox._own_uid() for _ in range(35)} == {*range(65500, 65536)} - {65534}


def test_a_user_id_is_free_again_afterwards(route: Route) -> None:
    """If it fails, a long run has no user ids left."""
    with Sandbox(answer, LIMITS, route) as side:
        side.wait_until_ready()
        assert len(sandbox._taken) == (route.privileged or route.drop)
    assert not sandbox._taken


def test_files_of_the_host_cannot_be_read(route: Route) -> None:
    """If it fails, a program reads the tests of its problem, or a person's keys."""
    if route.level == "limits":
        pytest.skip("the level `limits` does not confine files")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        Path(folder, "secret").write_text("secret")
        source = f"""
import glob, os, sys
def readable(path):
    try:
        return bool(os.listdir(path)) if os.path.isdir(path) else bool(open(path).read())
    except OSError:
        return False
def f():
    paths = ["/etc/passwd", "/home", "/mnt", "/opt", "/run", "/srv", "/sys", "/var", "/dev/shm", "/dev/mem"]
    paths += [{folder + "/secret"!r}, {str(ROOT)!r}, *glob.glob("/root/*"), *glob.glob("/root/.[!p]*")]
    for prefix in ("/usr", "/usr/local", sys.base_prefix):
        paths += glob.glob(prefix + "/lib/python*/*-packages")
    return [path for path in paths if readable(path)]
"""
        assert ask(source, route) == []


def test_a_folder_of_the_host_among_what_is_shown_is_empty(route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a program reads a project in /usr/src, or data in the folder of an interpreter."""
    if route.level == "limits":
        pytest.skip("the level `limits` does not confine files")
    monkeypatch.setenv("GDSD_HOME", "/usr/share")
    monkeypatch.setenv("HOME", "/usr")
    sandbox._files.cache_clear()
    try:
        assert "/usr/share" in sandbox._files().covered, "the folder of local run data"
        assert "/usr" not in sandbox._files().covered, "nothing would be left to run"
        source = "import os\ndef f(): return os.listdir('/usr/share'), 'bin' in os.listdir('/usr')"
        assert ask(source, route) == ([], True)
    finally:
        sandbox._files.cache_clear()


def test_no_folder_of_the_host_is_held_open(route: Route) -> None:
    """If it fails, a program walks up from an open folder to what its path would not lead to."""
    source = """
import os, stat
def folder(descriptor):
    try:
        return stat.S_ISDIR(os.fstat(descriptor).st_mode)
    except OSError:
        return False
def f(): return [descriptor for descriptor in range(64) if folder(descriptor)], os.path.isdir("/proc/self/fd/3/lib")
"""
    open_ones, lib = ask(source, route)  # type: ignore[misc]
    if route.level != "limits":
        assert not open_ones and not lib
    if lib:
        assert not os.path.realpath(sys.base_prefix).startswith("/usr"), "an interpreter that every user can reach"


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
    script = f"""
import json, sys, time
sys.path.insert(0, {str(ROOT)!r})
from tasks.gdsd.sandbox import host as sandbox
from tasks.gdsd.sandbox.guest import answer, wire
seconds = {{}}
for level in sandbox.LEVELS:
    route, reason = sandbox.offered(level)
    if route is None:
        seconds[level] = reason
        continue
    with sandbox.Sandbox(answer, sandbox.Limits(10, {MEMORY_MIB}, 6, 2), route) as side:
        deadline = time.monotonic() + 20
        side.wait_until_ready()
        side.send(json.dumps({{"source": {HOLDING!r}, "prefix": "", "entry_point": "f"}}).encode(), deadline)
        side.receive(deadline, 100)
        side.send(wire.encode(((), {{}})), deadline)
        side.receive(deadline, 100)
        began = time.monotonic()
    seconds[level] = time.monotonic() - began
print(json.dumps(seconds))
"""
    command = ["setpriv", "--reuid", "4242", "--regid", "4242", "--clear-groups", str(SYSTEM_PYTHON), "-c", script]
    ended = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    seconds = json.loads(ended.stdout)
    assert seconds.pop("limits") == sandbox.ONLY_ROOT
    if all(isinstance(one, str) for one in seconds.values()):
        pytest.skip(f"a user cannot make a sandbox here: {seconds}")
    assert all(one < 3 for one in seconds.values() if not isinstance(one, str)), seconds


def test_memory_without_a_limit_is_refused(route: Route) -> None:
    """If it fails, a program fills the memory with files that no limit counts."""
    if not seccomp.instructions():
        pytest.skip("no filter for this machine")
    source = """
import os
def f():
    try:
        os.memfd_create("x")
    except OSError:
        return "refused"
"""
    assert ask(source, route) == "refused"


def test_the_number_of_files_is_limited(route: Route) -> None:
    """If it fails, a program fills the kernel's memory with empty files. bubblewrap cannot limit them."""
    if route.level != "processes":
        pytest.skip("only the level `processes` mounts its own temporary folder")
    source = """
import os
def f():
    for count in range(20_000):
        try:
            os.mkdir(str(count))
        except OSError:
            return count
"""
    count = ask(source, route)
    assert isinstance(count, int) and 1000 < count <= (LIMITS.file_mib << 20) // 512


def test_limits_alone_are_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, an ordinary user's answers forge verdicts through /proc, read its keys and kill its processes."""
    with pytest.raises(StartError, match="needs root"):
        Sandbox(answer, LIMITS, Route("limits", privileged=False, drop=True))
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    sandbox._probe.cache_clear()
    try:
        assert sandbox.offered("limits") == (None, sandbox.ONLY_ROOT)
    finally:
        sandbox._probe.cache_clear()


def test_a_host_without_free_descriptors_ends_its_sandboxes(route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, programs are left where the host has many files open, or its error is none of ours."""

    def none_left(*arguments: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with Sandbox(answer, LIMITS, route) as side:
        side.wait_until_ready()
        monkeypatch.setattr(os, "pidfd_open", none_left)
    assert not left_over(MEMORY_MIB)
    monkeypatch.setattr(os, "memfd_create", none_left)
    with pytest.raises(StartError, match="Too many"):
        Sandbox(answer, LIMITS, route)
    assert not sandbox._taken


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.builds(range, st.integers(-99, 99), st.integers(-99, 99), st.integers(1, 9))
)
HASHABLE = SCALARS | st.tuples(SCALARS, SCALARS) | st.frozensets(SCALARS, max_size=3)
VALUES = st.recursive(
    HASHABLE | st.sets(HASHABLE, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(HASHABLE, inner, max_size=3),
    max_leaves=12,
)


def shape(value: object) -> object:
    """The types of a value and of what it holds."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    return type(value)


@given(VALUES)
@settings(deadline=None)
def test_values_cross_unchanged(value: object) -> None:
    """If it fails, a right answer is compared with something else."""
    crossed = wire.decode(wire.encode(value))
    assert crossed == value
    assert shape(crossed) == shape(value)


def test_large_integers_cross() -> None:
    """If it fails, factorials and powers count as wrong."""
    numbers = [10**5000, -(10**5000), 1 << 62, -(1 << 62)]
    assert wire.decode(wire.encode(numbers)) == numbers


def test_odd_floats_cross() -> None:
    """If it fails, infinities count as wrong."""
    crossed = wire.decode(wire.encode([math.inf, -math.inf, math.nan, -0.0]))
    assert isinstance(crossed, list)
    assert crossed[:2] == [math.inf, -math.inf] and math.isnan(crossed[2]) and math.copysign(1, crossed[3]) == -1


def test_exceptions_cross_as_their_builtin_ancestor() -> None:
    """If it fails, tests of what is raised cannot pass, or an answer ends the tests by what it raises."""

    class Own(KeyError):
        pass

    crossed = wire.decode(wire.encode([Own("x"), SystemExit(0), json.JSONDecodeError("a", "b", 0)]))
    assert isinstance(crossed, list)
    assert [type(error) for error in crossed] == [KeyError, Exception, ValueError]


def test_exceptions_that_take_more_than_words_cross() -> None:
    """If it fails, an answer that rightly raises an error of decoding counts as wrong."""
    raised: list[Exception] = [
        UnicodeDecodeError("ascii", b"x", 0, 1, "y"),
        UnicodeEncodeError("ascii", "x", 0, 1, "y"),
    ]
    raised += [UnicodeTranslateError("x", 0, 1, "y"), ExceptionGroup("x", [ValueError()])]
    crossed = wire.decode(wire.encode(raised))
    assert isinstance(crossed, list)
    kinds = [UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError, Exception]
    assert [type(error) for error in crossed] == kinds
    for name, kind in vars(builtins).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            made = wire.decode(f'{{"raised":["{name}","words"]}}'.encode())
            assert issubclass(kind, type(made)) and isinstance(made, Exception), name


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:0123456789.eE+-tuplesetdictrangebytesint', max_size=200))
@settings(deadline=None)
def test_any_message_is_decoded_or_refused(message: bytes | str) -> None:
    """If it fails, an answer crashes the tests by what it writes."""
    with contextlib.suppress(wire.WireError):
        wire.decode(message.encode() if isinstance(message, str) else message)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["tuple", "set", "frozenset", "dict", "int", "bytes", "complex", "range", "raised", "x"]),
            inner | st.lists(inner, max_size=3),
            max_size=2,
        )
    ),
    max_leaves=20,
)


@given(JSON)
@settings(deadline=None)
def test_any_tagged_message_is_decoded_or_refused(message: object) -> None:
    """If it fails, an answer crashes the tests by a tag with a wrong body."""
    with contextlib.suppress(wire.WireError):
        wire.decode(json.dumps(message, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "message",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b"1" * 100_000,
        b'{"int":"' + b"f" * 3_000_000 + b'"}',
        b'{"set":[' + b"1e999," * 1000 + b"1]}",
        b"1 2",
        b"",
        b"x" * (wire.BYTES + 1),
    ],
    ids=["deep", "digits", "hexadecimal", "set", "two", "none", "long"],
)
def test_hostile_messages_take_no_time(message: bytes) -> None:
    """If it fails, an answer holds up the tests by what it writes."""
    began = time.monotonic()
    with contextlib.suppress(wire.WireError):
        wire.decode(message)
    assert time.monotonic() - began < 5
