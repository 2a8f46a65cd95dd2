"""The sampler against a plain one that can be read at a glance, and its promises about batches, ties and the draw."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.config import SamplerConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.readout import Head
from tasks.gdsd.sampler import Completion, Request, draw, generate, left_pad, shares, unmask

TEXTS = ["1.34341.2143.321=", "12=", "a sum of 3 and 4 is", "x", "12343412....4321=", "(1+2)*3="]
FREE = SamplerConfig(length=12, block_length=6, steps_per_block=4, temperature=1.0)
GREEDY = SamplerConfig(length=12, block_length=6, steps_per_block=4, temperature=0.0)


def requests(denoiser: Denoiser, count: int = 24) -> list[Request]:
    return [
        Request(denoiser.encode(TEXTS[index % len(TEXTS)]), seeds.key("sampler test", index)) for index in range(count)
    ]


def sample(denoiser: Denoiser, asked: list[Request], config: SamplerConfig, batch_size: int = 64) -> list[Completion]:
    return [completion for batch in generate(denoiser, asked, config, batch_size) for completion in batch]


@torch.no_grad()
def plain_sampler(denoiser: Denoiser, request: Request, config: SamplerConfig) -> Completion:
    """One sequence, no padding, all logits, one position at a time.

    In each step every hidden position of the block takes the token at which the running sum of probabilities first
    exceeds the uniform number of (key, step, position); the most probable of these tokens stay.
    """
    completion = [denoiser.mask_id] * config.length
    unmasked_at = [-1] * config.length
    step = 0
    for first in range(0, config.length, config.block_length):
        for turn in range(config.steps_per_block):
            states = denoiser(torch.tensor([request.prompt_ids + completion]))[0]
            logits = (states @ denoiser.network.lm_head.weight.T)[len(request.prompt_ids) :]  # (L, V)
            logits[:, [denoiser.mask_id, denoiser.pad_id]] = -math.inf
            candidates = []
            for position in range(first, first + config.block_length):
                if completion[position] != denoiser.mask_id:
                    continue
                if config.temperature == 0:
                    token = int(logits[position].argmax())
                else:
                    uniform = seeds.uniform(torch.tensor(request.key), step * config.length + position).item()
                    running, token = 0.0, -1
                    for probability in (logits[position].double() / config.temperature).softmax(0).tolist():
                        running, token = running + probability, token + 1
                        if running > uniform:
                            break
                confidence = float(logits[position].softmax(0)[token])
                candidates.append((-confidence, position, token))
            share = config.block_length // config.steps_per_block
            share += turn < config.block_length % config.steps_per_block
            for _, position, token in sorted(candidates)[:share]:
                completion[position], unmasked_at[position] = token, step
            step += 1
    return Completion(completion, unmasked_at)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("block_length, steps", [(12, 12), (12, 5), (6, 4), (3, 1)])
def test_equals_a_plain_sampler(denoiser: Denoiser, temperature: float, block_length: int, steps: int) -> None:
    """If it fails, rollouts and evaluations are not what the protocol says they are."""
    config = SamplerConfig(length=12, block_length=block_length, steps_per_block=steps, temperature=temperature)
    asked = requests(denoiser, 6)
    assert sample(denoiser, asked, config) == [plain_sampler(denoiser, request, config) for request in asked]


@pytest.mark.parametrize("config", [FREE, GREEDY], ids=["free", "greedy"])
def test_batches_change_no_token(denoiser: Denoiser, config: SamplerConfig) -> None:
    """If it fails, a larger batch, another shard count or another neighbour changes the training."""
    asked = requests(denoiser)
    together = sample(denoiser, asked, config)
    for batch_size in (1, 5, 24):
        assert sample(denoiser, asked, config, batch_size) == together
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(0)).tolist()
    assert sample(denoiser, [asked[index] for index in order], config, 7) == [together[index] for index in order]


def test_batches_come_in_order_and_as_large_as_asked_for(denoiser: Denoiser) -> None:
    """If it fails, memory is not bounded by `batch_size`, or completions go to other prompts."""
    batches = list(generate(denoiser, requests(denoiser, 11), GREEDY, 4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert {len(completion.ids) for batch in batches for completion in batch} == {12}


def test_left_padding_changes_nothing(denoiser: Denoiser) -> None:
    """If it fails, a short prompt is answered differently when a long one is in its batch."""
    asked = requests(denoiser, 6)
    keys = torch.tensor([request.key for request in asked])
    ids, attention = left_pad([request.prompt_ids for request in asked], denoiser.pad_id, denoiser.device)
    wider = torch.cat([torch.full((6, 5), denoiser.pad_id), ids], dim=1)
    with torch.no_grad():
        narrow = unmask(denoiser, ids, attention, keys, FREE)
        wide = unmask(denoiser, wider, torch.cat([torch.zeros(6, 5, dtype=torch.bool), attention], dim=1), keys, FREE)
    assert torch.equal(narrow[0], wide[0]) and torch.equal(narrow[1], wide[1])
    alone = [sample(denoiser, [request], FREE)[0] for request in asked]  # no padding at all
    assert narrow[0].tolist() == [completion.ids for completion in alone]
    assert narrow[1].tolist() == [completion.unmasked_at for completion in alone]


def test_left_pad_by_hand() -> None:
    """If it fails, the policy reads padding as part of a prompt, or not all of the prompt."""
    ids, attention = left_pad([[5, 6, 7], [8], []], 1, torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [1, 1, 8], [1, 1, 1]]
    assert attention.int().tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert ids.dtype == torch.int64 and attention.dtype == torch.bool


def test_mask_and_padding_are_never_emitted(denoiser: Denoiser) -> None:
    """If it fails, an answer keeps holes, and scoring it later treats its own tokens as hidden.

    At temperature 10 all 51 tokens are nearly equally likely: of 64 * 12 draws about 30 would be mask or padding.
    """
    config = FREE.model_copy(update={"temperature": 10.0})
    emitted = {token for made in sample(denoiser, requests(denoiser, 64), config) for token in made.ids}
    assert len(emitted) == len(denoiser.tokenizer) - 2
    assert emitted.isdisjoint({denoiser.mask_id, denoiser.pad_id})


def test_the_key_decides_only_where_there_is_a_draw(denoiser: Denoiser) -> None:
    """If it fails, samples of a group are all alike, or a greedy evaluation depends on its seed."""
    prompt = denoiser.encode("12=")
    asked = [Request(prompt, key) for key in (1, 2, 1)]
    first, second, again = sample(denoiser, asked, FREE)
    assert first == again != second
    greedy = sample(denoiser, asked, GREEDY)
    assert greedy[0] == greedy[1] == greedy[2]


def test_nothing_to_generate_is_refused(denoiser: Denoiser) -> None:
    """If it fails, an empty shard dies of an error about tensors, or is silently an empty success."""
    with pytest.raises(ValueError, match="empty"):
        next(generate(denoiser, [], GREEDY, 4))


def test_sampling_switches_dropout_off_and_leaves_gradients_on(denoiser: Denoiser) -> None:
    """If it fails, rollouts come from a policy with dropout, or training after them has no gradients."""
    denoiser.train()
    for _ in generate(denoiser, requests(denoiser, 2), GREEDY, 1):
        assert not denoiser.training
        assert torch.is_grad_enabled()


# The draw


def test_the_draw_has_the_softmax_distribution() -> None:
    """If it fails, the policy that is trained is not the one that made the rollouts.

    Expected counts of 40,000 draws are softmax(logits / T); 6 tokens of positive mass, hence chi-square with 5 degrees
    of freedom, 30 is exceeded once in 70,000. The token of no mass must never come.
    """
    count, logits = 40_000, torch.tensor([1.0, -2.0, 0.3, -math.inf, -4.0, 0.0, 2.0])
    uniform = seeds.uniform(torch.arange(count), 0)[None]  # (1, R)
    for temperature in (0.5, 1.0, 2.0):
        drawn = draw(logits.expand(1, count, -1), temperature, uniform)
        counts = torch.bincount(drawn.flatten(), minlength=7).double()
        expected = count * (logits.double() / temperature).softmax(0)
        assert counts[3] == 0
        possible = expected > 0
        assert ((counts - expected)[possible] ** 2 / expected[possible]).sum().item() < 30, f"T = {temperature}"


def test_the_draw_inverts_the_cumulative_distribution() -> None:
    """If it fails, tokens at the ends of the vocabulary are drawn too often or never, even those of no mass.

    Four tokens of equal mass, 1, 2, 4 and 5, own a quarter of [0, 1) each, closed below and open above.
    """
    logits = torch.tensor([-math.inf, 0.0, 0.0, -math.inf, 0.0, 0.0, -math.inf])
    uniform = torch.tensor([0.0, 0.2, 0.25, 0.49, 0.5, 0.7, 0.75, 1 - 2.0**-53], dtype=torch.float64)
    drawn = draw(logits.expand(1, len(uniform), -1), 1.0, uniform[None])
    assert drawn.tolist() == [[1, 1, 2, 2, 4, 4, 5, 5]]


def test_rare_tokens_are_drawn() -> None:
    """If it fails, the tail of the distribution is cut off, as half-precision noise cuts it.

    A first token of probability about 1e-12 owns u < 1e-12; the last one owns u > 1 - 1e-12.
    """
    tail = math.log(1e-12)
    uniform = torch.tensor([[0.5e-12, 0.5, 1 - 0.5e-12]], dtype=torch.float64)
    assert draw(torch.tensor([tail, 0.0, tail]).expand(1, 3, -1), 1.0, uniform).tolist() == [[0, 1, 2]]


def test_large_logits_and_low_temperatures_do_not_overflow() -> None:
    """If it fails, a confident policy emits token 0 or the last one, from a distribution of NaN."""
    logits = torch.tensor([-1e4, 3e4, 2.9e4, -math.inf]).expand(1, 2, -1)
    uniform = torch.tensor([[0.0, 0.999]], dtype=torch.float64)
    assert draw(logits, 0.001, uniform).tolist() == [[1, 1]]
    assert draw(logits, 0.0, uniform).tolist() == [[1, 1]]


def test_temperature_zero_takes_the_first_of_equal_logits() -> None:
    """If it fails, greedy answers differ between machines."""
    logits = torch.tensor([0.0, 2.0, 2.0, 1.0]).expand(1, 1, -1)
    assert draw(logits, 0.0, torch.zeros(1, 1, dtype=torch.float64)).tolist() == [[1]]


# The order in which tokens are unmasked


class Scripted(Denoiser):
    """Predicts token 3 everywhere, position i with the logit `confidence[i]`, and keeps what it was shown.

    Several rows of confidence are for as many calls; the last one stays.
    """

    def __init__(self, source: Denoiser, confidence: list[list[float]], start: int):
        super().__init__(source.network, source.tokenizer, source.family)
        self.confidence, self.start = torch.tensor(confidence), start
        self.seen: list[list[int]] = []  # hidden positions of the completion, call by call

    def forward(self, ids: Tensor, attention: Tensor | None = None) -> Tensor:
        assert ids.shape[0] == 1
        self.seen.append((ids[0, self.start :] == self.mask_id).nonzero().flatten().tolist())
        states = torch.zeros(1, ids.shape[1], 1)
        states[0, self.start :, 0] = self.confidence[min(len(self.seen), len(self.confidence)) - 1]
        return states

    def head(self) -> Head:
        return Head(torch.eye(len(self.tokenizer))[3][:, None])  # (V, 1)

    def order(self) -> Iterator[list[int]]:
        """Positions unmasked by each call."""
        for before, after in zip(self.seen, [*self.seen[1:], []], strict=True):
            yield sorted(set(before) - set(after))


def unmasking_order(denoiser: Denoiser, *confidence: list[float], block_length: int, steps: int) -> list[list[int]]:
    length = len(confidence[0])
    config = SamplerConfig(length=length, block_length=block_length, steps_per_block=steps, temperature=0.0)
    scripted = Scripted(denoiser, list(confidence), start=2)
    (made,) = sample(scripted, [Request([5, 6], 0)], config)
    assert made.ids == [3] * length
    order = list(scripted.order())
    # What the completion says of its own making is what the denoiser was shown.
    assert [[i for i, at in enumerate(made.unmasked_at) if at == step] for step in range(len(order))] == order
    return order


def test_the_most_confident_tokens_come_first(denoiser: Denoiser) -> None:
    """If it fails, the sampler keeps the tokens that the policy is least sure of."""
    assert unmasking_order(denoiser, [1, 5, 2, 6, 3, 4], block_length=6, steps=3) == [[1, 3], [4, 5], [0, 2]]


def test_blocks_are_unmasked_left_to_right(denoiser: Denoiser) -> None:
    """If it fails, later parts of an answer are fixed before the earlier ones that they follow from."""
    assert unmasking_order(denoiser, [1, 2, 3, 9, 8, 7], block_length=3, steps=3) == [[2], [1], [0], [3], [4], [5]]


def test_ties_are_broken_by_position(denoiser: Denoiser) -> None:
    """If it fails, equally confident tokens are kept in an order that depends on the device."""
    assert unmasking_order(denoiser, [2.0] * 20, block_length=20, steps=7) == [
        list(range(start, start + count))
        for start, count in ((0, 3), (3, 3), (6, 3), (9, 3), (12, 3), (15, 3), (18, 2))
    ]
    # Also where an earlier step saw the positions in another order.
    order = unmasking_order(denoiser, [1, 2, 3, 4, 5], [2.0] * 5, block_length=5, steps=5)
    assert order == [[4], [0], [1], [2], [3]]


def test_shares() -> None:
    """If it fails, a block is left with hidden tokens, or a step unmasks none."""
    assert shares(7, 3) == [3, 2, 2]
    assert shares(4, 4) == [1, 1, 1, 1]
    assert shares(5, 1) == [5]
    for tokens in range(1, 33):
        for steps in range(1, tokens + 1):
            made = shares(tokens, steps)
            assert len(made) == steps and sum(made) == tokens
            assert max(made) - min(made) <= 1 and made == sorted(made, reverse=True)
