"""LLaDA-8B and LLaDA-1.5 (arXiv 2502.09992, 2505.19223): a Llama under other names, rotated in float32."""

from tasks.gdsd.denoiser.families.base import (
    ABSENT,
    NO_TOKENS,
    PROMPT,
    Allowed,
    Family,
    SamplerDefaults,
    Special,
    Values,
    demand,
    flag,
    number,
    rope_parameters,
    size,
)

BEGIN, TURN_END = Special("<|startoftext|>"), Special("<|eot_id|>")
HEADER_BEGIN, HEADER_END = Special("<|start_header_id|>"), Special("<|end_header_id|>")

# What the published modelling code would compute differently. Where a key may be absent, its default is the same.
ARITHMETIC: Allowed = {
    "activation_type": ("silu",),
    "block_type": ("llama",),
    "block_group_size": (1, ABSENT),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True, ABSENT),
    "bias_for_layer_norm": (False, None, ABSENT),
    "attention_layer_norm": (False, ABSENT),
    "input_emb_norm": (False, ABSENT),
    "include_bias": (False, ABSENT),
    "include_qkv_bias": (False, None, ABSENT),
    "multi_query_attention": (None, ABSENT),
    "alibi": (False, ABSENT),
    "rope": (True,),
    "rope_full_precision": (True, ABSENT),
    "rope_scaling": (None, ABSENT),
    "scale_logits": (False, ABSENT),
    "attention_dropout": (0.0, 0),
    "residual_dropout": (0.0, 0),
    "embedding_dropout": (0.0, 0),
}


def configure(values: Values) -> dict[str, object]:
    """Translates LLaDA's configuration into a Llama's."""
    demand(values, ARITHMETIC)
    width, heads = size(values, "d_model"), size(values, "n_heads")
    return {
        **NO_TOKENS,
        "vocab_size": size(values, "embedding_size", size(values, "vocab_size")),
        "hidden_size": width,
        "intermediate_size": size(values, "mlp_hidden_size", width * size(values, "mlp_ratio", 4)),
        "num_hidden_layers": size(values, "n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": size(values, "n_kv_heads", heads),
        "max_position_embeddings": size(values, "max_sequence_length"),
        "rms_norm_eps": number(values, "rms_norm_eps", 1e-5),
        "rope_parameters": rope_parameters(number(values, "rope_theta", 10000.0)),
        "tie_word_embeddings": flag(values, "weight_tying", True),
    }


LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}

LLADA = Family(
    name="llada",
    model_type="llada",
    architecture="llama",
    configure=configure,
    mask=Special("<|mdm_mask|>", "mask_token_id"),
    ends=(Special("<|endoftext|>", "eos_token_id"), TURN_END),
    pad=Special("<|endoftext|>", "pad_token_id"),
    never=(BEGIN,),
    names={
        "model.embed_tokens": "model.transformer.wte",
        "model.norm": "model.transformer.ln_f",
        "lm_head": "model.transformer.ff_out",
        **{f"model.layers.N.{stock}": f"model.transformer.blocks.N.{name}" for stock, name in LAYER.items()},
    },
    # The template of the tokenizer's configuration, which ends with the assistant's header whatever is asked of it.
    chat=(
        *(BEGIN, HEADER_BEGIN, "user", HEADER_END, "\n\n", PROMPT, TURN_END),
        *(HEADER_BEGIN, "assistant", HEADER_END, "\n\n"),
    ),
    strips_prompt=True,
    rotates_in_float32=True,
    sampler=SamplerDefaults(order="confidence"),
)
