"""What a step costs beside its products: waits for the device, and kernels that Python asks for one by one."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.gdsd.config.sampler import (
    DualCacheConfig,
    EngineConfig,
    ExactConfig,
    PrefixCacheConfig,
    SamplerConfig,
    ThresholdConfig,
)
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.rollout import engines
from tasks.gdsd.rollout.engines.base import Request
from tasks.gdsd.rollout.engines.unmasking import Unmasking, make_rules


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.0}, {"order": "entropy", "top_p": 0.9, "top_k": 5}, {"ban": ["1"], "top_p": 0.5}],
    ids=["free", "greedy", "entropy", "filtered"],
)
@pytest.mark.parametrize(
    "config",
    [ExactConfig(), PrefixCacheConfig(), DualCacheConfig(), ThresholdConfig()],
    ids=lambda config: config.name,
)
def test_no_value_is_looked_at_inside_a_block(
    denoiser: Denoiser, config: EngineConfig, options: dict[str, object]
) -> None:
    """If it fails, every step waits for the GPU to finish before the next one can be handed to it.

    Tensors of the device 'meta' have no values, so whoever looks at one is refused.
    """
    denoiser.to("meta")
    engine = engines.make(config, denoiser)
    assert isinstance(engine, Unmasking)
    if isinstance(config, ThresholdConfig):
        options = {**options, "order": "confidence"}
    values = {"length": 8, "block_length": 4, "steps_per_block": 4}
    settings = engine.resolve(SamplerConfig.model_validate(values | options))
    canvas = engine._canvas([Request([3, 4, 5], 0), Request([4], 1)], [0, 1], settings)
    canvas.block = slice(canvas.start + 4, canvas.start + 8)
    with torch.no_grad():
        if isinstance(config, ThresholdConfig):  # the one that has to look, so the device does refuse
            with pytest.raises(NotImplementedError, match="no data"):
                engine.unmask_block(canvas, settings, make_rules(settings, denoiser), 4)
        else:
            engine.unmask_block(canvas, settings, make_rules(settings, denoiser), 4)


class Kernels(TorchDispatchMode):
    """Counts by name what torch is asked to compute; a view of what is there computes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not func.is_view:
            self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def kernels(denoiser: Denoiser, config: EngineConfig, options: dict[str, object]) -> Counter[str]:
    """Returns what the eight steps of a block compute; the fixture's network has two layers."""
    engine = engines.make(config, denoiser)
    assert isinstance(engine, Unmasking)
    values = {"length": 8, "block_length": 8, "steps_per_block": 8, "order": "confidence"}
    settings = engine.resolve(SamplerConfig.model_validate(values | options))
    canvas, rules = engine._canvas([Request([3, 4, 5], 0)], [0], settings), make_rules(settings, denoiser)
    canvas.block = slice(canvas.start, canvas.start + 8)
    with torch.no_grad(), Kernels() as counted:
        engine.unmask_block(canvas, settings, rules, 0)
    return counted.names


@pytest.mark.parametrize(
    "options, most",
    [({}, 181), ({"temperature": 0.0}, 177), ({"order": "entropy", "top_p": 0.9, "top_k": 5}, 186)],
    ids=["free", "greedy", "entropy"],
)
@pytest.mark.parametrize("config", [ExactConfig(), DualCacheConfig()], ids=lambda config: config.name)
def test_a_step_asks_for_few_kernels(
    denoiser: Denoiser, config: EngineConfig, options: dict[str, object], most: int
) -> None:
    """If it fails, Python asks for more in each step, for which a GPU waits where the network or the batch is small.

    The bounds are what there is, and a twentieth more. A value is looked at by three names.
    """
    counted = kernels(denoiser, config, options)
    assert not {"_local_scalar_dense", "nonzero", "equal"} & set(counted)
    assert counted.total() <= 8 * most


def test_a_value_that_is_looked_at_is_counted(denoiser: Denoiser) -> None:
    """If it fails, the test above cannot see what it forbids: the threshold engine has to look."""
    assert {"_local_scalar_dense", "nonzero"} <= set(kernels(denoiser, ThresholdConfig(), {}))
