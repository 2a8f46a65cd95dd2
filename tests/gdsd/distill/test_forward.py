"""Scores of completions against a plain computation, one sequence and one mask at a time."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.objective import Readout
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.padding import left_pad
from tasks.gdsd.distill.masking import Views, counted_tokens, mask_views, path_views, prompt_views
from tasks.gdsd.objectives.base import pair_scores, path_scores
from tests.gdsd.readings import readings

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


def score_completions(
    denoiser: Denoiser,
    prompts: Tensor,  # (B, S)
    attention: Tensor,  # (B, S)
    completions: Tensor,  # (B, L)
    masks: Tensor,  # (K, B, L)
    readout: Readout,
) -> Tensor:  # (K, B): per token, each predicted once under a mask or its complement
    views = mask_views(masks, torch.ones_like(completions, dtype=torch.bool))
    read = readings(denoiser, prompts, attention, completions, views, readout)
    return pair_scores(read, views.hidden, views.counted.sum(1), "uniform")


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
def test_equals_a_plain_computation(denoiser: Denoiser, readout: Readout) -> None:
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


def test_the_score_of_a_path_equals_a_plain_one(denoiser: Denoiser) -> None:
    """If it fails, a path's score is not 1/L sum_s log p(tokens of step s | what was there before), step by step."""
    prompts, attention, completions, _ = example(denoiser)
    source = torch.Generator().manual_seed(1)
    unmasked_at = torch.stack([torch.randperm(LENGTH, generator=source) // 2 for _ in TEXTS])  # 3 steps of 2 tokens
    counted = torch.ones_like(completions, dtype=torch.bool)
    counted[1, 4:] = False  # what follows its end
    views = path_views(torch.arange(len(TEXTS)), unmasked_at, torch.ones(counted.shape), counted)
    read = readings(denoiser, prompts, attention, completions, views, "log_prob")
    found = path_scores(read, counted.sum(1), views.weight)[0]
    for row, text in enumerate(TEXTS):
        prompt, likelihood = denoiser.encode(text), torch.zeros(())
        for step in range(3):
            shown = completions[row].masked_fill((unmasked_at[row] >= step) | ~counted[row], denoiser.mask_id)
            states = denoiser(torch.tensor([prompt + shown.tolist()]))[0, len(prompt) :]
            log_p = (states @ denoiser.network.lm_head.weight.T).log_softmax(-1)  # (L, V)
            written = ((unmasked_at[row] == step) & counted[row]).nonzero()[:, 0]
            likelihood = likelihood + log_p[written, completions[row, written]].sum()
        assert found[row].item() == pytest.approx(likelihood.item() / int(counted[row].sum()), abs=1e-5)


@pytest.mark.parametrize("readout", ["log_prob", "centred"])
def test_padding_changes_nothing(denoiser: Denoiser, readout: Readout) -> None:
    """If it fails, a completion's score depends on the longest prompt of its micro-batch."""
    prompts, attention, completions, masks = example(denoiser)
    scores = score_completions(denoiser, prompts, attention, completions, masks, readout)
    wider = torch.cat([torch.full((len(TEXTS), 7), denoiser.pad_id), prompts], dim=1)
    attend = torch.cat([torch.zeros(len(TEXTS), 7, dtype=torch.bool), attention], dim=1)
    again = score_completions(denoiser, wider, attend, completions, masks, readout)
    torch.testing.assert_close(again, scores, atol=1e-5, rtol=1e-5)


# What follows the end, and prompts with hidden tokens


def ending(denoiser: Denoiser) -> tuple[Example, Views]:
    """Completions of 3, 6, 1 and 5 tokens with the end."""
    prompts, attention, completions, masks = example(denoiser)
    for row, place in enumerate((2, 5, 0, 4)):
        completions[row, place] = denoiser.end_id
    views = mask_views(masks, counted_tokens(completions, denoiser.end_ids))
    return (prompts, attention, completions, masks), views


def test_what_follows_the_end_is_neither_read_nor_seen(denoiser: Denoiser) -> None:
    """If it fails, `ignored` tokens train the policy after all, or tell it what comes before them.

    They are masks in every view, so whatever they are, no readout and no gradient may change by one bit.
    """
    (prompts, attention, completions, _), views = ending(denoiser)
    counted = views.counted
    changed = torch.where(counted, completions, (completions + 1) % len(denoiser.tokenizer))
    assert bool((changed != completions).any())

    def rewarded(tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        read = readings(denoiser, prompts, attention, tokens, views)
        total = pair_scores(read, views.hidden, counted.sum(1), "elbo").square().sum()
        return read, torch.autograd.grad(total, list(denoiser.parameters()))

    (before, gradients), (after, others) = rewarded(completions), rewarded(changed)
    assert torch.equal(before, after)
    assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))
    assert not before[~counted.expand_as(before)].any() and (before[views.hidden] != 0).all()
    counting = readings(denoiser, prompts, attention, changed, replace(views, counted=torch.ones_like(counted)))
    assert not torch.allclose(counting, before), "the same views with the tokens in view are another question"


def test_ended_completions_by_a_plain_computation(denoiser: Denoiser) -> None:
    """If it fails, what follows the end is cut off or filled otherwise than documented: it is read as masks.

    The score of a pair is the mean over the tokens that count.
    """
    (prompts, attention, completions, _), views = ending(denoiser)
    found = readings(denoiser, prompts, attention, completions, views)
    scores = pair_scores(found, views.hidden, views.counted.sum(1), "uniform")
    for row, (text, count) in enumerate(zip(TEXTS, (3, 6, 1, 5), strict=True)):
        torch.testing.assert_close(scores[:, row], found.view(PAIRS, 2, -1, LENGTH)[:, :, row].sum((1, 2)) / count)
        prompt = denoiser.encode(text)
        for view in range(len(views.hidden)):
            hidden = views.hidden[view, row]
            shown = completions[row].masked_fill(hidden | ~views.counted[row], denoiser.mask_id).tolist()
            states = denoiser(torch.tensor([prompt + shown]))[0, len(prompt) :]
            logits = states @ denoiser.network.lm_head.weight.T
            plain = logits.log_softmax(1).gather(1, completions[row][:, None])[:, 0]
            torch.testing.assert_close(found[view, row], plain * hidden, atol=1e-5, rtol=1e-5)


def test_hidden_prompt_tokens_are_masks(denoiser: Denoiser) -> None:
    """If it fails, the one-step likelihood is of the whole prompt, or of one without the tokens in place of hidden."""
    prompts, attention, completions, _ = example(denoiser)
    everything = torch.ones_like(completions, dtype=torch.bool)
    views = prompt_views(torch.arange(len(TEXTS)), attention, everything, 2, 0.4)
    assert views.prompt_hidden is not None
    found = readings(denoiser, prompts, attention, completions, views)
    for row, text in enumerate(TEXTS):
        prompt = torch.tensor(denoiser.encode(text))
        for view in range(2):
            seen = prompt.masked_fill(views.prompt_hidden[view, row, -len(prompt) :], denoiser.mask_id).tolist()
            states = denoiser(torch.tensor([seen + [denoiser.mask_id] * LENGTH]))[0, len(prompt) :]
            logits = states @ denoiser.network.lm_head.weight.T
            plain = logits.log_softmax(1).gather(1, completions[row][:, None])[:, 0]
            torch.testing.assert_close(found[view, row], plain, atol=1e-5, rtol=1e-5)
