"""The tiny family of this project: a stock Llama under its own names, a tokenizer of characters, no template."""

from tasks.gdsd.denoiser.families.base import Family, SamplerDefaults, Special, Values
from tasks.gdsd.domains.alphabet import END, MASK, PAD
from tasks.gdsd.errors import CheckpointError

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def configure(values: Values) -> dict[str, object]:
    """Takes the configuration as it is: this project wrote it, in the stock form."""
    if any(key not in values for key in SIZES):
        raise CheckpointError(f"config.json does not describe a Llama with {', '.join(SIZES)}.")
    if values.get("is_causal") is not False:
        raise CheckpointError("config.json has no is_causal=false: a denoiser reads in both directions.")
    return dict(values)


TINY = Family(
    name="tiny",
    model_type="llama",
    architecture="llama",
    configure=configure,
    mask=Special(MASK),
    ends=(Special(END),),
    pad=Special(PAD),
    sampler=SamplerDefaults(order="confidence"),
)
