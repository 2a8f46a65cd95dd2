"""The command for a GPU, rehearsed on the CPU: every part at a small size, and what the command does with parts."""

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.gpu import __main__ as command
from tests.gpu import results
from tests.gpu.parts import LIMIT, PARTS
from tests.gpu.results import Found, Row

# What a rented machine need not have. (Nor pandas, but pyarrow looks whether it is there.)
ABSENT = ("flytekit", "flyteidl", "great_expectations", "scipy", "matplotlib", "datasets", "croniter", "msgpack")
REHEARSAL = f"""
import sys
from pathlib import Path
sys.modules |= dict.fromkeys({ABSENT!r})
from tests.gpu import part, parts, scale
for name in parts.PARTS:
    part.run(name, Path(sys.argv[1]), scale.SMALL)
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """Every part, measured in one new process with one thread."""
    out = tmp_path_factory.mktemp("rehearsal")
    alone = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", REHEARSAL, str(out)], cwd=command.ROOT, env=alone, check=True)
    return results.read(out)


@pytest.mark.parametrize("name", PARTS)
def test_each_part_works(name: str, found: dict[str, Found]) -> None:
    """If it fails, minutes of a rented GPU end in a stack trace, or the machine lacks a package."""
    part = found[name]
    is_skipped = name == "quantised" and find_spec("bitsandbytes") is None  # which `make test-all` has
    assert part.ended == ("was skipped" if is_skipped else "done"), part.said
    assert bool(part.rows) != is_skipped and not part.wrong


def test_a_part_for_which_no_time_is_left_is_not_begun(tmp_path: Path) -> None:
    """If it fails, a machine that is lent for ten minutes is taken away before the page is written."""
    assert LIMIT == 8 * 60
    command.ask("peaks", 0.0, tmp_path, lambda _: pytest.fail("it was begun"))
    part = results.read(tmp_path)["peaks"]
    assert part.ended == "was not begun" and not part.is_good


def test_a_part_that_fails_or_hangs_ends_no_other(tmp_path: Path) -> None:
    """If it fails, one mistake costs all that a GPU was rented for; what a part had found must stay."""
    said = "import sys; from pathlib import Path; from tests.gpu import results; out = Path(sys.argv[1])\n"
    parts = {
        "peaks": said + "results.write(out, 'peaks', name='a', values={'x': 1.0}, holds=None); import os; os.abort()",
        "tokens": "import time; time.sleep(99)",
        "gradients": said + "results.write(out, 'gradients', ended='done', said='')",
    }
    began = time.monotonic()
    for name, code in parts.items():
        seconds = 1 if name == "tokens" else 60
        command.ask(name, seconds, tmp_path, lambda _, code=code: [sys.executable, "-c", code, str(tmp_path)])
    assert time.monotonic() - began < 60
    found = results.read(tmp_path)
    assert [part.ended for part in found.values()] == ["failed", "was ended", "done"]
    assert [len(part.rows) for part in found.values()] == [1, 0, 0]
    assert "ended with -6" in found["peaks"].said and "its 1 s were over" in found["tokens"].said


def test_a_part_that_is_asked_again_replaces_what_it_had_found(tmp_path: Path) -> None:
    """If it fails, a second attempt at one part mixes its rows with those of the first, or loses other parts'."""
    for name in ("peaks", "tokens"):
        results.write(tmp_path, name, name="old", values={}, holds=None)
    results.forget(tmp_path, "tokens")
    results.write(tmp_path, "tokens", name="new", values={}, holds=None)
    lines = [json.loads(line) for line in (tmp_path / results.LINES).read_text().splitlines()]
    assert [(line["part"], line["name"]) for line in lines] == [("peaks", "old"), ("tokens", "new")]


def test_the_page_says_what_was_found() -> None:
    """If it fails, docs/gpu.md hides what went wrong, or names a share of the peak that nobody measured."""
    column = results.OF_PEAK
    rollouts = [
        Row("A, exact, 8 at once", {"tokens/s": 12345.6, column: 0.3}),
        Row("A, exact, 32 at once", {column: 0.5}, False),
        Row("A, dual_cache, 32 at once", {column: 0.9}, True),
    ]
    found = {
        "rollouts": Found({"card": "a card"}, rollouts, "done", seconds=61.0),
        "updates": Found({"card": "a card"}, [Row("A, adapter", {column: 0.4})], "was ended", "its time", 50.0),
    }
    page = results.page(found, "2026-01-02", "abc", 0.45)
    assert results.measured(found) == {"A": {"rollouts": 0.5, "updates": 0.4}}
    for line in (
        "- a card",
        "| A, exact, 8 at once | 12,346 | 0.3 |  |",
        "| A, exact, 32 at once |  | 0.5 | **no** |",
        "It was ended after 50 s: its time.",
        "The middle of these is 0.45. Set `REACHED` to it, and name this page there.",
        "| rollouts | 61 | 130 | done | 3 | A, exact, 32 at once |",
        "| updates | 50 | 90 | was ended | 1 | nothing |",
    ):
        assert line in page.splitlines(), line
    assert not found["rollouts"].is_good and not found["updates"].is_good
