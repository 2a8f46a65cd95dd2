"""Bytes on a device at the peak of each stage.

Fragments of the allocator and the libraries themselves come on top, up to 1 GiB on a GPU. b is the bytes of a number
inside the network.
"""

from dataclasses import dataclass, replace
from math import ceil, prod

from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.sampler import CacheConfig, EngineConfig, ExactConfig, SamplerConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.planning.shapes import Shape
from tasks.gdsd.planning.work import micro_batch, rows_read, views

GIB = 2**30
FLOAT = 4  # bytes of float32: what is trained, scores, logits; all weights on the CPU
HALF = 2  # bytes of bfloat16: a published model's weights on a GPU, where they are not trained
PACKED = 4.5 / 8  # bytes of a weight of 4 bits, see denoiser.quantization
BLOCK_BYTES = 2**25  # of logits at a time in training, see denoiser.head
LOGITS_BYTES = 2**28  # of logits at a time in sampling, see rollout.engines.choice
CHUNK_BYTES = {"cpu": 2**24, "cuda": 2**27}  # of probabilities at a time, see there


@dataclass(frozen=True)
class Memory:
    """Bytes on a device at a stage's peak."""

    weights: float
    reference: float = 0.0  # a second copy, where there is no adapter to switch off, or an earlier run's adapter
    adapter: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    caches: float = 0.0  # keys and values that an approximate engine keeps
    activations: float = 0.0

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def beside(adapter: AdapterConfig | None, b: int) -> AdapterConfig | None:
    """Returns the adapter where it stays beside the base while sampling, see denoiser.exact_sum.

    It is merged into float32 weights, which weights of 4 bits never are.
    """
    return adapter if adapter is not None and (b < FLOAT or adapter.base_bits is not None) else None


def of_sampling(
    shape: Shape,
    batch: int,
    prompt: int,
    sampler: SamplerConfig,
    b: int,
    adapter: AdapterConfig | None = None,
    engine: EngineConfig | None = None,
    is_gpu: bool = False,
) -> Memory:
    """Returns what sampling a batch holds, in rollouts and evaluations; the optimizer's moments stay in their file.

    The network: the states, a block's residual stream and 3 F inside its MLP, (3 D + 3 F) b a token. The choice of
    tokens, of which there are most in a block's first step: states of the rows, logits in float32, twice where the head
    has to be widened, and probabilities of a part of them, as if all were float64: two copies, six where the unlikely
    ones are left out, which takes their order.

    An adapter arrives in float32. Then it is rounded to b where it stays beside the base, or it is gone: merging takes
    the product of its halves, of a map's size. Before there is a batch, that is what there is beyond the weights.
    """
    engine = ExactConfig() if engine is None else engine
    tokens = batch * (prompt + sampler.length)
    network = tokens * (3 * shape.width + 3 * shape.inner) * b
    rows = batch * sampler.block_length
    of_logits = min(rows * shape.vocabulary * FLOAT, LOGITS_BYTES) * (2 if b == HALF else 1)
    filtered = bool(sampler.top_k) or (sampler.top_p or 1.0) < 1
    chunk = min(2 * rows * shape.vocabulary * FLOAT, CHUNK_BYTES["cuda" if is_gpu else "cpu"])
    drawing = tokens * shape.width * b + rows * shape.width * (b + FLOAT) + of_logits + chunk * (6 if filtered else 2)
    is_cached = isinstance(engine, CacheConfig)
    arrives = settled = merging = 0
    if adapter is not None:
        arrives = shape.adapter(adapter) * FLOAT
        if beside(adapter, b) is not None:
            settled = shape.adapter(adapter) * b
        else:
            maps = shape.maps()
            merging = max(maps[name][0] * maps[name][1] for name in adapter.targets) * FLOAT
    found = Memory(
        weights=shape.parameters * b,
        adapter=settled,
        caches=2.0 * tokens * shape.layers * shape.kv_heads * shape.head_width * b if is_cached else 0.0,
        activations=max(network, drawing, arrives + merging - settled),
    )
    return _packed(found, shape, b, adapter)


