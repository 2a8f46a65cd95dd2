"""The command that says how long a round takes on a cluster."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import capacity

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "configs/llada_sudoku.yaml")


def test_the_tables_of_the_documentation_are_what_its_commands_print(capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, docs/capacity.md advises by numbers of another cost model; put in what the commands print now."""
    page = (ROOT / "docs/capacity.md").read_text()
    found = re.findall(r"```\n.*?python -m tasks\.capacity (.*?)\n```\n\n.*?(\| GPUs.*?)\n\n", page, re.S)
    assert len(found) == 2
    for command, table in found:
        config, *options = command.split()
        assert capacity.main([str(ROOT / config), *options]) == 0
        assert table in capsys.readouterr().out, command  # random numbers are fixed


def test_every_option_changes_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, an option does nothing."""

    def printed(*options: str) -> str:
        assert capacity.main([RECIPE, "--gpus", "8", *options]) == 0
        return capsys.readouterr().out

    plain = printed()
    changes = ["pod 100", "imports 50", "again 1e8", "verdicts 1", "spread 0.5", "taken 5", "prompts 64", "device l40s"]
    for change in changes:
        name, value = change.split()
        assert printed(f"--{name}", value) != plain, change
    assert printed("--taken", "5", "--replaced", "900") != printed("--taken", "5")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gpus", "0"], "--gpus 0 is no number of GPUs"),
        (["--spread", "-1"], "--spread -1 is negative"),
        (["--verdicts", "0"], "--verdicts 0 would never end"),
        (["--prompts", "100000"], "prompts_per_round 100000 exceeds prompts.train_size"),
        (["--prompts", "0"], "rollout.prompts_per_round"),
    ],
)
def test_what_cannot_be_is_refused(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a slip ends in a stack trace, or in a table of nonsense."""
    assert capacity.main([RECIPE, *options]) == 1
    assert said in capsys.readouterr().err


def test_a_config_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """If it fails, a mistyped path ends in a stack trace."""
    assert capacity.main(["absent.yaml"]) == 1
    assert "absent.yaml" in capsys.readouterr().err


def test_it_needs_no_torch() -> None:
    """If it fails, a plan cannot be made where torch is missing."""
    code = f"import sys, tasks.capacity as c; c.main([{RECIPE!r}, '--gpus', '1']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
