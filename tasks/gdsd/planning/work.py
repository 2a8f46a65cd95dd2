"""Floating-point operations, and how long a device takes for them.

Seconds are operations over the share of a device's peak that is usually reached. Only products are counted. Neither
the draw of tokens nor the work that makes weights of 4 bits dense is.
"""

from dataclasses import dataclass
from math import log2
from typing import TypeGuard

from tasks.gdsd.config.objective import CoupledMasks, GdsdConfig, ObjectiveConfig, PromptMasks, Wd1Config
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.sampler import (
    CacheConfig,
    EngineConfig,
    ExactConfig,
    PrefixCacheConfig,
    SamplerConfig,
    ThresholdConfig,
)
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.planning.shapes import Shape

# Share of a GPU's peak that a model of billions of weights reaches. An assumption: `python -m tests.gpu` measures it,
# and the page that it writes says which number would stand here.
REACHED = 0.45


@dataclass(frozen=True)
class Device:
    """A device: its memory, and dense products per second by precision."""

    name: str
    gib: float
    half: float  # FLOP/s in bfloat16 with float32 sums
    full: float  # FLOP/s in float32, without TensorFloat-32, which torch has off by default
    reached: float = REACHED
    is_gpu: bool = True


# Data sheets, dense; memory is what torch reports. Under the names of `config.hardware`, and one more.
DEVICES = {
    "h200": Device("NVIDIA H200", 139.8, 989e12, 67e12),
    "h100": Device("NVIDIA H100 SXM", 79.1, 989e12, 67e12),
    "a100-80gb": Device("NVIDIA A100 80 GB", 79.1, 312e12, 19.5e12),
    "a100": Device("NVIDIA A100 40 GB", 39.4, 312e12, 19.5e12),
    "l40s": Device("NVIDIA L40S", 44.4, 362e12, 91.6e12),
    "l4": Device("NVIDIA L4", 22.0, 121e12, 30.3e12),
    "a10g": Device("NVIDIA A10G", 22.0, 70e12, 31.2e12),
    "rtx4090": Device("NVIDIA RTX 4090", 23.6, 165e12, 82.6e12),
}


def reached_by_cpu(width: int) -> float:
    """Returns the share of a CPU's peak that a model of a width reaches.

    Measured on a core of a Xeon, against a large product: a width of 512 reached 0.78 in rollouts and 0.84 in updates,
    one of 64 reached 0.24 and 0.41. In between it is taken to grow with the logarithm.
    """
    return 0.3 + 0.5 * min(1.0, max(0.0, log2(width / 64) / 3))


@dataclass(frozen=True)
class Work:
    """Floating-point operations, a product of n x k and k x m counting 2 n k m."""

    network: float = 0.0  # in the precision of the weights, with an adapter that is in the same
    logits: float = 0.0  # and readouts, always in float32
    adapter: float = 0.0  # in training, where it is in float32

    def __add__(self, other: "Work") -> "Work":
        return Work(self.network + other.network, self.logits + other.logits, self.adapter + other.adapter)

    def __mul__(self, factor: float) -> "Work":
        return Work(self.network * factor, self.logits * factor, self.adapter * factor)

    @property
    def total(self) -> float:
        return self.network + self.logits + self.adapter

    def parts(self, device: Device, halves: bool) -> dict[str, float]:
        """Returns the seconds of each kind of products; those of the network in bfloat16 where it halves."""
        speed = dict.fromkeys(vars(self), device.full) | ({"network": device.half} if halves else {})
        return {kind: products / speed[kind] / device.reached for kind, products in vars(self).items()}

    def seconds(self, device: Device, halves: bool) -> float:
        return sum(self.parts(device, halves).values())


def forward(shape: Shape, tokens: int, adapter: int = 0, autocast: bool = False) -> Work:
    """Returns the operations of one sequence of T tokens through the network, without logits.

    Each weight of a linear map counts 2 T; attention reads keys and values, 2 T^2 H W each, in every block. Products
    of an adapter are float32 unless autocast says otherwise.
    """
    attention = 4 * tokens**2 * shape.heads * shape.head_width * shape.layers
    beside = 2.0 * tokens * adapter
    return Work(2.0 * tokens * shape.body + attention + beside * autocast, adapter=beside * (not autocast))


def look(shape: Shape, tokens: int, computed: int, rows: int, beside: AdapterConfig | None = None) -> Work:
    """Returns the operations of a sampler's look at a canvas of T tokens, without logits.

    Only the states of some tokens are computed, which read keys and values of all; the last block asks only for the
    rows to predict, but computes their keys and values.

    Args:
        beside: an adapter that is not merged. It is frozen in the base's precision, as its maps' products are.
    """
    maps = {name: inputs * outputs for name, (inputs, outputs) in shape.maps().items()}
    if beside is not None:
        maps |= {name: maps[name] + beside.rank * sum(shape.maps()[name]) for name in beside.targets}
    whole, pairs = sum(maps.values()), maps["k_proj"] + maps["v_proj"]
    reading = 4 * tokens * shape.heads * shape.head_width
    full_blocks = (shape.layers - 1) * computed * (2 * whole + reading)
    last_block = 2 * computed * pairs + rows * (2 * (whole - pairs) + reading)
    return Work(float(full_blocks + last_block))


def logits(shape: Shape, rows: int) -> Work:
    """Returns the operations of the logits of some rows, 2 V D each; they are always float32."""
    return Work(0.0, 2.0 * rows * shape.head)