def _packed(memory: Memory, shape: Shape, b: int, adapter: AdapterConfig | None) -> Memory:
    """Where a base has 4 bits: the same with its blocks' weights packed, see denoiser.quantization.

    The largest map is dense while it computes.
    """
    if adapter is None or adapter.base_bits is None:
        return memory
    dense = max(inputs * outputs for inputs, outputs in shape.maps().values()) * b
    saved = shape.body * (b - PACKED)
    return replace(memory, weights=memory.weights - saved, activations=memory.activations + dense)


def kept(shape: Shape, weight: int, within: int, autocast: bool, adapter: AdapterConfig | None) -> float:
    """Returns the bytes that a block keeps of one token for the backward pass.

    - Both norms keep their input in float32 (with float32 weights that is the residual stream itself): 2 D. With all
      weights trained they also keep the normalised states, 2 D.
    - Attention keeps queries, keys, values and its output: (2 H + 2 K) W in b.
    - The MLP keeps the gate before and after its activation, and the other half: 3 F in b.
    - Trained maps keep their inputs: D for q, k and v together, D for gate and up together, F for down, and for o
      attention's output, which is kept already. Of a float32 network under autocast each has a copy of its own in half
      precision. An adapter also keeps r numbers between its halves.

    Args:
        weight: bytes of a weight.
        within: b.
        autocast: whether precision is lowered for products alone.
    """
    width, inner, maps = shape.width, shape.inner, shape.maps()
    attention = 2 * (shape.heads + shape.kv_heads) * shape.head_width
    total = 2.0 * width * FLOAT + (attention + 3 * inner) * within
    if adapter is None:
        states, inputs = 2 * width * weight, (5 if autocast else 2) * width + inner
        return total + states + inputs * within
    own: dict[str, int] = {name: maps[name][0] for name in adapter.targets}
    total += len(own) * adapter.rank * within
    if weight > within:
        return total + sum(own.values()) * within
    shared = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",)]
    return total + sum(max((own.get(name, 0) for name in names), default=0) for names in shared) * within


def of_epoch(
    shape: Shape,
    config: DistillConfig,
    completions: int,
    group: int,
    prompt: int,
    sampler: SamplerConfig,
    weight: int,
    adapter: AdapterConfig | None = None,
    goes_on: bool = False,
) -> Memory:
    """Returns what an epoch holds at its peak, which is one of two moments.

    Either a micro-batch has been read: its activations, and the sum of the other micro-batches' gradients. Gradients by
    weights take the place of what is released on the way back. Or the optimizer steps: the sum of gradients, those of
    the last micro-batch, and a temporary of their size.

    What is trained is float32: weights, gradients, Adam's two moments, and the policy where it is an average. A second
    model for the reference has the maps of its blocks in the precision of products.

    With `fsdp` a process has its part of the blocks' weights, gradients and moments, and two blocks whole: one computes
    while the next is fetched. Embedding and head stay whole. That may be less than it has while it loads: both models
    whole.

    Args:
        weight: bytes of a weight that is not trained.
        goes_on: whether the adapter is an earlier run's, whose weights are the reference's too.
    """
    compute = config.compute
    weight = FLOAT if adapter is None else weight
    within = HALF if compute.precision == "bfloat16" else weight
    size = micro_batch(config, group, completions, prompt, sampler)
    several = ceil(completions / size) > 1
    processes = compute.everywhere if compute.sharding == "fsdp" else 1
    outside = shape.head * (1 if shape.tied else 2) + shape.width
    blocks = shape.parameters - outside
    there = blocks / processes + (2 * blocks / shape.layers if processes > 1 else 0)
    trained = (outside + blocks / processes) if adapter is None else shape.adapter(adapter) / processes
    gradient = trained * FLOAT
    reading = read_micro_batch(shape, config, size, prompt, sampler, weight, within, adapter)
    gradients, activations = max((gradient * several, reading), (gradient * (1 + several), gradient), key=sum)
    has_second = config.objective.needs_reference and adapter is None
    reference = outside * FLOAT + there * within if has_second else 0.0
    if config.objective.needs_reference and adapter is not None and goes_on:
        reference = shape.adapter(adapter) * FLOAT
    found = Memory(
        weights=(outside + there) * weight,
        reference=reference,
        adapter=0.0 if adapter is None else gradient,
        gradients=gradients,
        optimizer=(2 + (config.ema_decay > 0)) * gradient,
        activations=activations,
    )
    loaded = shape.parameters * weight + (outside * FLOAT + blocks * within if has_second else 0.0)
    found = replace(found, activations=found.activations + max(0.0, loaded - found.total))
    return _packed(found, shape, weight, adapter)


