"""The warm start teaches the references, reproducibly."""

import copy

import pyarrow as pa
import pytest
import torch

from tasks.gdsd.config.policy import WarmStartConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.padding import left_pad
from tasks.gdsd.distill.masking import mask_views
from tasks.gdsd.distill.warm_start import warm_start
from tasks.gdsd.errors import DataError
from tests.gdsd.readings import readings

CONFIG = WarmStartConfig(steps=30, batch_size=16, learning_rate=1e-2)
LENGTH = 18  # two more than a reference has


def score_references(denoiser: Denoiser, puzzles: pa.Table) -> torch.Tensor:
    """Mean log-probability per token of each reference and its two end tokens, everything hidden."""
    rows = puzzles.to_pylist()
    prompts, attention = left_pad([denoiser.encode(row["prompt"]) for row in rows], denoiser.pad_id, denoiser.device)
    answers = torch.tensor([denoiser.encode(row["reference"]) + [denoiser.end_id] * 2 for row in rows])
    with torch.no_grad():
        everything = torch.ones_like(answers, dtype=torch.bool)
        views = mask_views(everything[None], everything, complement=False)
        return readings(denoiser, prompts, attention, answers, views)[0].mean(1)


def test_references_and_their_end_become_likely(
    denoiser: Denoiser, puzzles: pa.Table, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, a run starts from a policy that never answers right, and has nothing to reinforce.

    Before that, it says what takes so long.
    """
    before = score_references(denoiser, puzzles)
    with caplog.at_level("INFO", "tasks"):
        warm_start(denoiser, puzzles, CONFIG, LENGTH, seed=0)
    assert bool((score_references(denoiser, puzzles) > before + 1).all())
    assert caplog.messages == [f"warm start: 30 updates on the answers of {puzzles.num_rows} problems"]


def test_it_follows_from_the_seed(denoiser: Denoiser, puzzles: pa.Table) -> None:
    """If it fails, two runs of one configuration start from different policies."""

    def warmed(seed: int) -> torch.Tensor:
        torch.manual_seed(seed + 17)
        policy = copy.deepcopy(denoiser)
        warm_start(policy, puzzles, CONFIG.model_copy(update={"steps": 3}), LENGTH, seed)
        return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])

    assert torch.equal(warmed(0), warmed(0)) and not torch.equal(warmed(0), warmed(1))


def test_no_steps_change_nothing(denoiser: Denoiser, puzzles: pa.Table) -> None:
    """If it fails, a run cannot start from the initial weights, or needs references that are answers for it."""
    before = copy.deepcopy(denoiser.state_dict())
    tests = pa.array(["{a test and no answer}"] * puzzles.num_rows)
    judged = puzzles.set_column(puzzles.schema.get_field_index("reference"), "reference", tests)
    warm_start(denoiser, judged, CONFIG.model_copy(update={"steps": 0}), LENGTH, seed=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in denoiser.state_dict().items())


def test_references_that_are_empty_are_refused(denoiser: Denoiser, puzzles: pa.Table) -> None:
    """If it fails, a policy learns to write nothing, and a run ends well without a single update."""
    references = ["", " \n", *puzzles["reference"].to_pylist()[2:]]
    place = puzzles.schema.get_field_index("reference")
    with pytest.raises(
        DataError, match=rf"^2 of {puzzles.num_rows} training problems have no .*warm_start\.steps to 0"
    ):
        warm_start(denoiser, puzzles.set_column(place, "reference", pa.array(references)), CONFIG, LENGTH, seed=0)


def test_answers_longer_than_a_completion_are_refused(denoiser: Denoiser, puzzles: pa.Table) -> None:
    """If it fails, the policy learns answers that it can never complete."""
    said = r"'train-\d+' has 16 tokens, but a completion has 15; raise rollout\.sampler\.length, or leave the problem"
    with pytest.raises(DataError, match=said):
        warm_start(denoiser, puzzles, CONFIG, 15, seed=0)
