"""Weights `elbo`: enumerated over all masks, scores are the ELBO, of a real denoiser as well."""

import math
from dataclasses import dataclass
from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.padding import left_pad
from tasks.gdsd.distill.masking import counted_tokens, mask_views
from tasks.gdsd.objectives.base import pair_scores
from tests.gdsd.readings import readings

TEXTS = ["12=", "(1+2)*3="]
LENGTH = 4


@dataclass(frozen=True)
class Enumerated:
    """A completion under all masks of its counted tokens, each with its probability."""

    read: Tensor  # (2K, 1, L) log-probabilities
    hidden: Tensor  # (2K, 1, L)
    lengths: Tensor  # (1,)
    probability: Tensor  # (K,): 1 / (L + 1) for a size, the same for each set of that size

    def mean(self, halves: tuple[float, float] = (1.0, 1.0)) -> float:
        """Expectation of L times the score, with the halves of each pair multiplied by these."""
        factor = torch.tensor(halves, dtype=torch.float64).repeat(len(self.probability))[:, None, None]
        scores = pair_scores(self.read * factor, self.hidden, self.lengths, "elbo")  # (K, 1)
        return float(self.probability @ scores[:, 0] * self.lengths)


def masks_of(count: int) -> tuple[Tensor, Tensor]:
    """All subsets of the first `count` of LENGTH tokens, and their probabilities."""
    sets = [chosen for size in range(count + 1) for chosen in combinations(range(count), size)]
    masks = torch.tensor([[position in chosen for position in range(LENGTH)] for chosen in sets])
    probability = [1 / (count + 1) / math.comb(count, len(chosen)) for chosen in sets]
    return masks, torch.tensor(probability, dtype=torch.float64)


@torch.no_grad()
def enumerate_masks(denoiser: Denoiser, text: str, completion: list[int], end_id: int | None) -> Enumerated:
    prompts, attention = left_pad([denoiser.encode(text)], denoiser.pad_id, denoiser.device)
    tokens = torch.tensor([completion])
    counted = counted_tokens(tokens, () if end_id is None else (end_id,))
    masks, probability = masks_of(int(counted.sum()))
    views = mask_views(masks[:, None], counted)
    read = readings(denoiser, prompts, attention, tokens, views)
    return Enumerated(read, views.hidden, counted.sum(1), probability)


@torch.no_grad()
def any_order_mean(denoiser: Denoiser, text: str, completion: list[int], count: int) -> float:
    """The mean over all orders of writing the first `count` tokens of the sum of each token's log-probability."""
    prompt, found = denoiser.encode(text), []
    for order in permutations(range(count)):
        shown, total = [denoiser.mask_id] * LENGTH, 0.0
        for position in order:
            states = denoiser(torch.tensor([prompt + shown]))[0, len(prompt) + position]
            logits = states.double() @ denoiser.network.lm_head.weight.double().T
            total += float(logits.log_softmax(0)[completion[position]])
            shown[position] = completion[position]
        found.append(total)
    return math.fsum(found) / len(found)


def test_by_hand() -> None:
    """If it fails, halves are weighted by another factor than (L + 1) / x.

    L = 3 and readouts -1, -2, -4. Hiding token 1 of 3 gives halves 4/1 * -2 and 4/2 * (-1 - 4), hence the score
    1/2 (-8 - 10) / 3 = -3. Hiding nothing leaves half of the complete set's 4/3 * -7: -14/9.
    """
    values = torch.tensor([[-1.0, -2.0, -4.0]])
    views = mask_views(
        torch.tensor([[[False, True, False]], [[False, False, False]]]), torch.ones(1, 3, dtype=torch.bool)
    )
    found = pair_scores(values * views.hidden, views.hidden, torch.tensor([3]), "elbo")
    torch.testing.assert_close(found, torch.tensor([[-3.0], [-14 / 9]]))
    uniform = pair_scores(values * views.hidden, views.hidden, torch.tensor([3]), "uniform")
    torch.testing.assert_close(uniform, torch.full((2, 1), -7 / 3))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("end_id", [None, 0], ids=["counted", "ignored"])
def test_all_masks_together_give_the_elbo(denoiser: Denoiser, text: str, end_id: int | None) -> None:
    """If it fails, `elbo` weights are those of no bound, and ESPO and SPG train on something else than they say.

    With x hidden tokens, x uniform over 0..L and the set uniform given x, a half (L + 1) / x * sum of its tokens'
    log-probabilities has the mean sum_x 1/x mean_M sum_(i in M) log p(y_i | rest). In a random order of writing,
    the tokens that are still hidden before a step are such a set M, and the next is any of them with probability 1/x:
    the same as the mean over all orders of log p(y), computed here one order after the other. Both halves of a pair
    have the same distribution, hence the same mean, and the score is their average. In float64; a token after the end
    stays hidden, and counts for nothing, where what follows the end is ignored.
    """
    denoiser.double()
    completion = [7, 30, denoiser.end_id, 12]
    count = LENGTH if end_id is None else 3
    exact = any_order_mean(denoiser, text, completion, count)
    found = enumerate_masks(denoiser, text, completion, end_id)
    assert int(found.lengths) == count and found.read.dtype == torch.float64
    assert math.fsum(found.probability) == pytest.approx(1, abs=1e-12)
    assert found.mean() == pytest.approx(exact, abs=1e-10)
    assert found.mean((2.0, 0.0)) == pytest.approx(exact, abs=1e-10), "the masks alone"
    assert found.mean((0.0, 2.0)) == pytest.approx(exact, abs=1e-10), "their complements alone"
    scores = pair_scores(found.read, found.hidden, found.lengths, "elbo")
    assert scores.std().item() > 1e-3, "the mean would be of equal numbers"


def test_uniform_weights_are_not_the_elbo(denoiser: Denoiser) -> None:
    """If it fails, the option is a dead switch, at least for this denoiser."""
    denoiser.double()
    found = enumerate_masks(denoiser, TEXTS[0], [7, 30, 5, 12], None)
    uniform = pair_scores(found.read, found.hidden, found.lengths, "uniform")
    assert abs(float(found.probability @ uniform[:, 0] * LENGTH) - found.mean()) > 1e-3
