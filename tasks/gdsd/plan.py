"""What a run will need before it starts: bytes per device, floating-point operations and seconds per round.

Everything follows from a configuration and a model's shape; neither torch nor weights are needed. Bytes are what the
stages hold at their peak; allocator fragments and the libraries themselves, up to 1 GiB on a GPU, come on top. Seconds
are operations over the share of a device's peak that dense products usually reach, which is an assumption until
tests/bench/test_gpu.py has measured it on the card.

Letters: T tokens of a sequence with its prompt, L of its completion, V vocabulary, D width, F width inside the MLP,
H heads of width W, of which K have keys and values; b bytes of a number inside the network.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from tasks.gdsd.config import AdapterConfig, DistillConfig, EvaluationConfig, PolicyConfig, TrainConfig
from tasks.gdsd.denoiser import families
from tasks.gdsd.denoiser.alphabet import ALPHABET
from tasks.gdsd.denoiser.families.base import Family, Values
from tasks.gdsd.denoiser.families.tiny import TINY
from tasks.gdsd.denoiser.source import HubModel
from tasks.gdsd.domains import make
from tasks.gdsd.engine_config import SamplerConfig
from tasks.gdsd.errors import CheckpointError
from tasks.gdsd.objective_config import CoupledMasks, GdsdConfig, ObjectiveConfig, PromptMasks, Wd1Config

GIB = 2**30
FLOAT = 4  # bytes of float32: adapters, scores, logits; the weights too on the CPU
HALF = 2  # bytes of bfloat16: a published model's weights on a GPU
BLOCK_BYTES = 2**25  # of logits at a time, see readout.BLOCK_BYTES
LETTERS_PER_TOKEN, TEMPLATE_TOKENS = 3.5, 16  # of English in the published vocabularies; a chat template's own tokens


@dataclass(frozen=True)
class Shape:
    """The sizes of a stock Llama, Qwen2 or Qwen3."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    tied: bool = False  # the head is the embedding
    biased: bool = False  # q, k and v have biases
    normed: bool = False  # each head's queries and keys are normalised

    def maps(self) -> dict[str, tuple[int, int]]:
        """Returns inputs and outputs of a block's linear maps."""
        queries, pairs = self.heads * self.head_width, self.kv_heads * self.head_width
        return {
            "q_proj": (self.width, queries),
            "k_proj": (self.width, pairs),
            "v_proj": (self.width, pairs),
            "o_proj": (queries, self.width),
            "gate_proj": (self.width, self.inner),
            "up_proj": (self.width, self.inner),
            "down_proj": (self.inner, self.width),
        }

    @property
    def body(self) -> int:
        """Weights of all blocks' linear maps."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.maps().values())

    @property
    def head(self) -> int:
        """V D: weights of the map from states to logits."""
        return self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All weights: embedding, blocks with two norms each, the last norm, and the head unless it is tied."""
        biases = (self.heads + 2 * self.kv_heads) * self.head_width if self.biased else 0
        norms = 2 * self.width + (2 * self.head_width if self.normed else 0)
        return self.body + self.layers * (biases + norms) + self.width + self.head * (1 if self.tied else 2)

    def adapter(self, config: AdapterConfig) -> int:
        """Weights of a LoRA adapter: A has rank x inputs, B outputs x rank, for each target of each block."""
        maps = self.maps()
        return self.layers * config.rank * sum(sum(maps[target]) for target in config.targets)


# For where neither files nor network are at hand; tests/gdsd/test_plan.py compares them with the published counts.
PUBLISHED = {
    "GSAI-ML/LLaDA-8B-Instruct": (families.named("llada"), Shape(126464, 4096, 12288, 32, 32, 32, 128)),
    "GSAI-ML/LLaDA-1.5": (families.named("llada"), Shape(126464, 4096, 12288, 32, 32, 32, 128)),
    "Dream-org/Dream-v0-Instruct-7B": (
        families.named("dream"),
        Shape(152064, 3584, 18944, 28, 28, 4, 128, biased=True),
    ),
    "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1": (
        families.named("qwen3_mdlm"),
        Shape(151936, 1024, 3072, 28, 16, 8, 128, tied=True, normed=True),
    ),
}


