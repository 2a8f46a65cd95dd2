"""The exact engine against a plain sampler that can be read at a glance, and its promises about batches and ties."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.config.sampler import (
    DualCacheConfig,
    EngineConfig,
    ExactConfig,
    PrefixCacheConfig,
    SamplerConfig,
    ThresholdConfig,
)
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.head import Head
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.denoiser.padding import left_pad
from tasks.gdsd.errors import ConfigError, NonFiniteError
from tasks.gdsd.rollout import engines
from tasks.gdsd.rollout.engines.base import Completion, Engine, Request
from tasks.gdsd.rollout.engines.exact import Exact
from tasks.gdsd.rollout.engines.unmasking import Canvas, Unmasking, resolve
from tests.gdsd.official import write_llada
from tests.gdsd.plain_sampler import alike, plain_sampler

TEXTS = ["1.34341.2143.321=", "12=", "a sum of 3 and 4 is", "x", "12343412....4321", "(1+2)*3="]
FREE = SamplerConfig(length=12, block_length=6, steps_per_block=4, temperature=1.0)
GREEDY = SamplerConfig(length=12, block_length=6, steps_per_block=4, temperature=0.0)


def requests(denoiser: Denoiser, count: int = 24) -> list[Request]:
    return [
        Request(denoiser.encode(TEXTS[index % len(TEXTS)]), seeds.key("sampler test", index)) for index in range(count)
    ]


def generate(engine: Engine, asked: list[Request], config: SamplerConfig, batch_size: int = 64) -> list[Completion]:
    return engine.complete(asked, config, batch_size, "")


def sample(denoiser: Denoiser, asked: list[Request], config: SamplerConfig, batch_size: int = 64) -> list[Completion]:
    return generate(Exact(denoiser, ExactConfig()), asked, config, batch_size)


def plain(denoiser: Denoiser, asked: list[Request], config: SamplerConfig) -> list[Completion]:
    resolved = resolve(config, denoiser.family.sampler)
    return [plain_sampler(denoiser, request, resolved) for request in asked]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("block_length, steps", [(12, 12), (12, 5), (6, 4), (3, 1)])
def test_equals_a_plain_sampler(denoiser: Denoiser, temperature: float, block_length: int, steps: int) -> None:
    """If it fails, rollouts and evaluations are not what the protocol says they are."""
    config = SamplerConfig(length=12, block_length=block_length, steps_per_block=steps, temperature=temperature)
    asked = requests(denoiser, 6)
    assert alike(sample(denoiser, asked, config), plain(denoiser, asked, config))


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(
    "options",
    [
        {"order": "entropy"},
        {"order": "entropy", "block_length": 12, "steps_per_block": 12},
        {"order": "entropy", "top_p": 0.6},
        {"order": "entropy", "top_k": 3, "top_p": 0.9},
        {"top_p": 0.5},
        {"top_k": 2},
        {"ban": ["1", "2"]},
        {"stop_at_end": True, "block_length": 2, "steps_per_block": 2},
    ],
    ids=lambda options: " ".join(f"{name}={value}" for name, value in options.items()),
)
def test_every_option_equals_the_plain_sampler(
    denoiser: Denoiser, temperature: float, options: dict[str, object]
) -> None:
    """If it fails, an option of the sampler does something else than it says, or nothing."""
    if temperature == 0 and not {"top_p", "top_k"}.isdisjoint(options) and "order" not in options:
        pytest.skip("refused: it would change nothing")
    values = {"length": 12, "block_length": 6, "steps_per_block": 4, "temperature": temperature} | options
    config = SamplerConfig.model_validate(values)
    asked = requests(denoiser, 12)
    made = sample(denoiser, asked, config)
    assert alike(made, plain(denoiser, asked, config))
    if "block_length" not in options:  # each of the others changes some token, or the order
        assert made != sample(denoiser, asked, GREEDY.model_copy(update={"temperature": temperature}))


@pytest.mark.parametrize("config", [FREE, GREEDY], ids=["free", "greedy"])
def test_batches_change_no_token(denoiser: Denoiser, config: SamplerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a larger batch, another shard count or another neighbour changes the training.

    A CPU reads a part of a batch at a time: here less than a sequence, some sequences, or all.
    """
    asked = requests(denoiser)
    together = sample(denoiser, asked, config)
    for tokens in (1, 100):
        monkeypatch.setattr("tasks.gdsd.rollout.engines.unmasking.TOGETHER", tokens)
        assert sample(denoiser, asked, config) == together
    for batch_size in (1, 5, 24):
        assert sample(denoiser, asked, config, batch_size) == together
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(0)).tolist()
    assert sample(denoiser, [asked[index] for index in order], config, 7) == [together[index] for index in order]


