"""A tiny denoiser and a few puzzles, small enough that every test takes well under a second of computing."""

import pyarrow as pa
import pytest
import torch

from tasks.gdsd import tables
from tasks.gdsd.config.policy import TinyModelConfig
from tasks.gdsd.denoiser import checkpoint, tiny
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.denoiser import Denoiser
from tests.gdsd.epochs import rewarded

PUZZLES = {
    "1234341221434321": [".23434122143432.", "1.34341.2143.321", "12343412....4321"],
    "1243342121344312": ["12.3342121344.12", ".24334212134431."],
}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Threads cost more than they bring at this size, and the machine may be busy."""
    torch.set_num_threads(1)


def build(seed: int = 0) -> Denoiser:
    # Large initial weights: with small ones every token is as likely as the next, and a mistake would hide.
    shape = TinyModelConfig(hidden_size=16, intermediate_size=32, layers=2, heads=2, rope_theta=100.0, init_std=0.3)
    return tiny.build(shape, seed).eval()


@pytest.fixture
def denoiser() -> Denoiser:
    """A randomly initialised policy of its own for each test, always with the same weights."""
    return build()


@pytest.fixture
def other_denoiser() -> Denoiser:
    """A policy of the same shape with other weights."""
    return build(seed=1)


@pytest.fixture(scope="session")
def puzzles() -> pa.Table:
    """Five Sudoku problems as a prompt table."""
    pairs = [(puzzle, solution) for solution, many in PUZZLES.items() for puzzle in many]
    rows = [
        {"id": f"train-{index:06d}", "prompt": f"{puzzle}=", "problem": puzzle, "reference": solution}
        for index, (puzzle, solution) in enumerate(pairs)
    ]
    return pa.Table.from_pylist(rows, tables.PROMPTS)


@pytest.fixture
def start(denoiser: Denoiser) -> PolicyState:
    """A policy that no distillation has touched."""
    return checkpoint.base_state(denoiser)


@pytest.fixture
def table(denoiser: Denoiser) -> pa.Table:
    """A rewarded round with a group of each kind."""
    return rewarded(denoiser)
