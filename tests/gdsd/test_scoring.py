"""Scores of completions against a plain computation, one sequence and one mask at a time."""

import pytest
import torch
from torch import Tensor

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.sampler import left_pad
from tasks.gdsd.scoring import score_completions

TEXTS = ["1.34341.2143.321=", "12=", "a sum is", "x"]
LENGTH, PAIRS = 6, 3
Example = tuple[Tensor, Tensor, Tensor, Tensor]


def example(denoiser: Denoiser) -> Example:
    source = torch.Generator().manual_seed(0)
    prompts, attention = left_pad([denoiser.encode(text) for text in TEXTS], denoiser.pad_id, denoiser.device)
    completions = torch.randint(3, len(denoiser.tokenizer), (len(TEXTS), LENGTH), generator=source)
    masks = torch.rand(PAIRS, len(TEXTS), LENGTH, generator=source) < 0.5
    masks[0, 0], masks[0, 1] = True, False  # all hidden, nothing hidden
    return prompts, attention, completions, masks


def dense_scores(denoiser: Denoiser, completions: Tensor, masks: Tensor, readout: str) -> Tensor:
    """1/L times the sum over both halves, over the tokens hidden in it, of z[y] - logsumexp(z) or z[y] - mean(z)."""
    found = torch.zeros(PAIRS, len(TEXTS), dtype=torch.float64)
    for pair in range(PAIRS):
        for row, text in enumerate(TEXTS):
            prompt = denoiser.encode(text)
            for hidden in (masks[pair, row], ~masks[pair, row]):
                shown = completions[row].clone()
                shown[hidden] = denoiser.mask_id
                states = denoiser(torch.tensor([prompt + shown.tolist()]))[0, len(prompt) :]
                logits = states.double() @ denoiser.network.lm_head.weight.double().T  # (L, V)
                for position in range(LENGTH):
                    if hidden[position]:
                        z = logits[position]
                        normaliser = z.logsumexp(0) if readout == "log_prob" else z.mean()
                        found[pair, row] += (z[completions[row, position]] - normaliser) / LENGTH
    return found


@pytest.mark.parametrize("readout", ["log_prob", "centred"])
def test_equals_a_plain_computation(denoiser: Denoiser, readout: str) -> None:
    """If it fails, the quantity that training regresses is not the documented score, or its gradient is another.

    Values are of order 1; 1e-5 is float32 rounding through two layers.
    """
    prompts, attention, completions, masks = example(denoiser)
    scores = score_completions(denoiser, prompts, attention, completions, masks, readout)
    assert scores.shape == (PAIRS, len(TEXTS)) and scores.dtype == torch.float32
    expected = dense_scores(denoiser, completions, masks, readout)
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=1e-5)
    weights = torch.linspace(-1, 1, scores.numel()).view_as(scores)
    parameters = list(denoiser.parameters())
    found = torch.autograd.grad((scores * weights).sum(), parameters)
    wanted = torch.autograd.grad((expected * weights).sum(), parameters)
    for gradient, plain in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, plain, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("readout", ["log_prob", "centred"])
def test_padding_changes_nothing(denoiser: Denoiser, readout: str) -> None:
    """If it fails, a completion's score depends on the longest prompt of its micro-batch."""
    prompts, attention, completions, masks = example(denoiser)
    scores = score_completions(denoiser, prompts, attention, completions, masks, readout)
    wider = torch.cat([torch.full((len(TEXTS), 7), denoiser.pad_id), prompts], dim=1)
    attend = torch.cat([torch.zeros(len(TEXTS), 7, dtype=torch.bool), attention], dim=1)
    again = score_completions(denoiser, wider, attend, completions, masks, readout)
    torch.testing.assert_close(again, scores, atol=1e-5, rtol=1e-5)


def test_permuting_the_batch_permutes_the_scores(denoiser: Denoiser) -> None:
    """If it fails, a completion is scored with another one's prompt or mask."""
    prompts, attention, completions, masks = example(denoiser)
    scores = score_completions(denoiser, prompts, attention, completions, masks, "log_prob")
    order = torch.tensor([2, 0, 3, 1])
    again = score_completions(
        denoiser, prompts[order], attention[order], completions[order], masks[:, order], "log_prob"
    )
    torch.testing.assert_close(again, scores[:, order], atol=1e-5, rtol=1e-5)


def test_each_pair_is_scored_on_its_own(denoiser: Denoiser) -> None:
    """If it fails, pairs are mixed up: `mask_pairs` = 2 is not two draws of `mask_pairs` = 1."""
    prompts, attention, completions, masks = example(denoiser)
    scores = score_completions(denoiser, prompts, attention, completions, masks, "log_prob")
    single = [
        score_completions(denoiser, prompts, attention, completions, masks[pair : pair + 1], "log_prob")
        for pair in range(PAIRS)
    ]
    torch.testing.assert_close(torch.cat(single), scores, atol=1e-5, rtol=1e-5)


def test_a_mask_and_its_complement_are_one_pair(denoiser: Denoiser) -> None:
    """If it fails, half of the tokens are left out, or counted twice."""
    prompts, attention, completions, masks = example(denoiser)
    scores = score_completions(denoiser, prompts, attention, completions, masks, "log_prob")
    swapped = score_completions(denoiser, prompts, attention, completions, ~masks, "log_prob")
    torch.testing.assert_close(swapped, scores, atol=1e-5, rtol=1e-5)


def test_a_hidden_token_is_not_seen(denoiser: Denoiser) -> None:
    """If it fails, the policy is scored with the answer in view, and learns to copy.

    With everything hidden every row of the denoiser is the same whatever the completion, so changing one token of the
    complete set changes only that token's own readout: the scores of two completions that differ in token 0 differ by
    that token's readout alone, (z[a] - z[b]) / L for `log_prob`. The other half of the pair hides nothing and reads
    nothing out.
    """
    prompts, attention, completions, _ = example(denoiser)
    everything = torch.ones(1, len(TEXTS), LENGTH, dtype=torch.bool)
    changed = completions.clone()
    changed[:, 0] = torch.where(completions[:, 0] == 5, 6, 5)
    before = score_completions(denoiser, prompts, attention, completions, everything, "log_prob")[0]
    after = score_completions(denoiser, prompts, attention, changed, everything, "log_prob")[0]
    for row, text in enumerate(TEXTS):
        prompt = denoiser.encode(text)
        state = denoiser(torch.tensor([prompt + [denoiser.mask_id] * LENGTH]))[0, len(prompt)]
        logits = state @ denoiser.network.lm_head.weight.T
        expected = (logits[changed[row, 0]] - logits[completions[row, 0]]) / LENGTH
        torch.testing.assert_close(after[row] - before[row], expected, atol=1e-5, rtol=1e-4)