def hidden_rows(sampler: SamplerConfig) -> list[int]:
    """Returns how many tokens of a block are still hidden at each look; steps that unmask nothing do not look."""
    shares = sampler.shares()
    left = [sampler.block_length - sum(shares[:step]) for step in range(len(shares))]
    return [rows for rows, share in zip(left, shares, strict=True) if share]


def completion(
    shape: Shape,
    prompt: int,
    sampler: SamplerConfig,
    beside: AdapterConfig | None = None,
    engine: EngineConfig | None = None,
) -> Work:
    """Returns the operations of one completion, of resolved settings.

    An engine that keeps keys and values computes all tokens where that is due, and else those of the block, with the
    prefix cache also those after it; where the row before predicts a token it computes one more, which is left out.
    Compiled, the last block is asked for all rows of the sampler's block. It is at most so much where `may_end_early`.

    Args:
        beside: an adapter that is not merged, see `look`.
    """
    engine = ExactConfig() if engine is None else engine
    tokens = prompt + sampler.length
    work = Work()
    for block in range(sampler.blocks):
        for step, rows in enumerate(hidden_rows(sampler)):
            computed = tokens
            if isinstance(engine, CacheConfig) and step % (engine.refresh_every or 2**30):
                after = sampler.length - block * sampler.block_length
                computed = after if isinstance(engine, PrefixCacheConfig) else sampler.block_length
            asked = sampler.block_length if isinstance(engine, ExactConfig) and engine.compile else rows
            work += look(shape, tokens, computed, asked, beside) + logits(shape, rows)
    return work


def may_end_early(sampler: SamplerConfig, engine: EngineConfig) -> bool:
    """Says whether completions may take fewer blocks or steps than are counted."""
    return sampler.stop_at_end or isinstance(engine, ThresholdConfig)


def views(objective: ObjectiveConfig, sampler: SamplerConfig) -> int:
    """C: how many copies of a completion are read, which a sampler of resolved settings made."""
    if isinstance(objective, PromptMasks):
        return objective.mask_draws
    assert isinstance(objective, CoupledMasks)
    if reads_path(objective):
        steps = sampler.blocks * sampler.calls_per_block
        return steps if objective.path_states is None else min(steps, objective.path_states)
    return objective.mask_pairs * (2 if objective.reads_complement else 1)


def rows_read(objective: ObjectiveConfig, sampler: SamplerConfig) -> float:
    """Returns how many hidden tokens of a completion are read on average, over all views.

    A pair of views hides every token once; masks without their complement hide half of them; all states of a path read
    each once.
    """
    if isinstance(objective, PromptMasks):
        return float(objective.mask_draws * sampler.length)
    if reads_path(objective):
        return views(objective, sampler) * sampler.length / (sampler.blocks * sampler.calls_per_block)
    return views(objective, sampler) * sampler.length / 2


def reads_path(objective: ObjectiveConfig) -> TypeGuard[GdsdConfig]:
    """Says whether views are the states of the sampler's path."""
    return isinstance(objective, GdsdConfig) and objective.mask_source == "path"


def unit(objective: ObjectiveConfig, group: int) -> int:
    """Returns how many completions are read together at least, as `microbatch.smallest` does."""
    compared = isinstance(objective, Wd1Config) or (isinstance(objective, GdsdConfig) and objective.baseline == "group")
    return group if compared else 1


def micro_batch(config: DistillConfig, group: int, completions: int, prompt: int, sampler: SamplerConfig) -> int:
    """Returns the completions of a micro-batch when all prompts have the same tokens, as `MicroBatch.cut` has it."""
    least, tokens = unit(config.objective, group), prompt + sampler.length
    size = max(1, config.compute.micro_batch_tokens // (least * tokens * views(config.objective, sampler))) * least
    return min(size, completions)


def readout(shape: Shape, objective: ObjectiveConfig, rows: float, trained: bool, head_trained: bool) -> Work:
    """Returns the operations of scoring some rows.

    `log_prob`: the logits, with a gradient also the mean row under their softmax, and for a trained head the logits
    again and its gradient: 1, 2 or 4 products of 2 V D. The centred readouts need a few products of D a row.
    """
    needs_logits = objective.reads == "log_prob" or objective.needs_log_prob
    products = (4 if head_trained else 2 if trained else 1) if needs_logits else 0
    return Work(0.0, products * 2.0 * rows * shape.head)


def epoch(
    shape: Shape, config: DistillConfig, completions: int, prompt: int, sampler: SamplerConfig, adapter: int
) -> Work:
    """Returns the operations of a round's updates, if every completion carries a signal.

    A backward pass costs a forward one for the gradient by the states, and another for that by the weights where they
    are trained; recomputing what was not kept costs a further forward pass. Attention's backward pass is 2.5 forward
    ones, counted as 2. The reference is read once, and so is the policy where it is an average of what is trained.
    """
    objective, compute, tokens = config.objective, config.compute, prompt + sampler.length
    copies = views(objective, sampler)
    autocast, recomputes = compute.precision == "bfloat16", compute.gradient_checkpointing
    base = forward(shape, tokens) * copies
    added = forward(shape, tokens, adapter, autocast)
    added = Work(added.network - forward(shape, tokens).network, adapter=added.adapter) * copies
    rows = rows_read(objective, sampler)
    passes = (2 if adapter else 3) + recomputes
    update = base * passes + added * (3 + recomputes) + readout(shape, objective, rows, True, not adapter)
    work = update * (completions * config.inner_steps)
    if objective.needs_reference:
        work += (base + readout(shape, objective, rows, False, False)) * completions
    if config.ema_decay > 0:
        work += (base + added + readout(shape, objective, rows, False, False)) * completions
    if objective.candidates is not None:
        work += logits(shape, 1) * (rows * completions)
    return work
