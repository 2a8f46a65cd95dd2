"""What the host does while a block is unmasked: nothing that waits for a GPU, and no more for more sequences.

The tensors are torch's on the device `meta`, which have shapes and no values: to look at one raises an error.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.gdsd.config.sampler import (
    DualCacheConfig,
    EngineConfig,
    ExactConfig,
    PrefixCacheConfig,
    SamplerConfig,
    ThresholdConfig,
)
from tasks.gdsd.denoiser.partial import states_at
from tasks.gdsd.rollout import engines
from tasks.gdsd.rollout.engines.base import Request
from tasks.gdsd.rollout.engines.unmasking import Unmasking, make_rules
from tests.gdsd.conftest import build

BLOCK = SamplerConfig(length=16, block_length=8, steps_per_block=4, order="confidence")
MOST = 120  # operations of a step outside the network; each is a launch, of about 5 microseconds
ENGINES: list[EngineConfig] = [ExactConfig(), PrefixCacheConfig(), DualCacheConfig()]


class Operations(TorchDispatchMode):
    """Counts what the host asks of a device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        operation: OpOverload,
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        self.counts[str(operation)] += 1
        return operation(*args, **(kwargs or {}))


def counted(work: Callable[[], object]) -> int:
    with torch.no_grad(), Operations() as operations:
        work()
    return sum(operations.counts.values())


def of_block(config: EngineConfig, settings: SamplerConfig, lengths: Sequence[int]) -> int:
    """Counts the operations of a completion's first block, for prompts of these lengths."""
    denoiser = build().to("meta")
    engine = engines.make(config, denoiser)
    assert isinstance(engine, Unmasking)
    settings = engine.resolve(settings)
    canvas = engine._canvas([Request([5] * length, 0) for length in lengths], list(range(len(lengths))), settings)
    canvas.block = slice(canvas.start, canvas.start + settings.block_length)
    rules = make_rules(settings, denoiser)
    return counted(lambda: engine.unmask_block(canvas, settings, rules, 0))


def of_network() -> int:
    """Counts the operations of a look at a whole canvas."""
    denoiser = build().to("meta")
    ids, places = (torch.zeros(2, tokens, dtype=torch.int64, device="meta") for tokens in (20, 8))
    attention = torch.ones_like(ids, dtype=torch.bool)
    return counted(lambda: states_at(denoiser, ids, attention, places))


@pytest.mark.parametrize("changed", [{"temperature": 0.0}, {}, {"top_p": 0.9, "top_k": 5}], ids=str)
@pytest.mark.parametrize("config", ENGINES, ids=lambda config: config.name)
def test_a_block_neither_waits_for_the_device_nor_does_more_for_more_sequences(
    config: EngineConfig, changed: dict[str, object]
) -> None:
    """If it fails, a GPU stands still in each step, until the host has seen a value or gone through the sequences."""
    settings = BLOCK.model_copy(update=changed)
    assert of_block(config, settings, [3, 5]) == of_block(config, settings, [3, 4, 5, 5, 5, 9])


@pytest.mark.parametrize("config", ENGINES, ids=lambda config: config.name)
def test_a_step_asks_for_few_operations_beside_the_network(config: EngineConfig) -> None:
    """If it fails, small models wait for their launches, which are most of a step on a GPU."""
    steps = BLOCK.calls_per_block
    assert of_block(config, BLOCK, [3, 5]) / steps - of_network() <= MOST


def test_looking_at_a_value_is_noticed() -> None:
    """If it fails, these tests see nothing: the threshold engine has to know which sequences are done."""
    with pytest.raises(NotImplementedError, match="meta"):
        of_block(ThresholdConfig(), BLOCK, [3, 5])
