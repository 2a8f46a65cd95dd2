"""Dream-7B, Dream-Coder and DiffuCoder (arXiv 2508.15487, 2506.20639): a Qwen2 whose row i - 1 predicts token i."""

from tasks.gdsd.denoiser.families.base import ABSENT, PROMPT, Family, SamplerDefaults, Special, Values, size, stock_keys

TURN_BEGIN, TURN_END = Special("<|im_start|>"), Special("<|im_end|>")


def configure(values: Values) -> dict[str, object]:
    """Takes over a configuration in the style of transformers."""
    width = size(values, "hidden_size") // size(values, "num_attention_heads")
    allowed = {"attention_bias": (True, ABSENT), "head_dim": (width, None, ABSENT)}
    return stock_keys(values, allowed, tied=False)


DREAM = Family(
    name="dream",
    model_type="Dream",
    architecture="qwen2",
    configure=configure,
    mask=Special("<|mask|>", "mask_token_id"),
    ends=(Special("<|endoftext|>"), TURN_END),
    pad=Special("<|endoftext|>", "pad_token_id"),
    never=(Special("<|beginoftext|>"),),
    chat=(
        *(TURN_BEGIN, "system\nYou are a helpful assistant.", TURN_END, "\n"),
        *(TURN_BEGIN, "user\n", PROMPT, TURN_END, "\n"),
        *(TURN_BEGIN, "assistant\n"),
    ),
    shifted=True,
    sampler=SamplerDefaults(order="entropy", top_p=0.95),
)