def shape_of_config(values: Values) -> tuple[Family, Shape]:
    """Reads the shape from the content of a config.json.

    Raises:
        CheckpointError: it is of no known family, or is refused by it.
    """
    family = families.of_config(values)
    said = family.configure(values)

    def whole(name: str, default: int | None = None) -> int:
        found = said.get(name, default)
        if not isinstance(found, int):
            raise CheckpointError(f"config.json is refused: {name} is {found!r}, but it should be a whole number")
        return found

    heads = whole("num_attention_heads")
    shape = Shape(
        vocabulary=whole("vocab_size"),
        width=whole("hidden_size"),
        inner=whole("intermediate_size"),
        layers=whole("num_hidden_layers"),
        heads=heads,
        kv_heads=whole("num_key_value_heads", heads),
        head_width=whole("head_dim", whole("hidden_size") // heads),
        tied=bool(said.get("tie_word_embeddings")),
        biased=family.architecture == "qwen2",
        normed=family.architecture == "qwen3",
    )
    return family, shape


def shape_of(config: PolicyConfig) -> tuple[Family, Shape]:
    """Returns family and shape of a run's base policy: from its files, the hub's cache, or what is known of it.

    Raises:
        CheckpointError: a published model is unknown and its config.json is not at hand.
    """
    if config.tiny is not None:
        tiny = config.tiny
        sizes = (tiny.hidden_size, tiny.intermediate_size, tiny.layers, tiny.heads, tiny.heads)
        return TINY, Shape(len(ALPHABET) + 3, *sizes, tiny.hidden_size // tiny.heads)
    assert config.model is not None  # the configuration sees to it
    if not isinstance(config.model, HubModel):
        return shape_of_config(_read(Path(config.model.path, "config.json")))
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(config.model.hub, "config.json", revision=config.model.revision)
    if isinstance(found, str):
        return shape_of_config(_read(Path(found)))
    if config.model.hub in PUBLISHED:
        return PUBLISHED[config.model.hub]
    raise CheckpointError(
        f"the shape of {config.model.hub} is not known: its config.json is not in the hub's cache; download that file, "
        f"or plan with one of {', '.join(PUBLISHED)}"
    )


def _read(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}, not an object")
    return values


@dataclass(frozen=True)
class Device:
    """A device: its memory, and dense products per second by precision."""

    name: str
    gib: float
    half: float  # FLOP/s in bfloat16 with float32 sums
    full: float  # FLOP/s in float32, without TensorFloat-32, which torch has off by default
    reached: float = 0.45  # share of the peak that a model of this kind reaches: an assumption
    is_gpu: bool = True


# Data sheets, dense; memory is what torch reports.
DEVICES = {
    "h200": Device("NVIDIA H200", 139.8, 989e12, 67e12),
    "h100": Device("NVIDIA H100 SXM", 79.1, 989e12, 67e12),
    "a100": Device("NVIDIA A100 80 GB", 79.1, 312e12, 19.5e12),
    "l40s": Device("NVIDIA L40S", 44.4, 362e12, 91.6e12),
    "rtx4090": Device("NVIDIA RTX 4090", 23.6, 165e12, 82.6e12),
}


@dataclass(frozen=True)
class Work:
    """Floating-point operations, a product of n x k and k x m counting 2 n k m."""

    network: float = 0.0  # in the precision of the weights
    float32: float = 0.0  # of adapters, logits and readouts

    def __add__(self, other: "Work") -> "Work":
        return Work(self.network + other.network, self.float32 + other.float32)

    def __mul__(self, factor: float) -> "Work":
        return Work(self.network * factor, self.float32 * factor)

    @property
    def total(self) -> float:
        return self.network + self.float32

    def seconds(self, device: Device, halves: bool) -> float:
        return (self.network / (device.half if halves else device.full) + self.float32 / device.full) / device.reached


def forward(shape: Shape, tokens: int, adapter: int = 0, autocast: bool = False) -> Work:
    """Returns the operations of one sequence of T tokens through the network, without logits.

    Each weight of a linear map counts 2 T; attention reads keys and values, 2 T^2 H W each, in every block. Products
    of an adapter are float32 unless autocast says otherwise.
    """
    attention = 4 * tokens**2 * shape.heads * shape.head_width * shape.layers
    beside = 2.0 * tokens * adapter
    return Work(2.0 * tokens * shape.body + attention + beside * autocast, beside * (not autocast))


def logits(shape: Shape, rows: int) -> Work:
    """Returns the operations of the logits of some rows, 2 V D each; they are always float32."""
    return Work(0.0, 2.0 * rows * shape.head)


def hidden_rows(sampler: SamplerConfig) -> list[int]:
    """Returns how many tokens of its block are still hidden at each step of a completion."""
    block, steps = sampler.block_length, sampler.steps_per_block
    shares = [block // steps + (step < block % steps) for step in range(steps)]
    rows = [block - sum(shares[:step]) for step in range(steps)]
    return rows * (sampler.length // block)


def completion(shape: Shape, prompt: int, sampler: SamplerConfig, adapter: int = 0) -> Work:
    """Returns the operations of one completion: at each step all its tokens, and logits where it is still hidden."""
    rows = hidden_rows(sampler)
    return forward(shape, prompt + sampler.length, adapter) * len(rows) + logits(shape, sum(rows))


def views(objective: ObjectiveConfig) -> int:
    """C: how many copies of a completion are read."""
    if isinstance(objective, PromptMasks):
        return objective.mask_draws
    assert isinstance(objective, CoupledMasks)
    return objective.mask_pairs * (2 if objective.reads_complement else 1)


def rows_read(objective: ObjectiveConfig, length: int) -> float:
    """Returns how many hidden tokens of a completion are read on average, over all views.

    A pair of views hides every token once; masks without their complement hide half of them.
    """
    if isinstance(objective, PromptMasks):
        return float(objective.mask_draws * length)
    return views(objective) * length / 2


def unit(objective: ObjectiveConfig, group: int) -> int:
    """Returns how many completions are read together at least, as `microbatch.smallest` does."""
    compared = isinstance(objective, Wd1Config) or (isinstance(objective, GdsdConfig) and objective.baseline == "group")
    return group if compared else 1


def micro_batch(config: DistillConfig, group: int, completions: int, tokens: int) -> int:
    """Returns the completions of a micro-batch when all have T tokens, as `MicroBatch.cut` has it."""
    least = unit(config.objective, group)
    size = max(1, config.compute.micro_batch_tokens // (least * tokens * views(config.objective))) * least
    return min(size, completions)


def readout(shape: Shape, objective: ObjectiveConfig, rows: float, trained: bool, head_trained: bool) -> Work:
    """Returns the operations of scoring some rows.

    `log_prob`: the logits, with a gradient also the mean row under their softmax, and for a trained head the logits
    again and its gradient: 1, 2 or 4 products of 2 V D. The centred readouts need a few products of D a row.
    """
    needs_logits = objective.reads == "log_prob" or objective.needs_log_prob
    products = (4 if head_trained else 2 if trained else 1) if needs_logits else 0
    return Work(0.0, products * 2.0 * rows * shape.head)


def epoch(shape: Shape, config: DistillConfig, completions: int, tokens: int, length: int, adapter: int) -> Work:
    """Returns the operations of a round's updates, if every completion carries a signal.

    A backward pass costs a forward one for the gradient by the states, and another for that by the weights where they
    are trained; recomputing what was not kept costs a further forward pass. Attention's backward pass is 2.5 forward
    ones, counted as 2. The reference is read once.
    """
    objective, compute = config.objective, config.compute
    autocast, recomputes = compute.precision == "bfloat16", compute.gradient_checkpointing
    base = forward(shape, tokens) * views(objective)
    added = forward(shape, tokens, adapter, autocast)
    added = Work(added.network - forward(shape, tokens).network, added.float32) * views(objective)
    rows = rows_read(objective, length)
    passes = (2 if adapter else 3) + recomputes
    update = base * passes + added * (3 + recomputes) + readout(shape, objective, rows, True, not adapter)
    work = update * (completions * config.inner_steps)
    if objective.needs_reference:
        work += (base + readout(shape, objective, rows, False, False)) * completions
    if objective.candidates is not None:
        work += logits(shape, 1) * (rows * completions)
    return work


def kept(shape: Shape, b: int, adapter: AdapterConfig | None) -> float:
    """Returns the bytes that a block keeps of one token for the backward pass.

    - Both norms keep their input in float32 (with b = 4 that is the residual stream itself): 2 D. With all weights
      trained they also keep the normalised states, in b.
    - Attention keeps queries, keys, values and its output: (2 H + 2 K) W in b.
    - The MLP keeps the gate before and after its activation, and the other half: 3 F in b.
    - Trained maps keep their inputs: D for q, k and v together, D for gate and up together, F for down, and for o
      attention's output, which is kept already. With b = 4 an adapter keeps the same; with b = 2 it keeps a float32
      copy for each of its targets. It also keeps r numbers between its halves.
    """
    width, inner = shape.width, shape.inner
    attention = 2 * (shape.heads + shape.kv_heads) * shape.head_width
    total = 2.0 * width * FLOAT + (attention + 3 * inner) * b
    if adapter is None:
        return total + (2 * width + 2 * width + inner) * b
    total += len(adapter.targets) * adapter.rank * FLOAT
    inputs: dict[str, int] = {name: sizes[0] for name, sizes in shape.maps().items() if name in adapter.targets}
    if b != FLOAT:
        return total + sum(inputs.values()) * FLOAT
    shared = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",)]
    return total + sum(max((inputs.get(name, 0) for name in names), default=0) for names in shared) * FLOAT


@dataclass(frozen=True)
class Memory:
    """Bytes on a device at a stage's peak."""

    weights: float
    reference: float = 0.0  # a second copy, where there is no adapter to switch off
    adapter: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def of_rollout(
    shape: Shape, batch: int, prompt: int, sampler: SamplerConfig, b: int, adapter: int = 0, moments: bool = True
) -> Memory:
    """Returns what sampling a batch holds.

    The network: the states, a block's residual stream and 3 F inside its MLP, (3 D + 3 F) b a token. The choice of
    tokens, of which there are most in a block's first step: logits in float32, and while one is drawn two copies in
    float64, 5 x 4 bytes for each row and token of the vocabulary; at temperature 0 two of float32. Moments are those of
    the checkpoint, which are loaded with it.
    """
    tokens = batch * (prompt + sampler.length)
    network = tokens * (3 * shape.width + 3 * shape.inner) * b
    drawing = tokens * 2 * shape.width * b + batch * sampler.block_length * (
        shape.vocabulary * FLOAT * (5 if sampler.temperature else 2) + shape.width * FLOAT
    )
    trained, width = (adapter, FLOAT) if adapter else (shape.parameters, b)
    return Memory(
        weights=shape.parameters * b,
        adapter=adapter * FLOAT,
        optimizer=2 * trained * width if moments else 0.0,
        activations=max(network, drawing),
    )


def of_epoch(
    shape: Shape,
    config: DistillConfig,
    completions: int,
    group: int,
    prompt: int,
    length: int,
    b: int,
    adapter: AdapterConfig | None = None,
    resumed: bool = True,
) -> Memory:
    """Returns what an epoch holds at its peak, which is one of two moments.

    When a micro-batch has been read: what its blocks keep, its states, the gradients on their way through a block, the
    readout's slopes, and the sum of the other micro-batches' gradients. Gradients by weights take the place of what is
    released on the way back. Or at the optimizer's step: gradients, the sum and those of the last micro-batch, and a
    temporary of their size. Adam has two moments; an epoch that goes on from another also holds the checkpoint's.

    With `fsdp` a process has its part of the blocks' weights, gradients and moments, and two blocks whole: one computes
    while the next is fetched. Embedding and head stay whole. (Loading and saving have the whole model for a while.)
    """
    objective, compute, tokens = config.objective, config.compute, prompt + length
    size = micro_batch(config, group, completions, tokens)
    count = size * views(objective) * tokens
    several = ceil(completions / size) > 1
    trained = shape.parameters if adapter is None else shape.adapter(adapter)
    processes = compute.processes if compute.sharding == "fsdp" else 1
    outside = shape.head * (1 if shape.tied else 2) + shape.width
    blocks_weights = shape.parameters - outside
    held = outside + blocks_weights / processes + (2 * blocks_weights / shape.layers if processes > 1 else 0)
    gradient = (outside + blocks_weights / processes) * b if adapter is None else trained / processes * FLOAT
    within = HALF if compute.precision == "bfloat16" else b
    block, inputs = kept(shape, within, adapter), shape.width * within
    blocks = shape.layers * inputs + block if compute.gradient_checkpointing else shape.layers * block
    states = shape.width * (2 * FLOAT + within)
    rows = size * rows_read(objective, length)
    full_rows = objective.reads == "log_prob" or objective.needs_log_prob
    slopes = rows * shape.width * FLOAT * (3 if full_rows else 2)
    on_the_way = count * (3 * shape.inner + 2 * shape.width) * within
    buffers = 4 * min(BLOCK_BYTES, rows * shape.vocabulary * FLOAT) if full_rows else 0.0
    reading = count * (blocks + states) + slopes + max(on_the_way, buffers)
    moments = {
        "reading": (gradient * several, reading),
        "step": (gradient * (1 + several), gradient),
    }
    gradients, activations = max(moments.values(), key=sum)
    return Memory(
        weights=held * b,
        reference=held * b if objective.needs_reference and adapter is None else 0.0,
        adapter=0.0 if adapter is None else trained / processes * FLOAT,
        gradients=gradients,
        optimizer=2 * gradient * (1 + resumed),
        activations=activations,
    )


@dataclass(frozen=True)
class Plan:
    """What a run needs on each device, and for how long."""

    family: str
    parameters: int
    trained: int
    prompt_tokens: int
    completions: int  # of a round
    micro_batch: int  # completions per forward and backward pass
    rollout: Memory
    distill: Memory
    rollout_work: Work  # of a round
    distill_work: Work  # of a round
    evaluation_work: Work  # of all evaluations of the run
    rounds: int
    halves: bool  # whether the network computes in bfloat16
    distill_halves: bool

    def rollout_seconds(self, device: Device) -> float:
        """Returns the device-seconds of a round's rollouts."""
        return self.rollout_work.seconds(device, self.halves)

    def distill_seconds(self, device: Device) -> float:
        """Returns the device-seconds of a round's updates."""
        return self.distill_work.seconds(device, self.distill_halves)

    def evaluation_seconds(self, device: Device) -> float:
        """Returns the device-seconds of all evaluations of the run."""
        return self.evaluation_work.seconds(device, self.halves)

    def hours(self, device: Device) -> float:
        """Returns the device-hours of the whole run."""
        of_round = self.rollout_seconds(device) + self.distill_seconds(device)
        return (self.rounds * of_round + self.evaluation_seconds(device)) / 3600

    @property
    def peak(self) -> float:
        """Bytes that a device needs."""
        return max(self.rollout.total, self.distill.total)


def prompt_tokens(config: TrainConfig, family: Family) -> int:
    """Estimates the tokens of a prompt from the domain's example; data sets have longer and shorter ones."""
    domain = make(config.prompts.domain)
    text = domain.phrase(domain.example.problem)
    return len(text) if family.name == "tiny" else ceil(len(text) / LETTERS_PER_TOKEN) + TEMPLATE_TOKENS


def plan(config: TrainConfig, shape: Shape, family: Family, is_gpu: bool = True, prompt: int | None = None) -> Plan:
    """Plans a run. Without `prompt`, the tokens of a prompt are estimated."""
    prompt = prompt_tokens(config, family) if prompt is None else prompt
    b = HALF if is_gpu and family.name != "tiny" else FLOAT
    policy, rollout, distill = config.policy, config.rollout, config.distill
    adapter = 0 if policy.adapter is None else shape.adapter(policy.adapter)
    completions, length = rollout.prompts_per_round * rollout.group_size, rollout.sampler.length
    share = ceil(rollout.prompts_per_round / distill.compute.processes) * rollout.group_size
    batch = min(rollout.batch_size, ceil(rollout.prompts_per_round / rollout.shards) * rollout.group_size)
    return Plan(
        family=family.name,
        parameters=shape.parameters + adapter,
        trained=adapter or shape.parameters,
        prompt_tokens=prompt,
        completions=completions,
        micro_batch=micro_batch(distill, rollout.group_size, share, prompt + length),
        rollout=of_rollout(shape, batch, prompt, rollout.sampler, b, adapter),
        distill=of_epoch(shape, distill, share, rollout.group_size, prompt, length, b, policy.adapter),
        rollout_work=completion(shape, prompt, rollout.sampler, adapter) * completions,
        distill_work=epoch(shape, distill, completions, prompt + length, length, adapter),
        evaluation_work=completion(shape, prompt, config.evaluation.sampler, adapter) * answers(config),
        rounds=config.rounds,
        halves=b == HALF,
        distill_halves=is_gpu and (b == HALF or distill.compute.precision == "bfloat16"),
    )


def answers(config: TrainConfig) -> int:
    """Returns the completions of a run's evaluations: validations, and test and guards before and after."""
    validations = ceil(config.rounds / config.validate_every)
    tested = config.prompts.test_size + sum(guard.test_size for guard in config.judge.guards.values())
    evaluation: EvaluationConfig = config.evaluation
    return evaluation.samples * (validations * config.prompts.validation_size + 2 * tested)


def table(memory: Mapping[str, Memory]) -> list[tuple[str, list[float]]]:
    """Returns the rows of a table of GiB: one per kind that is not nothing everywhere, then the sums."""
    kinds = [name for name in vars(next(iter(memory.values()))) if any(vars(item)[name] for item in memory.values())]
    found = [(kind, [vars(item)[kind] / GIB for item in memory.values()]) for kind in kinds]
    return [*found, ("peak", [item.total / GIB for item in memory.values()])]
