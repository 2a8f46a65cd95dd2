"""Dream-7B, Dream-Coder and DiffuCoder (arXiv 2508.15487, 2506.20639): a Qwen2 whose row i - 1 predicts token i.

Its authors' `diffusion_generate` is called with `alg="entropy"` and, above temperature 0, with `top_p=0.95` (DreamLM/
Dream at fac0a7f, demo_completion.py; GaryBall/GDSD at 54e364e). Nobody passes a top_k, so it is 50: the generation's
configuration is made of the model's, which has that default in transformers 4.46.2, which Dream asks for, and in
4.51.3. Theirs may draw the mask and the token that begins a text; ours may not.
"""

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
    sampler=SamplerDefaults(order="entropy", top_p=0.95, top_k=50),
)
