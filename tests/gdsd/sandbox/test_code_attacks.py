"""Hostile code: each answer gets its right verdict within its limits, and the host does not notice."""

import select
import socket
import tempfile
from itertools import islice
from pathlib import Path

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

SECONDS, PATIENCE = 1, 20  # of processor time, for what runs until its time is up and for what does not
THIN = 2  # attacks of each kind in the quick suite
TESTS = Code().read(
    {"problem": "Square and add one.", "tests": ["assert f(2) == 5", "assert f(3) == 10", "assert f(10) == 101"]}
)


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


@pytest.mark.parametrize("most", [THIN, pytest.param(None, marks=pytest.mark.whole)])
def test_attacks_get_their_verdict_and_leave_the_host_untouched(
    most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a policy learns to attack the verifier, or reaches outside of the sandbox.

    The format is judged before the code runs, so no answer can say of itself that it compiles.
    """
    monkeypatch.setenv("GDSD_SECRET", "secret")
    only("full", monkeypatch)
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as local,
    ):
        local.bind("\0" + TOKEN)
        local.listen()
        kept = Path(folder, "kept")
        kept.write_text("kept")
        for path, mode in ((kept, 0o666), (kept.parent, 0o777)):
            path.chmod(mode)
        all_kinds = kinds(server.getsockname()[1], kept.parent)
        chosen = {name: attack for kind in all_kinds for name, attack in islice(kind.items(), most)}
        assert judged(chosen) == expected(chosen)
        assert select.select([server, local], [], [], 0)[0] == [], "an answer connected to a server of the host"
        assert not left_over(MEMORY_MIB), "processes of answers are left"
        assert not [place for place in (*PLACES, folder) if Path(place, TOKEN).exists()], "an answer wrote files"
        assert kept.read_text() == "kept", "an answer changed or deleted a file of the host"


@pytest.mark.whole
def test_no_answer_writes_its_verdict_without_a_sandbox_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, the level `none` gives away more than the documents say."""
    only("none", monkeypatch)
    chosen = time() | memory() | processes() | verdict()
    assert judged(chosen) == expected(chosen) and not left_over(MEMORY_MIB)
