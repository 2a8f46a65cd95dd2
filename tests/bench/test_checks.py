"""Seconds of what checks data: once in a run for problems, and in each round for rollouts.

python -m pytest -m slow tests/bench/test_checks.py
"""

import random
import time

import pytest

from tasks.gdsd.domains.answers import shingles
from tasks.gdsd.prompts.near_duplicates import nearest
from tests.gdsd.reward.test_quality import check, rewarded, rewarded_rows

pytestmark = pytest.mark.slow
WORDS = [f"w{number}" for number in range(3000)]


@pytest.mark.parametrize("groups", [64, 1024])
def test_checking_a_round_takes_no_noticeable_time(groups: int) -> None:
    """If this fails, the 150 checks of the default training are felt.

    Alone on a core it takes 0.15 s, of which nearly all is Great Expectations' own work for 14 expectations, whatever
    the number of rows; the bound is for a busy machine.
    """
    table = rewarded(rewarded_rows(groups=groups))
    check(table)
    seconds = []
    for _ in range(5):
        began = time.process_time()
        check(table)
        seconds.append(time.process_time() - began)
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
