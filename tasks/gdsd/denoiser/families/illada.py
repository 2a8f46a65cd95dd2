"""iLLaDA-8B (arXiv 2606.25331): LLaDA's successor, a Llama under its own names with a tied head.

It has other names, tokens, template and rotary precision than LLaDA, so it has a description of its own. Prompts are
phrased as its authors evaluate the base model: a token that marks the beginning, then the text. They evaluate
iLLaDA-8B-Instruct with the chat template of its tokenizer (eval_illada.sh, in copies of ML-GSAI/LLaDA such as
cekim10/LLaDA at 9182493), whose files were not at hand. So the instruct model is asked as the base is, and `load` says
so where a tokenizer brings a template.
"""

from tasks.gdsd.denoiser.families.base import ABSENT, PROMPT, Family, SamplerDefaults, Special, Values, stock_keys


def configure(values: Values) -> dict[str, object]:
    """Takes over a configuration in the style of transformers."""
    allowed = {
        "attention_bias": (False, ABSENT),
        "mlp_bias": (False, ABSENT),
        "layer_norm_eps": (None, ABSENT),  # else its norms are LayerNorm
        "resid_pdrop": (0.0, 0, ABSENT),
    }
    return stock_keys(values, allowed, tied=True)


BEGIN = Special(key="bos_token_id")

ILLADA = Family(
    name="illada",
    model_type="illada",
    architecture="llama",
    configure=configure,
    mask=Special("<[MASK]>"),
    ends=(Special(key="eos_token_id"),),
    pad=Special(key="pad_token_id"),
    never=(BEGIN,),
    chat=(BEGIN, PROMPT),
    sampler=SamplerDefaults(order="confidence"),
)