def test_batches_are_as_large_as_asked_for_and_sorted_by_length(denoiser: Denoiser) -> None:
    """If it fails, memory is not bounded by `batch_size`, or short prompts are padded to long ones for nothing."""
    asked = requests(denoiser, 11)
    batches = list(Exact(denoiser, ExactConfig()).generate(asked, GREEDY, 4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    lengths = [len(asked[index].prompt_ids) for batch in batches for index in batch]
    assert lengths == sorted(lengths)
    assert sorted(index for batch in batches for index in batch) == list(range(11))


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


@pytest.mark.parametrize("config", [ExactConfig(), ThresholdConfig()], ids=lambda config: config.name)
@pytest.mark.parametrize("settings", [FREE, GREEDY], ids=["free", "greedy"])
def test_a_policy_that_is_not_finite_is_refused(
    denoiser: Denoiser, config: EngineConfig, settings: SamplerConfig
) -> None:
    """If it fails, broken weights make completions of one token over and over, and an evaluation believes them."""
    denoiser.network.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NonFiniteError, match="logits of 3 of 3 completions are not finite"):
        list(engines.make(config, denoiser).generate(requests(denoiser, 3), settings, 4))


def test_nothing_to_generate_is_refused(denoiser: Denoiser) -> None:
    """If it fails, an empty shard dies of an error about tensors, or is silently an empty success."""
    with pytest.raises(ValueError, match="empty"):
        next(iter(Exact(denoiser, ExactConfig()).generate([], GREEDY, 4)))


def test_sampling_switches_dropout_off_and_leaves_gradients_on(denoiser: Denoiser) -> None:
    """If it fails, rollouts come from a policy with dropout, or training after them has no gradients."""
    denoiser.train()
    for _ in Exact(denoiser, ExactConfig()).generate(requests(denoiser, 2), GREEDY, 1):
        assert not denoiser.training
        assert torch.is_grad_enabled()


# The order in which tokens are unmasked


class Scripted(Unmasking):
    """Predicts token 3 everywhere, position i with the logit `confidence[i]`, and keeps what it was shown.

    Several rows of confidence are for as many calls; the last one stays.
    """

    def __init__(self, denoiser: Denoiser, confidence: list[list[float]]):
        super().__init__(denoiser)
        self.confidence = torch.tensor(confidence)
        self.seen: list[list[int]] = []  # hidden positions of the completion, call by call

    def states(self, canvas: Canvas, hidden_at: Tensor, step: int) -> Tensor:
        hidden = canvas.ids[0, canvas.start :] == self.denoiser.mask_id
        self.seen.append(hidden.nonzero().flatten().tolist())
        return self.confidence[min(len(self.seen), len(self.confidence)) - 1][hidden_at - canvas.start][:, :, None]

    def order(self) -> Iterator[list[int]]:
        """Positions unmasked by each call."""
        for before, after in zip(self.seen, [*self.seen[1:], []], strict=True):
            yield sorted(set(before) - set(after))


@pytest.mark.parametrize(
    ("confidence", "block_length", "steps", "order"),
    [
        ([[1, 5, 2, 6, 3, 4]], 6, 3, [[1, 3], [4, 5], [0, 2]]),
        ([[1, 2, 3, 9, 8, 7]], 3, 3, [[2], [1], [0], [3], [4], [5]]),
        ([[2.0] * 20], 20, 7, [[*range(start, min(start + 3, 20))] for start in range(0, 20, 3)]),
        ([[1, 2, 3, 4, 5], [2.0] * 5], 5, 5, [[4], [0], [1], [2], [3]]),
    ],
    ids=["the most confident first", "blocks from left to right", "ties by position", "ties that were none"],
)
def test_the_order_of_unmasking_by_hand(
    denoiser: Denoiser,
    monkeypatch: pytest.MonkeyPatch,
    confidence: list[list[float]],
    block_length: int,
    steps: int,
    order: list[list[int]],
) -> None:
    """If it fails, the least sure tokens are kept, later blocks are fixed before earlier ones, or a device decides."""
    length = len(confidence[0])
    config = SamplerConfig(length=length, block_length=block_length, steps_per_block=steps, temperature=0.0)
    monkeypatch.setattr(denoiser, "head", lambda: Head(torch.eye(len(denoiser.tokenizer))[3][:, None]))  # (V, 1)
    scripted = Scripted(denoiser, confidence)
    (made,) = generate(scripted, [Request([5, 6], 0)], config)
    assert made.ids == [3] * length and list(scripted.order()) == order
    # What the completion says of its own making is what the denoiser was shown.
    assert [[i for i, at in enumerate(made.unmasked_at) if at == step] for step in range(len(order))] == order


def shares(order: Literal["confidence", "entropy"], tokens: int, steps: int) -> list[int]:
    return SamplerConfig(length=tokens, block_length=tokens, steps_per_block=steps, order=order).shares()


def test_shares() -> None:
    """If it fails, a block is left with hidden tokens, a step unmasks none, or Dream is not sampled as by its authors.

    Dream's 4 tokens in 4 steps: t = 1, 0.75025, 0.5005, 0.25075, 0.001. int(4 * 0.24975) = 0, int(4 * 0.33289) = 1,
    int(3 * 0.49900) = 1, and the last step takes the other 2.
    """
    assert shares("confidence", 7, 3) == [3, 2, 2] and shares("entropy", 4, 4) == [0, 1, 1, 2]
    for tokens in (1, 2, 5, 32):
        for steps in range(1, tokens + 1):
            even, dream = shares("confidence", tokens, steps), shares("entropy", tokens, steps)
            assert len(even) == len(dream) == steps and sum(even) == sum(dream) == tokens and min(dream) >= 0
            assert max(even) - min(even) <= 1 and even == sorted(even, reverse=True)


# Stopping early, and what the family decides


@pytest.mark.parametrize(
    "choice", [ExactConfig(), PrefixCacheConfig(), DualCacheConfig()], ids=lambda config: config.name
)
def test_finished_sequences_leave_the_batch(denoiser: Denoiser, choice: EngineConfig) -> None:
    """If it fails, what follows an end token is computed although nobody looks at it, or others' tokens change."""
    config = SamplerConfig(length=12, block_length=2, steps_per_block=2, temperature=2.0)
    asked = requests(denoiser, 32)
    full, engine = (engines.make(choice, denoiser) for _ in range(2))
    whole = generate(full, asked, config, 8)
    stopped = generate(engine, asked, config.model_copy(update={"stop_at_end": True}), 8)
    ended = [set(made.ids[:10]) & set(denoiser.end_ids) for made in whole]
    assert any(ended) and not all(ended)
    for early, late in zip(stopped, whole, strict=True):
        assert denoiser.decode(early.ids) == denoiser.decode(late.ids)
        assert denoiser.ended(early.ids) == denoiser.ended(late.ids)
        assert early.steps == sum(at < early.steps for at in range(config.steps))
    assert sum(made.steps for made in stopped) < sum(made.steps for made in whole)
    assert engine.work.positions < full.work.positions


@pytest.mark.parametrize(
    "config", [ExactConfig(), PrefixCacheConfig(), DualCacheConfig()], ids=lambda config: config.name
)
def test_padding_that_nobody_needs_any_more_is_not_computed(denoiser: Denoiser, config: EngineConfig) -> None:
    """If it fails, short prompts are padded to a long one that has left, or trimming its padding changes a token.

    Every block has two calls. The exact engine computes all places in both, the caches in the first.
    """
    settings = SamplerConfig(length=12, block_length=2, steps_per_block=2, temperature=2.0, stop_at_end=True)

    def alone(length: int, key: int) -> tuple[Request, Completion]:
        request = Request(denoiser.encode("1" * length), key)
        engine = engines.make(config, denoiser)
        (batch,) = engine.generate([request], settings, 1)
        return request, batch[0]

    long = next(found for key in range(100) if (found := alone(30, key))[1].steps <= 4)
    short = [alone(length, key) for length in (2, 3, 5) for key in range(2)]
    assert sum(made.steps > long[1].steps for _, made in short) > 2
    asked, expected = zip(long, *short, strict=True)
    engine = engines.make(config, denoiser)
    assert generate(engine, list(asked), settings) == list(expected)
    work = {True: 0, False: 0}
    for block in range(6):
        there = [len(request.prompt_ids) for request, made in (long, *short) if made.steps > 2 * block]
        for trims in work if there else ():
            start = max(there) if trims else 30
            part = {"exact": start + 12, "prefix_cache": 12 - 2 * block, "dual_cache": 2}[config.name]
            work[trims] += len(there) * (start + 12 + part)
    assert engine.work.positions == work[True] < 0.7 * work[False]


def test_the_family_decides_what_the_settings_leave_open(denoiser: Denoiser) -> None:
    """If it fails, Dream is sampled as LLaDA is, where a configuration says nothing."""
    from tasks.gdsd.denoiser.families.dream import DREAM

    open_ones = SamplerConfig(length=4, block_length=4, steps_per_block=2)
    for own, given, order, top_p, top_k in (
        (DREAM, {}, "entropy", 0.95, 50),
        (DREAM, {"temperature": 0.0}, "entropy", 1.0, 50),
        (DREAM, {"temperature": 0.0, "top_p": 0.5, "top_k": 0}, "entropy", 0.5, 0),
        (DREAM, {"order": "confidence"}, "confidence", 1.0, None),
        (denoiser.family, {}, "confidence", 1.0, None),
    ):
        found = resolve(open_ones.model_copy(update=given), own.sampler)
        assert (found.order, found.top_p, found.top_k) == (order, top_p, top_k)
        assert resolve(found, own.sampler) == found  # as a model card asks for it again
    greedy = open_ones.model_copy(update={"temperature": 0.0, "top_p": 0.5})
    with pytest.raises(ConfigError, match="change nothing at temperature 0"):
        resolve(greedy, denoiser.family.sampler)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ban": ["1", "elephant"]}, "elephant"),
        ({"ban": ["1", "<mask>"]}, r"\['<mask>'\], which no completion contains anyway"),
        ({"top_k": 1000}, "top_k 1000 leaves nothing out of the 49 tokens.*use at most 48"),
        ({"top_k": 48, "ban": ["1"]}, "top_k 48 leaves nothing out of the 48 tokens"),
    ],
)
def test_settings_that_do_not_fit_the_policy_are_refused(
    denoiser: Denoiser, options: dict[str, object], message: str
) -> None:
    """If it fails, a misspelled ban is silently no ban, or a filter keeps everything."""
    config = SamplerConfig.model_validate({"length": 4, "block_length": 4, "steps_per_block": 2} | options)
    with pytest.raises(ConfigError, match=message):
        sample(denoiser, requests(denoiser, 1), config)


