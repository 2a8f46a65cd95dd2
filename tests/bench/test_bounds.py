"""What must not take noticeable time: pins, checks of problems and rollouts, and readers of answers.

python -m pytest -m slow tests/bench/test_bounds.py
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.gdsd.config.model_source import digest
from tasks.gdsd.domains import answers
from tasks.gdsd.domains.answers import shingles
from tasks.gdsd.prompts.near_duplicates import nearest
from tests.bench.harness import in_turns
from tests.gdsd.domains.test_answers import PIECES
from tests.gdsd.official import write_llada
from tests.gdsd.reward.test_quality import check, rewarded, rewarded_rows

pytestmark = pytest.mark.slow
WORDS = [f"w{number}" for number in range(3000)]
READERS: list[Callable[[str], object]] = [answers.tagged, answers.boxed, answers.fenced, answers.well_formed]


@pytest.mark.parametrize("groups", [64, 1024])
def test_checking_a_round_takes_no_noticeable_time(groups: int) -> None:
    """If this fails, the 150 checks of the default training are felt.

    Alone on a core it takes 0.15 s, of which nearly all is Great Expectations' own work for 14 expectations, whatever
    the number of rows; the bound is for a busy machine.
    """
    table = rewarded(rewarded_rows(groups=groups))
    seconds = in_turns({"check": lambda: check(table)}, 5)["check"]
    assert min(seconds) < 0.5, f"a check of {table.num_rows} rows took {min(seconds):.2f} s"


@pytest.mark.parametrize("shared", [0, 100], ids=["different", "sharing 100 words"])
@pytest.mark.parametrize(("count", "others"), [(768, 8192), (8192, 768)])
def test_thousands_of_problems_take_no_noticeable_time(shared: int, count: int, others: int) -> None:
    """If it fails, the first stage hangs for minutes on a data set whose problems begin alike.

    With a count of shared features pair by pair the second kind took 60 to 70 s; now all take 0.3 to 1.8 s on one
    busy core, and the bound is for a busier one.
    """
    source = random.Random(0)
    common = " ".join(source.choices(WORDS, k=shared))
    texts = [f"{common} {' '.join(source.choices(WORDS, k=50))}" for _ in range(count + others)]
    began = time.process_time()
    assert set(nearest(texts[:count], texts[count:], shingles, 0.8)) == {None}
    assert time.process_time() - began < 6


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_a_megabyte_takes_a_moment(reader: Callable[[str], object]) -> None:
    """If it fails, a long answer holds up the scorer: quadratic work on a million characters would take minutes."""
    for piece in (*PIECES, "\\boxed{}", "<answer></answer>", "\\{", "```\n", "<answer", "\\boxed"):
        text = piece * (1_000_000 // len(piece))
        began = time.process_time()
        reader(text)
        assert time.process_time() - began < 5, piece


def test_pins_are_quick(tmp_path: Path) -> None:
    """Pinning 16 GB must not take minutes: at least 100 MB/s on a busy core (1.3 GB/s measured on a free one)."""
    write_llada(tmp_path)
    (tmp_path / "large.safetensors").write_bytes(bytes(2**27))
    (seconds,) = in_turns({"digest": lambda: digest(tmp_path)}, 1, warm_up=False)["digest"]
    print(f"{2**27 / seconds / 1e9:.2f} GB/s")
    assert seconds < 1.3
