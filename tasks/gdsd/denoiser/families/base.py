"""What a family of models says of itself: plain data, which imports neither torch nor transformers.

A family names a stock transformers architecture, which is read without the causal mask. It also says how its published
checkpoints differ from that: how config.json and the weights are named, which tokens are special, how a prompt is
phrased, and which row predicts which token. No code of a checkpoint is ever run.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from tasks.gdsd.config.sampler import SamplerConfig
from tasks.gdsd.errors import CheckpointError

Architecture = Literal["llama", "qwen2", "qwen3"]
Values = Mapping[str, object]  # the content of a config.json
Allowed = Mapping[str, tuple[object, ...]]  # the values that a key of it may have

ABSENT: Final = "<absent>"  # among the allowed values of a key: it may be left out
PROMPT: Final = "<prompt>"  # the place of the prompt in a chat template


@dataclass(frozen=True)
class Special:
    """A special token: its text in the tokenizer, its key in config.json, or both, which then have to agree."""

    text: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class SamplerDefaults:
    """How the authors of a family sample from it."""

    order: Literal["confidence", "entropy"]  # which hidden token is unmasked first: the likeliest, or the surest row's
    # What is drawn from, in that order:
    top_p: float = 1.0  # above temperature 0; at 0 it is 1
    top_k: int | None = None  # None: all

    def fill(self, settings: SamplerConfig) -> SamplerConfig:
        """Fills in what the settings leave open: the authors' order, and in that order what is drawn from."""
        order = settings.order or self.order
        own = self if order == self.order else SamplerDefaults(order)
        top_p = own.top_p if settings.temperature > 0 else 1.0
        filled = {
            "order": order,
            "top_p": top_p if settings.top_p is None else settings.top_p,
            "top_k": own.top_k if settings.top_k is None else settings.top_k,
        }
        return settings.model_copy(update=filled)


@dataclass(frozen=True)
class Family:
    """One family of masked diffusion language models."""

    name: str
    model_type: str  # what config.json calls itself
    architecture: Architecture
    configure: Callable[[Values], dict[str, object]]  # config.json -> arguments of the stock configuration
    mask: Special
    ends: tuple[Special, ...]  # each ends an answer; the first also fills the canvas after one
    pad: Special
    sampler: SamplerDefaults
    never: tuple[Special, ...] = ()  # further tokens that no answer contains
    # Stock name of a module -> official one; N stands for a layer's number.
    names: Mapping[str, str] = field(default_factory=dict)
    chat: tuple[Special | str, ...] = (PROMPT,)  # special tokens, text, and the prompt
    strips_prompt: bool = False  # whether the template strips the prompt
    shifted: bool = False  # whether row i - 1 predicts token i
    rotates_in_float32: bool = False  # whether q and k are rotated in float32 whatever the weights are

    def official(self, name: str) -> str:
        """Returns the official name of a weight, given its stock name."""
        module, _, kind = name.rpartition(".")
        parts = module.split(".")
        number = next((part for part in parts if part.isdigit()), None)
        pattern = ".".join("N" if part == number else part for part in parts)
        found = self.names.get(pattern, pattern)
        return f"{found if number is None else found.replace('.N.', f'.{number}.')}.{kind}"

    def official_leaf(self, leaf: str) -> str:
        """Returns what the official class calls a map of each block, without its path, given its stock name."""
        inside = {stock.rpartition(".")[2]: name for stock, name in self.names.items() if ".N." in stock}
        return inside.get(leaf, leaf).rpartition(".")[2]

    def outside_blocks(self, leaves: Collection[str]) -> list[str]:
        """Returns the official modules outside the blocks that share an official name with maps of the blocks."""
        outside = [name for stock, name in self.names.items() if ".N." not in stock]
        return sorted(name for name in outside if name.rpartition(".")[2] in leaves)


def size(values: Values, key: str, default: int | None = None) -> int:
    """Reads a positive whole number, or refuses the configuration. The default also stands for null."""
    found = values.get(key)
    if found is None and default is not None:
        return default
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise _refused(key, found, "it should be a positive whole number")
    return found


def number(values: Values, key: str, default: float | None = None) -> float:
    """Reads a positive number, or refuses the configuration."""
    found = values.get(key, default)
    if not isinstance(found, int | float) or isinstance(found, bool) or not 0 < found < float("inf"):
        raise _refused(key, found, "it should be a positive number")
    return float(found)


def flag(values: Values, key: str, default: bool) -> bool:
    """Reads true or false, or refuses the configuration."""
    found = values.get(key, default)
    if not isinstance(found, bool):
        raise _refused(key, found, "it should be true or false")
    return found


def demand(values: Values, allowed: Allowed) -> None:
    """Refuses a configuration whose arithmetic is another than the family's.

    Raises:
        CheckpointError: a key has none of the allowed values.
    """
    for key, good in allowed.items():
        found = values.get(key, ABSENT)
        if not any(type(found) is type(item) and found == item for item in good):
            said = " or ".join(repr(item) for item in good if item is not ABSENT)
            raise _refused(key, found, f"another value changes what is computed; supported: {said}")


def _refused(key: str, found: object, reason: str) -> CheckpointError:
    return CheckpointError(f"config.json is refused: {key} is {found!r}, but {reason}")


def stock_keys(values: Values, allowed: Allowed, *, tied: bool) -> dict[str, object]:
    """Translates a configuration in the style of transformers, and refuses what changes the arithmetic.

    Args:
        allowed: keys of the family's own that would change the arithmetic, each with the values that do not.
        tied: whether the head is the embedding where config.json does not say.

    Raises:
        CheckpointError: a size is missing, or a value is not supported.
    """
    layers, heads = size(values, "num_hidden_layers"), size(values, "num_attention_heads")
    shared: Allowed = {
        "hidden_act": ("silu",),
        "attention_dropout": (0.0, 0, ABSENT),
        "use_sliding_window": (False, ABSENT),
        "use_mrope": (False, ABSENT),
        "layer_types": (["full_attention"] * layers, None, ABSENT),
        "block_size": (None, ABSENT),  # of block-causal models, which are read by another mask
    }
    demand(values, {**shared, **allowed})
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise _refused("rope_parameters", rope, "it should be an object")
    demand(rope, {"rope_type": ("default", ABSENT), "type": ("default", ABSENT)})
    demand(rope, {"factor": (1.0, 1, None, ABSENT), "partial_rotary_factor": (1.0, 1, None, ABSENT)})
    return {
        **NO_TOKENS,
        **{key: size(values, key) for key in ("vocab_size", "hidden_size", "intermediate_size")},
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": size(values, "num_key_value_heads", heads),
        "max_position_embeddings": size(values, "max_position_embeddings"),
        "rms_norm_eps": number(values, "rms_norm_eps"),
        "rope_parameters": rope_parameters(number(rope if "rope_theta" in rope else values, "rope_theta")),
        "tie_word_embeddings": flag(values, "tie_word_embeddings", tied),
    }


# The special tokens are the family's; stock configurations would otherwise bring their own. Nothing is cached.
NO_TOKENS: dict[str, object] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "use_cache": False}


def rope_parameters(theta: float) -> dict[str, object]:
    return {"rope_type": "default", "rope_theta": theta}
