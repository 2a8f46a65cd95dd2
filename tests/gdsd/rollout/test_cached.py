"""The engines that keep keys and values: their tokens by the book, the work they spare, and what must not matter."""

from pathlib import Path

import pytest
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.config.sampler import DualCacheConfig, PrefixCacheConfig, SamplerConfig
from tasks.gdsd.config.train import RolloutConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.rollout import engines
from tasks.gdsd.rollout.engines.base import Completion, Request
from tasks.gdsd.rollout.engines.cached import Cached
from tasks.gdsd.rollout.engines.unmasking import Unmasking, resolve
from tests.gdsd.checkpoints import CPU
from tests.gdsd.official import write_dream, write_llada
from tests.gdsd.plain_cache import PlainCache
from tests.gdsd.plain_sampler import alike, plain_sampler
from tests.gdsd.rollout.test_engines import FREE, GREEDY, generate, sample

KINDS: dict[str, type[PrefixCacheConfig | DualCacheConfig]] = {
    "prefix_cache": PrefixCacheConfig,
    "dual_cache": DualCacheConfig,
}
PROMPTS = [[30, 8, 40, 41, 7, 12, 27], [10], [11, 20], [9, 33, 44, 8]]  # of different lengths, hence padded in a batch


@pytest.fixture(params=["llada", "dream"])
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Denoiser:
    """LLaDA, whose row predicts its own token, and Dream, where the row before does."""
    {"llada": write_llada, "dream": write_dream}[request.param](tmp_path)
    return load_folder(tmp_path, request.param, CPU)


def requests(copies: int = 1) -> list[Request]:
    return [
        Request(prompt, seeds.key("cache test", place, copy))
        for copy in range(copies)
        for place, prompt in enumerate(PROMPTS)
    ]


class AnyCache(Cached):
    """One that refuses nothing: what equals the exact engine is of no use but here."""

    resolve = Unmasking.resolve


def make(denoiser: Denoiser, name: str, refresh_every: int | None) -> Cached:
    return AnyCache(denoiser, KINDS[name](refresh_every=refresh_every))


def plain(denoiser: Denoiser, request: Request, config: SamplerConfig, name: str, every: int | None) -> Completion:
    """One sequence by the book: all keys and values are stale but those of the block, or of all from the block on."""
    cache = PlainCache.of(denoiser)

    def read(canvas: Tensor, call: int, block: int) -> Tensor:
        if call == 0 or (every is not None and call % every == 0):
            return cache.read(canvas).float()
        begin = max(0, block - 1) if denoiser.family.shifted else block
        end = canvas.shape[1] if name == "prefix_cache" else block + config.block_length
        return cache.read(canvas, None, slice(begin, end)).float()

    return plain_sampler(denoiser, request, resolve(config, denoiser.family.sampler), read)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("name", KINDS)
def test_equals_a_plain_cached_sampler(published: Denoiser, name: str, every: int | None, temperature: float) -> None:
    """If it fails, an engine keeps other keys and values than it says, or refreshes them at other steps."""
    config = GREEDY.model_copy(update={"temperature": temperature, "stop_at_end": True})
    asked = requests()
    made = generate(make(published, name, every), asked, config)
    assert alike(made, [plain(published, request, config, name, every) for request in asked])


@pytest.mark.parametrize("config", [FREE, GREEDY], ids=["free", "greedy"])
@pytest.mark.parametrize("name", KINDS)
def test_what_is_never_stale_equals_the_exact_engine(published: Denoiser, name: str, config: SamplerConfig) -> None:
    """If it fails, an engine differs from the exact one by more than what it keeps.

    Nothing is stale where all is computed anew in each step, where a block has one step, and where the canvas is one
    block without a prompt. Where something is, tokens differ: else these comparisons would say nothing.
    """
    asked = requests(8)
    assert generate(make(published, name, 1), asked, config) == sample(published, asked, config)
    one_step = config.model_copy(update={"steps_per_block": 1})
    assert generate(make(published, name, None), asked, one_step) == sample(published, asked, one_step)
    one_block = config.model_copy(update={"block_length": config.length})
    alone = [Request([], key) for key in range(4)]
    assert generate(make(published, name, None), alone, one_block) == sample(published, alone, one_block)
    assert generate(make(published, name, None), asked, config) != sample(published, asked, config)


