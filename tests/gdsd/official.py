"""Small random checkpoints in the layouts in which LLaDA, iLLaDA, Dream and Qwen3-MDLM are published.

Names, keys of config.json and special tokens are the official ones; sizes are tiny and special tokens have small ids.
Each writer returns the weights by official name. Further arguments replace keys of config.json.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

LLADA = ["<|startoftext|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|mdm_mask|>"]
ILLADA = ["<[BEGIN]>", "<[PAD]>", "<[END]>", "<[UNK]>", "<[SEP]>", "<[MASK]>"]
DREAM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"]
QWEN3 = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"]
QWEN3_PLAIN = ["<think>", "</think>"]  # tokens of their own that are not marked as special
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("1", "2"), ("Ċ", "Ċ")]
ROWS = 288  # of the embedding: more than there are tokens, as in the published models
WIDTH, HEADS, LAYERS, INNER = 32, 4, 2, 48
SIZE = 0.3  # of a weight


def widened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes all writers write maps whose rows are multiples of 64, as those of the published models are."""
    for name, value in {"WIDTH": 64, "INNER": 128, "SIZE": 0.3 / 2**0.5}.items():
        monkeypatch.setattr(f"{__name__}.{name}", value)


def llada_config() -> dict[str, object]:
    return {
        "activation_type": "silu",
        "alibi": False,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
            "AutoModel": "modeling_llada.LLaDAModelLM",
        },
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": WIDTH,
        "embedding_dropout": 0.0,
        "embedding_size": ROWS,
        "eos_token_id": 1,
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": 5,
        "max_sequence_length": 128,
        "mlp_hidden_size": INNER,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_heads": HEADS,
        "n_kv_heads": HEADS,
        "n_layers": LAYERS,
        "pad_token_id": 1,
        "residual_dropout": 0.0,
        "rms_norm_eps": 1e-05,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "use_cache": False,
        "vocab_size": ROWS,
        "weight_tying": False,
    }


def stock_config(kv_heads: int) -> dict[str, object]:
    return {
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "max_position_embeddings": 128,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": kv_heads,
        "rope_scaling": None,
        "torch_dtype": "bfloat16",
        "vocab_size": ROWS,
    }