def test_all_that_may_be_drawn_or_all_ends_may_not_be_banned(denoiser: Denoiser) -> None:
    """If it fails, completions are of token 0, or a run waits for ends that never come."""
    names = denoiser.tokenizer.convert_ids_to_tokens(list(range(denoiser.vocabulary_size)))
    drawn = [name for token, name in enumerate(names) if token not in denoiser.never_sampled]
    with pytest.raises(ConfigError, match=f"ban has all {len(drawn)} tokens"):
        sample(denoiser, requests(denoiser, 1), FREE.model_copy(update={"ban": drawn}))
    stopping = FREE.model_copy(update={"ban": [names[end] for end in denoiser.end_ids], "stop_at_end": True})
    with pytest.raises(ConfigError, match="stop_at_end waits for an end token"):
        sample(denoiser, requests(denoiser, 1), stopping)


def test_what_follows_an_end_is_filled_with_one_that_is_not_banned(tmp_path: Path) -> None:
    """If it fails, a banned token is in a completion: of LLaDA's two ends the first is also its padding."""
    write_llada(tmp_path)
    llada = load_folder(tmp_path, "llada", torch.device("cpu"))
    config = SamplerConfig(
        length=12, block_length=4, steps_per_block=1, temperature=5.0, stop_at_end=True, ban=["<|endoftext|>"]
    )
    asked = [Request([7, 8], key) for key in range(64)]
    made = sample(llada, asked, config)
    ended = [index for index, found in enumerate(made) if found.steps < config.steps]
    assert ended and [made[index] for index in ended] == plain(llada, [asked[index] for index in ended], config)
    banned, other = llada.end_ids
    assert not any(banned in found.ids for found in made)
    assert all(made[index].ids[-1] == other for index in ended)