@pytest.mark.parametrize("name", KINDS)
def test_batches_change_no_token(published: Denoiser, name: str) -> None:
    """If it fails, a batch reads what another one left behind, or padding is kept as if it were a prompt."""
    asked = requests(4)
    engine = make(published, name, 3)
    together = generate(engine, asked, FREE)
    for batch_size in (1, 3):
        assert generate(engine, asked, FREE, batch_size) == together
    assert generate(engine, asked[::-1], FREE, 5) == together[::-1]


# Prompt of 7, length 12 in 2 blocks of 6, 4 steps each (LLaDA: 2, 2, 1, 1 tokens). T = 19; after the first block's
# start 12 places, after the second's 6.
COUNTS = {
    ("prefix_cache", None): (19 + 3 * 12) + (19 + 3 * 6),
    ("prefix_cache", 2): 2 * (19 + 12) + 2 * (19 + 6),
    ("prefix_cache", 3): (2 * 19 + 2 * 12) + (2 * 19 + 2 * 6),
    ("dual_cache", None): 2 * (19 + 3 * 6),
    ("dual_cache", 2): 4 * (19 + 6),
    ("dual_cache", 3): 2 * (2 * 19 + 2 * 6),
}


@pytest.mark.parametrize("name, every", COUNTS)
def test_the_work_by_hand(denoiser: Denoiser, name: str, every: int | None) -> None:
    """If it fails, an engine saves less than it says, or a report's count of it is wrong."""
    engine = engines.make(KINDS[name](refresh_every=every), denoiser)
    generate(engine, [Request(PROMPTS[0], key) for key in range(3)], GREEDY)
    assert engine.work.positions == 3 * COUNTS[name, every]
    assert engine.work.calls == 8
    assert engine.work.rows == 3 * 2 * (6 + 4 + 2 + 1)


@pytest.mark.parametrize("name", KINDS)
def test_the_work_of_dream_by_hand(tmp_path: Path, name: str) -> None:
    """If it fails, the row before a block, which predicts its first token, is stale; or a step without a token reads.

    Its schedule for 6 tokens in 4 steps: t = 1, 0.75025, 0.5005, 0.25075, 0.001, hence int(6 * 0.24975) = 1,
    int(5 * 0.33289) = 1, int(4 * 0.49900) = 1 and the other 3; for 3 tokens in 3 steps t = 1, 0.667, 0.334, 0.001,
    hence int(3 * 0.333) = 0, int(3 * 0.49925) = 1 and 2, and the first step does not look.
    """
    write_dream(tmp_path)
    dream = load_folder(tmp_path, "dream", CPU)
    engine = make(dream, name, None)
    generate(engine, [Request(PROMPTS[0], 0)], GREEDY)
    assert engine.work.positions == 2 * 19 + 3 * (13 + 7 if name == "prefix_cache" else 7 + 7)
    few = make(dream, name, None)
    generate(few, [Request(PROMPTS[0], 0)], SamplerConfig(length=3, block_length=3, steps_per_block=3))
    assert few.work.positions == 10 + 4 and few.work.calls == 2


@pytest.mark.parametrize(
    "tokens, every, said",
    [
        (3, 2, "refresh_every 2 is never reached in the 2 denoiser calls of a block in the order 'entropy'; use null"),
        (2, None, "engine.name 'dual_cache' keeps .*steps_per_block 2 in the order 'entropy' there are none"),
    ],
)
def test_what_the_order_of_the_family_leaves_without_effect_is_refused(
    tmp_path: Path, tokens: int, every: int | None, said: str
) -> None:
    """If it fails, Dream is sampled with a cache that is never read, since its schedule has fewer calls than steps.

    Of 3 tokens in 3 steps the first unmasks int(3 * 0.333) = 0, of 2 in 2 int(2 * 0.4995) = 0. A configuration that
    leaves the order to the family does not know, and LLaDA's has all of them.
    """
    settings = SamplerConfig(length=tokens, block_length=tokens, steps_per_block=tokens)
    rollout = {"sampler": {"length": tokens, "block_length": tokens, "steps_per_block": tokens}}
    engine = {"name": "dual_cache", "refresh_every": every}
    choice = RolloutConfig.model_validate({**rollout, "engine": engine}).engine.root
    write_dream(tmp_path)
    dream = engines.make(choice, load_folder(tmp_path, "dream", CPU))
    with pytest.raises(ConfigError, match=said):
        next(iter(dream.generate(requests(), settings, 4)))
    assert dream.work.calls == 0
    by_confidence = settings.model_copy(update={"order": "confidence"})
    assert dream.resolve(by_confidence) == by_confidence.model_copy(update={"top_p": 1.0})
