"""What is said of a run while it goes on."""

import gzip
from pathlib import Path

import pytest

from tasks.gdsd.errors import DataError
from tasks.gdsd.records import Progress
from tasks.gdsd.run.progress import duration, round_line, times
from tests.gdsd.checkpoints import damage
from tests.gdsd.series import epoch, reward, run


def test_a_round_is_one_line_with_all_that_matters() -> None:
    """If it fails, a researcher has to open files to see whether a run works."""
    assert round_line(reward(), epoch(3, kl_ref=0.5), 63) == (
        "round 3 of 63: reward 0.500, 20% solved, 30% of groups without spread, shift 0.02, KL 0.5, gradient 0.2, "
        "1 update (2.0 s, 2,048 tokens/s), 2 min left"
    )
    assert round_line(reward(solved=None), epoch(3), 63).startswith("round 3 of 63: reward 0.500, 30% of")
    assert "20% solved, 62% judged, 30% of" in round_line(reward(judged=37 / 60), epoch(3), 63)
    assert round_line(reward(), epoch(3), 63, [900.0, 10.0, 10.0, 400.0, 10.0]).endswith(
        "(2.0 s, 2,048 tokens/s), 10 min left"
    )
    last = round_line(reward(), epoch(3, skipped=True), 3)
    assert last.endswith("without spread, 1 skipped, 0 updates (2.0 s, 2,048 tokens/s)")


def test_the_page_says_what_the_stages_take_and_what_is_left() -> None:
    """If it fails, nobody knows whether to wait or to go home; rounds end every 10 s here, and 97 are left."""
    assert times(run([{}] * 3), 100) == (
        "A round takes 1.0 s of rollouts, 0.2 s of verdicts and 0.8 s of updates, 10.0 s in all; about 16 min are left."
    )
    assert times(run([{}]), 100).endswith("of updates.") and times(run([{}] * 3), 3).endswith("of updates.")
    assert times(Progress(), 100) == ""


@pytest.mark.parametrize(
    ("seconds", "said"), [(3.0, "3 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_a_time_is_short(seconds: float, said: str) -> None:
    """If it fails, what is left is told in hundreds of minutes."""
    assert duration(seconds) == said


@pytest.mark.parametrize("kind", ["missing", "truncated", "empty", "garbage", "packed garbage", "other"])
def test_a_damaged_record_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    """If it fails, half a file ends each run that goes on in a page of another library's code, with no way out."""
    file = tmp_path / "recorded" / "progress.json.gz"
    file.parent.mkdir()
    run([{}] * 3).write(file)
    assert Progress.read([file]) == run([{}] * 3)
    run([{}] * 3).write(tmp_path / "sha256-0")  # as it is named on its way to a pod
    assert Progress.read([tmp_path / "sha256-0"]) == run([{}] * 3)
    if kind in ("packed garbage", "other"):
        file.write_bytes(gzip.compress(b"{" if kind == "packed garbage" else b'{"rounds": 3}'))
    else:
        damage(file, kind)
    with pytest.raises(DataError) as refused:
        Progress.read([file])
    said = str(refused.value)
    assert said.startswith(f"{file} cannot be read: ") and "\n" not in said
    assert said.endswith(f"or remove {file.parent} and run again what made it")
