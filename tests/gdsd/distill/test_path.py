"""Views of a path: each token in the state in which the sampler unmasked it, and some states in the place of all."""

import pytest
import torch
from torch import Tensor

from tasks.gdsd.distill import masking
from tasks.gdsd.distill.forward import negative_log_likelihood
from tasks.gdsd.objectives.base import path_scores
from tests.gdsd.distill.test_masking import STEPS, everything, keys


def test_a_path_reads_each_token_in_the_state_that_it_was_written_in() -> None:
    """If it fails, the score of a path is not the likelihood of the sampler's steps.

    By hand: tokens 0 and 3 at step 0, 2 at step 2, 1 at step 3. Step 1 unmasked nothing, step 3 nothing that counts.
    """
    counted = torch.tensor([[True, False, True, True]])
    views = masking.path_views(keys(1), torch.tensor([[0, 3, 2, 0]]), torch.ones(1, 4), counted)
    assert views.hidden[:, 0].int().tolist() == [[1, 0, 1, 1], [0, 0, 1, 0]]
    assert views.read[:, 0].int().tolist() == [[1, 0, 0, 1], [0, 0, 1, 0]]
    assert torch.equal(views.counted, counted) and views.prompt_hidden is None and views.weight is None


@pytest.mark.parametrize(
    "uncertainty, states, chances",
    [
        ([0.0, 1, 2, 3, 4], 1, [0.02, 0.11, 0.2, 0.29, 0.38]),  # 0.9 of its share and 0.1 / 5
        ([0.0, 1, 2, 3, 4], 2, [0.04, 0.22, 0.4, 0.58, 0.76]),
        # 0.02, 0.02, 0.06, 0.29, 0.61 of 3 are over 1 for the last: the others share 2, and then the fourth is.
        ([0.0, 0, 2, 13.5, 29.5], 3, [0.2, 0.2, 0.6, 1, 1]),
        ([0.0] * 5, 2, [0.4] * 5),
        ([1.0] * 5, 5, [1.0] * 5),
        ([1.0] * 5, 9, [1.0] * 5),
    ],
)
def test_states_of_a_path_stand_for_all(uncertainty: list[float], states: int, chances: list[float]) -> None:
    """If it fails, a score of some states is a biased estimate of that of all, or certain ones crowd out the others.

    Over 3,000 batches of one key a share has a standard error of at most 0.01. With a key for each of S groups in one
    batch the starts are stratified, so a share of S * n states is off by less than one of them each.
    """
    unmasked_at = torch.arange(STEPS)[None]  # token i at step i

    def drawn(keys: Tensor) -> masking.Views:
        many, unsure = unmasked_at.expand(len(keys), -1), torch.tensor(uncertainty).expand(len(keys), -1)
        return masking.path_views(keys, many, unsure, everything(len(keys), STEPS), states)

    alone = [drawn(key[None]) for key in keys(3000, "path")]
    taken = torch.stack([views.read[:, 0].sum(0) for views in alone])  # (3000, S)
    assert taken.max() == 1 and bool((taken.sum(1) == min(states, STEPS)).all())
    assert (taken.double().mean(0) - torch.tensor(chances)).abs().max() < 0.05
    for views in alone[:20]:
        weight = torch.ones(len(views.read), 1) if views.weight is None else views.weight
        found = [1 / chances[int(read.int().argmax())] for read in views.read[:, 0]]
        assert weight[:, 0].tolist() == pytest.approx(found)
    groups = drawn(keys(STEPS)).read.sum((0, 1))
    assert (groups - STEPS * torch.tensor(chances)).abs().max() < 1 + 1e-6


def test_scores_of_some_states_by_hand() -> None:
    """If it fails, states that were drawn count as themselves alone, and the others are forgotten.

    Of a completion of 4 tokens a state that stands for 4 is read with one token, and one that stands for 1.25 with two:
    (4 * -1 + 1.25 * (-2 - 3)) / 4 = -2.5625. A token of the whole path costs 10.25 / (4 + 2.5) on average.
    """
    readouts = torch.tensor([[[-1.0, 0, 0, 0]], [[0, -2, -3, 0]]])
    read, weight = readouts != 0, torch.tensor([[4.0], [1.25]])
    assert path_scores(readouts, torch.tensor([4]), weight).tolist() == [[-2.5625]]
    assert path_scores(readouts, torch.tensor([4]), None).tolist() == [[-1.5]]
    surprise = negative_log_likelihood(readouts, read, torch.tensor([True]), weight)
    assert float(surprise) == pytest.approx(10.25 / 6.5)