def staying(
    sampled: Memory, trained: Memory, shape: Shape, config: DistillConfig, b: int, adapter: AdapterConfig | None
) -> Memory:
    """Returns what sampling holds where the policy stays in memory between rounds, see denoiser.sampling.

    What is trained waits in float32: the adapter, and the maps that it was merged into, or all weights beside their
    halves. So do its moments, unless they are spread, and the reference.
    """
    spread = config.compute.sharding == "fsdp"
    waiting = 0.0
    if adapter is None:
        waiting = shape.parameters * FLOAT if b < FLOAT else 0.0
    elif beside(adapter, b) is None:
        maps = shape.maps()
        waiting = shape.layers * sum(maps[name][0] * maps[name][1] for name in adapter.targets) * FLOAT
    return replace(
        sampled,
        weights=sampled.weights + waiting,
        reference=trained.reference,
        adapter=sampled.adapter + (0 if adapter is None else shape.adapter(adapter) * FLOAT),
        optimizer=0.0 if spread else trained.optimizer,
    )


def read_micro_batch(
    shape: Shape,
    config: DistillConfig,
    size: int,
    prompt: int,
    sampler: SamplerConfig,
    weight: int,
    within: int,
    adapter: AdapterConfig | None,
) -> float:
    """Returns the bytes of a micro-batch that has been read, on its way back.

    They are what its blocks keep, its states, the gradients on their way through a block, and the readout's slopes.
    Where products are in half precision, the blocks also keep float32 weights and the adapter rounded, but an adapted
    map's weights are rounded anew.

    Args:
        size: completions.
        prompt: tokens of a prompt.
        weight: bytes of a weight.
        within: b.
    """
    objective, compute = config.objective, config.compute
    count = size * views(objective, sampler) * (prompt + sampler.length)
    block = kept(shape, weight, within, compute.precision == "bfloat16", adapter)
    adapted = 0 if adapter is None else shape.layers * sum(prod(shape.maps()[name]) for name in adapter.targets)
    rounded = (shape.body - adapted) * HALF if within < weight else 0
    if adapter is not None and within < FLOAT:
        rounded += shape.adapter(adapter) * within
    if compute.gradient_checkpointing:
        inputs = shape.width * weight  # of a block, its part of the residual stream
        block, rounded = shape.layers * inputs + block, rounded // shape.layers
    else:
        block *= shape.layers
    states = shape.width * (2 * FLOAT + weight)
    rows = size * rows_read(objective, sampler)
    full_rows = objective.reads == "log_prob" or objective.needs_log_prob
    slopes = rows * shape.width * FLOAT * (3 if full_rows else 2)
    on_the_way = count * (3 * shape.inner + 2 * shape.width) * within
    buffers = 2 * min(BLOCK_BYTES, rows * shape.vocabulary * FLOAT) if full_rows else 0.0  # logits, and head rows cast
    return count * (block + states) + rounded + slopes + max(on_the_way, buffers)
