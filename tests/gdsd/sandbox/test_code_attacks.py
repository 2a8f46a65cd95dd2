"""Hostile code: each answer gets its right verdict within its limits, and the host does not notice."""

import socket
import tempfile
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest

from tasks.gdsd.domains.base import Answer, Verdict
from tasks.gdsd.domains.code import Code, CodeConfig
from tests.gdsd.sandbox.attacks import (
    FILE_MIB,
    MEMORY_MIB,
    PLACES,
    PROCESSES,
    TOKEN,
    Attack,
    kinds,
    memory,
    processes,
    time,
    verdict,
)
from tests.gdsd.sandbox.sandboxes import left_over, only

SECONDS, PATIENCE = 1, 20  # of the wall clock, for what runs until its time is up and for what does not
THIN = 2  # attacks of each kind in the quick suite
TESTS = Code().read(
    {"problem": "Square and add one.", "tests": ["assert f(2) == 5", "assert f(3) == 10", "assert f(10) == 101"]}
)


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
    """What came of the attacks."""

    attacks: dict[str, Attack]
    verdicts: dict[str, Verdict]
    connections: int
    processes: list[str]
    files: list[Path]
    kept: str


@pytest.fixture(scope="module", params=["thin", pytest.param("whole", marks=pytest.mark.whole)])
def battle(request: pytest.FixtureRequest) -> Iterator[Battle]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        patch.setenv("GDSD_SECRET", "secret")
        only("full", patch)
        victim = Path(folder)
        victim.chmod(0o777)
        (victim / "kept").write_text("kept")
        (victim / "kept").chmod(0o666)
        witness = Witness()
        most = THIN if request.param == "thin" else None
        chosen = {name: attack for kind in kinds(witness.port, victim) for name, attack in islice(kind.items(), most)}
        verdicts = judged(chosen)
        files = [path for place in (*PLACES, folder) if (path := Path(place, TOKEN)).exists()]
        kept = (victim / "kept").read_text() if (victim / "kept").exists() else "gone"
        yield Battle(chosen, verdicts, witness.connections, left_over(MEMORY_MIB), files, kept)
        for one in witness.sockets:
            one.shutdown(socket.SHUT_RDWR)  # or the waiting thread would keep it
            one.close()


def judged(chosen: dict[str, Attack]) -> dict[str, Verdict]:
    verdicts: dict[str, Verdict] = {}
    for seconds, endless in ((SECONDS, True), (PATIENCE, False)):
        names = [name for name, attack in chosen.items() if attack.endless is endless]
        limits = CodeConfig(seconds=seconds, memory_mib=MEMORY_MIB, processes=PROCESSES, file_mib=FILE_MIB, workers=4)
        items = [Answer(*TESTS, f"Here it is:\n```python\n{chosen[name].source}```\n") for name in names]
        verdicts |= zip(names, Code(limits).verify_all(items), strict=True)
    return verdicts


def expected(chosen: dict[str, Attack]) -> dict[str, Verdict]:
    return {
        name: Verdict({"tests": pytest.approx(attack.share), "format": float(attack.compiles)}, attack.share == 1.0)
        for name, attack in chosen.items()
    }


def test_every_attack_gets_its_verdict(battle: Battle) -> None:
    """If it fails, a policy learns to attack the verifier instead of solving problems.

    The format is judged before the code runs, so no answer can say of itself that it compiles.
    """
    assert battle.verdicts == expected(battle.attacks)


@pytest.mark.whole
def test_no_answer_writes_its_verdict_without_a_sandbox_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, the level `none` gives away more than the documents say."""
    only("none", monkeypatch)
    chosen = time() | memory() | processes() | verdict()
    assert judged(chosen) == expected(chosen) and not left_over(MEMORY_MIB)


def test_the_host_is_untouched(battle: Battle) -> None:
    """If it fails, an answer reached outside of its sandbox."""
    assert not battle.connections, "an answer connected to a server of the host"
    assert not battle.processes, "processes of answers are left"
    assert not battle.files, "an answer wrote files of the host"
    assert battle.kept == "kept", "an answer changed or deleted a file of the host"
