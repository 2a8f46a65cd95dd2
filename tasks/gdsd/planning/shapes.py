"""The sizes of a model: from its files, or what is known of the published ones."""

import json
from dataclasses import dataclass
from pathlib import Path

from tasks.gdsd.config.model_source import ADAPTER_CONFIG, BASE, HubModel, ModelFolder, base_of, is_adapter
from tasks.gdsd.config.policy import AdapterConfig, PolicyConfig
from tasks.gdsd.denoiser import families
from tasks.gdsd.denoiser.checkpoint_record import read_base
from tasks.gdsd.denoiser.families.base import Family, Values
from tasks.gdsd.denoiser.families.tiny import TINY
from tasks.gdsd.domains.alphabet import ALPHABET
from tasks.gdsd.errors import CheckpointError


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


# For where neither files nor network are at hand; test_plan.py compares them with the published counts.
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
        # Of an alphabet from the data the size is not known here; it is taken for that of the plain one.
        return TINY, Shape(len(ALPHABET) + 3, *sizes, tiny.hidden_size // tiny.heads)
    assert config.model is not None  # the configuration sees to it
    return _of_source(config.model)


def _of_source(source: HubModel | ModelFolder) -> tuple[Family, Shape]:
    if not isinstance(source, HubModel):
        return _of_folder(Path(source.path))
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", BASE, ADAPTER_CONFIG):
        found = try_to_load_from_cache(source.hub, name, revision=source.revision)
        if isinstance(found, str):
            return _of_folder(Path(found).parent)
    if source.hub in PUBLISHED:
        return PUBLISHED[source.hub]
    raise CheckpointError(
        f"the shape of {source.hub} is not known: its config.json is not in the hub's cache; download that file, "
        f"or plan with one of {', '.join(PUBLISHED)}"
    )


def _of_folder(folder: Path) -> tuple[Family, Shape]:
    """Reads the shape of a model, or of the one that an adapter's folder or an earlier run's policy names."""
    if is_adapter(folder):
        return _of_source(base_of(folder))
    if (folder / BASE).is_file():
        return _of_source(read_base(folder / BASE).source)
    return shape_of_config(_read(folder / "config.json"))


def _read(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}, not an object")
    return values