def illada_config() -> dict[str, object]:
    return stock_config(kv_heads=2) | {
        "architectures": ["ILLaDAForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "layer_norm_eps": None,
        "mlp_bias": False,
        "model_type": "illada",
        "pad_token_id": 1,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-06,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
    }


def dream_config() -> dict[str, object]:
    return stock_config(kv_heads=2) | {
        "architectures": ["DreamModel"],
        "auto_map": {
            "AutoConfig": "configuration_dream.DreamConfig",
            "AutoModel": "modeling_dream.DreamModel",
        },
        "bos_token_id": 0,
        "eos_token_id": 0,
        "mask_token_id": 4,
        "max_window_layers": LAYERS,
        "model_type": "Dream",
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_sliding_window": False,
    }


def qwen3_mdlm_config() -> dict[str, object]:
    return stock_config(kv_heads=2) | {
        "architectures": ["A2DQwen3LMHeadModel"],
        "attention_bias": False,
        "auto_map": {"AutoModelForMaskedLM": "modeling_qwen3.A2DQwen3LMHeadModel"},
        "bos_token_id": 0,
        "eos_token_id": 2,
        "head_dim": 16,
        "layer_types": ["full_attention"] * LAYERS,
        "max_window_layers": LAYERS,
        "model_type": "a2d-qwen3",
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
    }


def write_llada(
    folder: Path, *, seed: int = 0, shards: int = 1, dtype: torch.dtype = torch.float32, **config: object
) -> dict[str, Tensor]:
    """Writes a LLaDA: names of its own, tokenizer.json without a mask token."""
    values = llada_config() | config
    kv = _whole(values["n_kv_heads"]) * (WIDTH // HEADS)
    shapes = {"model.transformer.wte": (ROWS, WIDTH), "model.transformer.ln_f": (WIDTH,)}
    for block in range(LAYERS):
        shapes |= {
            f"model.transformer.blocks.{block}.{name}": shape
            for name, shape in {
                "attn_norm": (WIDTH,),
                "ff_norm": (WIDTH,),
                "q_proj": (WIDTH, WIDTH),
                "k_proj": (kv, WIDTH),
                "v_proj": (kv, WIDTH),
                "attn_out": (WIDTH, WIDTH),
                "ff_proj": (INNER, WIDTH),
                "up_proj": (INNER, WIDTH),
                "ff_out": (WIDTH, INNER),
            }.items()
        }
    if not values["weight_tying"]:
        shapes["model.transformer.ff_out"] = (ROWS, WIDTH)
    weights = _draw({f"{name}.weight": shape for name, shape in shapes.items()}, seed, dtype)
    _write(folder, values, weights, shards)
    _write_tokenizer(folder, LLADA, {"bos_token": LLADA[0], "eos_token": LLADA[1], "pad_token": LLADA[1]})
    return weights


def write_illada(
    folder: Path, *, seed: int = 0, shards: int = 1, dtype: torch.dtype = torch.float32, **config: object
) -> dict[str, Tensor]:
    """Writes an iLLaDA: a Llama's names, a tied head that is not stored."""
    values = illada_config() | config
    weights = _draw(_stock_shapes(values, WIDTH // HEADS), seed, dtype)
    _write(folder, values, weights, shards)
    _write_tokenizer(folder, ILLADA, {"bos_token": ILLADA[0], "eos_token": ILLADA[2], "pad_token": ILLADA[1]})
    return weights


def write_dream(
    folder: Path, *, seed: int = 0, shards: int = 1, dtype: torch.dtype = torch.float32, **config: object
) -> dict[str, Tensor]:
    """Writes a Dream: a Qwen2's names with biases, a tokenizer of vocab.json and merges.txt."""
    values = dream_config() | config
    shapes = _stock_shapes(values, WIDTH // HEADS)
    for name, shape in list(shapes.items()):
        if name.rsplit(".", 2)[1] in ("q_proj", "k_proj", "v_proj"):
            shapes[name.replace(".weight", ".bias")] = shape[:1]
    weights = _draw(shapes, seed, dtype)
    _write(folder, values, weights, shards)
    vocabulary = _vocabulary(len(DREAM))
    special = {str(index): _added(text, True) for index, text in enumerate(DREAM)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {text: index for index, text in enumerate(DREAM)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in MERGES))
    _dump(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": special,
            "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
            "bos_token": DREAM[3],
            "eos_token": DREAM[0],
            "mask_token": DREAM[4],
            "pad_token": DREAM[0],
            "tokenizer_class": "DreamTokenizer",
            "unk_token": None,
        },
    )
    return weights


def write_qwen3_mdlm(
    folder: Path, *, seed: int = 0, shards: int = 1, dtype: torch.dtype = torch.float32, **config: object
) -> dict[str, Tensor]:
    """Writes a Qwen3-MDLM: a Qwen3's names with norms of q and k, heads wider than their share, a tied head."""
    values = qwen3_mdlm_config() | config
    width = _whole(values["head_dim"])
    shapes = _stock_shapes(values, width)
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.self_attn.{name}_norm.weight": (width,) for name in "qk"}
    weights = _draw(shapes, seed, dtype)
    _write(folder, values, weights, shards)
    named = {"eos_token": QWEN3[2], "pad_token": QWEN3[0], "mask_token": QWEN3[3]}
    _write_tokenizer(folder, QWEN3, named, QWEN3_PLAIN)
    return weights


WRITERS = {"llada": write_llada, "illada": write_illada, "dream": write_dream, "qwen3_mdlm": write_qwen3_mdlm}
CONFIGS = {"llada": llada_config, "illada": illada_config, "dream": dream_config, "qwen3_mdlm": qwen3_mdlm_config}


def _stock_shapes(values: dict[str, object], head: int) -> dict[str, tuple[int, ...]]:
    queries, pairs = HEADS * head, _whole(values["num_key_value_heads"]) * head
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (ROWS, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (WIDTH,),
                "post_attention_layernorm": (WIDTH,),
                "self_attn.q_proj": (queries, WIDTH),
                "self_attn.k_proj": (pairs, WIDTH),
                "self_attn.v_proj": (pairs, WIDTH),
                "self_attn.o_proj": (WIDTH, queries),
                "mlp.gate_proj": (INNER, WIDTH),
                "mlp.up_proj": (INNER, WIDTH),
                "mlp.down_proj": (WIDTH, INNER),
            }.items()
        }
    if not values["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (ROWS, WIDTH)
    return shapes


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value


def _draw(shapes: dict[str, tuple[int, ...]], seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Large weights: with small ones every token is as likely as the next, and a mistake would hide."""
    source = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=source)
        drawn[name] = (values * SIZE if len(shape) > 1 else 1 + 0.3 * values).to(dtype)
    return drawn


def _write(folder: Path, values: dict[str, object], weights: dict[str, Tensor], shards: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _dump(folder / "config.json", values)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights)
    places = {name: f"model-{index % shards + 1:05d}-of-{shards:05d}.safetensors" for index, name in enumerate(names)}
    for file in set(places.values()):
        part = {name: weights[name] for name in names if places[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in weights.values())
    _dump(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _vocabulary(reserved: int) -> dict[str, int]:
    """The byte alphabet and a few merges, after the ids that are reserved for special tokens."""
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in MERGES)]
    return {symbol: reserved + index for index, symbol in enumerate(symbols)}


def _write_tokenizer(folder: Path, special: Sequence[str], named: dict[str, str], plain: Sequence[str] = ()) -> None:
    ids = {text: index for index, text in enumerate([*special, *plain])}
    tokenizer = Tokenizer(models.BPE(vocab=ids | _vocabulary(len(ids)), merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])
    tokenizer.save(str(folder / "tokenizer.json"))
    decoder = {str(index): _added(text, text in special) for text, index in ids.items()}
    _dump(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": decoder,
            "clean_up_tokenization_spaces": False,
            "tokenizer_class": "PreTrainedTokenizerFast",
            **named,
        },
    )


def _added(text: str, special: bool) -> dict[str, object]:
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {"content": text, "special": special, **flags}


def _dump(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
