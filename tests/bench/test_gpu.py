"""The measurement of `python -m tests.gpu`, at a size that a CPU can do."""

from pathlib import Path

import pytest
import torch

from tasks.gdsd.config.sampler import SamplerConfig
from tests.gdsd.official import dream_config, llada_config
from tests.gpu import Case, measure

LITTLE = SamplerConfig(length=16, block_length=8, steps_per_block=2)


@pytest.mark.parametrize(
    "values",
    [pytest.param(llada_config(), id="LLaDA"), pytest.param(dream_config(), id="Dream", marks=pytest.mark.whole)],
)
def test_the_measurement_works(values: dict[str, object], tmp_path: Path) -> None:
    """If it fails, minutes of a rented GPU end in a stack trace."""
    torch.set_num_threads(1)
    row = measure(Case(values, 8, LITTLE, batch=2, rank=4), tmp_path, torch.device("cpu"))
    assert all(isinstance(value, str) or value > 0 for value in row.values())
