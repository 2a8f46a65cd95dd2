"""Readers of answers take time that is linear in the text: a megabyte takes a moment.

make bench            or            python -m pytest -m slow -s tests/bench/test_readers.py
"""

import time
from collections.abc import Callable

import pytest

from tests.gdsd.domains.test_answers import PIECES, READERS


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_a_megabyte_takes_a_moment(reader: Callable[[str], object]) -> None:
    """If it fails, a long answer holds up the scorer: quadratic work on a million characters would take minutes."""
    for piece in (*PIECES, "\\boxed{}", "<answer></answer>", "\\{", "```\n", "<answer", "\\boxed"):
        text = piece * (1_000_000 // len(piece))
        began = time.perf_counter()
        reader(text)
        assert time.perf_counter() - began < 5, piece
