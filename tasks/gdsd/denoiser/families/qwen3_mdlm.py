"""Qwen3-0.6B-diffusion-mdlm (arXiv 2602.22661): a Qwen3 turned into a masked diffusion model, the small real one.

Its sibling Qwen3-0.6B-diffusion-bd3lm has the same config.json but is block-causal, so this family cannot compute it.
Nothing in the files tells the two apart.
"""

from tasks.gdsd.denoiser.families.base import ABSENT, PROMPT, Family, SamplerDefaults, Special, Values, size, stock_keys

TURN_BEGIN, TURN_END = Special("<|im_start|>"), Special("<|im_end|>")


def configure(values: Values) -> dict[str, object]:
    """Takes over a configuration in the style of transformers."""
    shape = stock_keys(values, {"attention_bias": (False, ABSENT)}, tied=True)
    return shape | {"head_dim": size(values, "head_dim", 128)}


QWEN3_MDLM = Family(
    name="qwen3_mdlm",
    model_type="a2d-qwen3",
    architecture="qwen3",
    configure=configure,
    mask=Special("<|mask|>", "mask_token_id"),
    ends=(Special("<|endoftext|>"), TURN_END),
    pad=Special("<|endoftext|>", "pad_token_id"),
    # Qwen3's template without thinking, as the model card asks for.
    chat=(
        *(TURN_BEGIN, "user\n", PROMPT, TURN_END, "\n"),
        *(TURN_BEGIN, "assistant\n", Special("<think>"), "\n\n", Special("</think>"), "\n\n"),
    ),
    sampler=SamplerDefaults(order="confidence"),
)
