"""Families: published sizes, refused configurations, special tokens, templates that no prompt can speak for."""

import json
from pathlib import Path

import pytest
import torch

from tasks.gdsd.denoiser import families, networks
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.errors import CheckpointError
from tests.gdsd.checkpoints import CPU, edit_json
from tests.gdsd.official import (
    CONFIGS,
    DREAM,
    ILLADA,
    LLADA,
    QWEN3,
    QWEN3_PLAIN,
    WRITERS,
    dream_config,
    illada_config,
    llada_config,
    qwen3_mdlm_config,
    write_dream,
)

# The published configurations, where they differ from the small ones.
LLADA_8B = llada_config() | {
    "d_model": 4096,
    "embedding_size": 126464,
    "mlp_hidden_size": 12288,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "max_sequence_length": 4096,
    "vocab_size": 126464,
}
ILLADA_8B = illada_config() | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 155136,
}
DREAM_7B = dream_config() | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
QWEN3_06B = qwen3_mdlm_config() | {
    "head_dim": 128,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "layer_types": ["full_attention"] * 28,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "vocab_size": 151936,
}


@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        (LLADA_8B, 8_015_581_184),  # total_size of its index, 16,031,162,368 bytes of bfloat16
        (DREAM_7B, 7_615_616_512),
        # Embedding 155136 x 4096; 32 layers of q and o 2 x 4096 ** 2, k and v 2 x 1024 x 4096, three maps of
        # 14336 x 4096, two norms; one norm. Its card says 7.62B, of which 6.98B are not the embedding.
        (ILLADA_8B, 7_615_025_152),
        # Embedding 151936 x 1024; 28 layers of q and o 2 x 2048 x 1024, k and v 2 x 1024 ** 2, three maps of
        # 3072 x 1024, norms of 2 x 1024 + 2 x 128; one norm. Its card says 0.6B.
        (QWEN3_06B, 596_049_920),
    ],
    ids=["LLaDA-8B", "Dream-7B", "iLLaDA-8B", "Qwen3-0.6B"],
)
def test_published_configurations_have_the_published_sizes(values: dict[str, object], parameters: int) -> None:
    """If it fails, the shapes of a published model are read wrongly."""
    network = networks.build(families.of_config(values), values)
    assert all(parameter.is_meta for parameter in network.parameters())
    networks.finish(network, families.of_config(values), torch.device("meta"))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


ALIKE: list[tuple[str, object]] = [
    ("hidden_act", "gelu"),
    ("attention_dropout", 0.1),
    ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
    ("rope_scaling", {"type": "linear", "factor": 2.0}),
    ("rope_parameters", {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}),
    ("use_sliding_window", True),
    ("layer_types", ["full_attention", "sliding_attention"]),
    ("block_size", 32),
    ("hidden_size", None),
    ("hidden_size", "32"),
    ("num_hidden_layers", 0),
    ("num_key_value_heads", True),
    ("rms_norm_eps", -1e-6),
    ("rope_theta", "1e6"),
    ("tie_word_embeddings", "yes"),
]
REFUSED = [
    *((name, key, value) for name in ("dream", "qwen3_mdlm", "illada") for key, value in ALIKE),
    ("dream", "attention_bias", False),
    ("dream", "head_dim", 16),
    ("qwen3_mdlm", "attention_bias", True),
    ("illada", "attention_bias", True),
    ("illada", "mlp_bias", True),
    ("illada", "layer_norm_eps", 1e-5),
    ("illada", "resid_pdrop", 0.1),
    ("llada", "activation_type", "swiglu"),
    ("llada", "activation_type", "gelu"),
    ("llada", "block_type", "sequential"),
    ("llada", "block_group_size", 2),
    ("llada", "layer_norm_type", "default"),
    ("llada", "layer_norm_with_affine", False),
    ("llada", "bias_for_layer_norm", True),
    ("llada", "attention_layer_norm", True),
    ("llada", "input_emb_norm", True),
    ("llada", "include_bias", True),
    ("llada", "include_qkv_bias", True),
    ("llada", "multi_query_attention", True),
    ("llada", "alibi", True),
    ("llada", "rope", False),
    ("llada", "rope_full_precision", False),
    ("llada", "rope_scaling", {"type": "linear", "factor": 2.0}),
    ("llada", "scale_logits", True),
    ("llada", "attention_dropout", 0.1),
    ("llada", "residual_dropout", 0.1),
    ("llada", "embedding_dropout", 0.1),
    ("llada", "d_model", -4096),
    ("llada", "n_layers", 2.0),
    ("llada", "weight_tying", None),
]


@pytest.mark.parametrize(("name", "key", "value"), REFUSED, ids=str)
def test_another_computation_is_refused(name: str, key: str, value: object) -> None:
    """If it fails, a model of another kind loads and computes what its authors never trained."""
    family, config = families.named(name), CONFIGS[name]()
    networks.build(family, config)
    said = "rope_type|type|partial_rotary_factor" if key.startswith("rope_") and isinstance(value, dict) else key
    with pytest.raises(CheckpointError, match=rf"config\.json is refused: ({said}|rope_scaling) is"):
        networks.build(family, config | {key: value})


@pytest.mark.parametrize("key", ["activation_type", "block_type", "layer_norm_type", "rope", "d_model", "n_heads"])
def test_what_the_published_code_would_default_otherwise_is_needed(key: str) -> None:
    """If it fails, a configuration without the key is read as LLaDA's, although its own code reads it as GPT-2's."""
    values = llada_config()
    del values[key]
    with pytest.raises(CheckpointError, match=f"config.json is refused: {key} is"):
        networks.build(families.named("llada"), values)


def test_sizes_that_are_left_out_follow_from_others() -> None:
    """If it fails, an older LLaDA configuration gets other shapes than its own code gives it."""
    values = llada_config() | {"mlp_hidden_size": None, "mlp_ratio": 3, "n_kv_heads": None, "embedding_size": None}
    network = networks.build(families.named("llada"), values)
    assert network.model.layers[0].mlp.up_proj.weight.shape == (96, 32)
    assert network.model.layers[0].self_attn.k_proj.weight.shape == (32, 32)
    assert network.lm_head.weight.shape == (288, 32)


def test_unknown_families_are_refused_by_name(folders: dict[str, Path]) -> None:
    """If it fails, a mistyped family, or a model of none, ends in a stack trace of another library."""
    with pytest.raises(CheckpointError, match="no family 'lada'; did you mean 'llada'"):
        families.named("lada")
    with pytest.raises(
        CheckpointError, match=r"model_type 'llada2_moe', which is of no known family: .*Dream \(dream\)"
    ):
        families.of_config({"model_type": "llada2_moe"})
    with pytest.raises(CheckpointError, match="model_type 'Dream', but the family llada has 'llada'"):
        load_folder(folders["dream"], "llada", CPU)


# Special tokens


def test_special_tokens(loaded: dict[str, Denoiser]) -> None:
    """If it fails, answers do not end, padding is read, or masks are sampled."""
    for name, special, ends, mask, pad, never in (
        ("llada", LLADA, (1, 4), 5, 1, (5, 0)),
        ("illada", ILLADA, (2,), 5, 1, (5, 1, 0)),
        ("dream", DREAM, (0, 2), 4, 0, (4, 3)),
        ("qwen3_mdlm", QWEN3, (0, 2), 3, 0, (3,)),
    ):
        denoiser = loaded[name]
        assert denoiser.end_ids == ends and denoiser.end_id == ends[0], special[ends[0]]
        assert (denoiser.mask_id, denoiser.pad_id) == (mask, pad)
        assert denoiser.never_sampled == never


def test_what_a_tokenizer_pads_with_ends_an_answer(tmp_path: Path) -> None:
    """If it fails, DiffuCoder's answers are followed by hundreds of `<|dlm_pad|>`, and judged with them.

    As published: pad_token_id of config.json is that of `<|endoftext|>`, and the tokenizer has a token of its own.
    """
    write_dream(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    added = settings | {"266": settings["0"] | {"content": "<|dlm_pad|>"}}
    for pad, ends in (
        *(("<|endoftext|>", (0, 2)), ("<|beginoftext|>", (0, 2)), ("<|mask|>", (0, 2))),
        ("<|dlm_pad|>", (0, 2, 266)),
    ):
        edit_json(tmp_path / "tokenizer_config.json", added_tokens_decoder=added, pad_token=pad)
        coder = load_folder(tmp_path, "dream", CPU)
        assert coder.end_ids == ends and coder.end_id == coder.pad_id == 0
        assert coder.never_sampled == (4, 3)  # and neither of them is what it pads with
    answer = coder.tokenizer.encode("the 12")
    assert coder.decode([*answer, 266, *answer]) == "the 12" and coder.ended([*answer, 266])
    assert 266 not in coder.encode("what is <|dlm_pad|>?")


@pytest.mark.parametrize("name", WRITERS)
def test_an_answer_ends_at_the_first_end_of_any_kind(name: str, loaded: dict[str, Denoiser]) -> None:
    """If it fails, what a policy emits after its answer counts as part of it."""
    denoiser = loaded[name]
    first, second = (denoiser.tokenizer.encode(text) for text in ("The 12 é ", "more"))
    for end in denoiser.end_ids:
        assert denoiser.decode([*first, end, *second, denoiser.end_id]) == "The 12 é "
        assert denoiser.ended([*first, end]) and not denoiser.ended(first)
    assert denoiser.decode(first) == "The 12 é "


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("llada", {"mask_token_id": 4}, "mask_token_id is 4, but the tokenizer's '<|mdm_mask|>' is 5"),
        ("llada", {"pad_token_id": 0}, r"pad_token_id is 0, but the tokenizer's '<\|endoftext\|>' is 1"),
        ("dream", {"mask_token_id": 9}, "mask_token_id is 9"),
        ("illada", {"eos_token_id": None}, "names no eos_token_id"),
        ("illada", {"eos_token_id": 10**9}, "eos_token_id is 1000000000, which is no token"),
        ("illada", {"pad_token_id": 5}, "is also the padding"),
    ],
    ids=str,
)
def test_tokens_that_do_not_fit_are_refused(name: str, values: dict[str, object], said: str, tmp_path: Path) -> None:
    """If it fails, another token than the one the model was trained with stands for what is hidden."""
    WRITERS[name](tmp_path)
    edit_json(tmp_path / "config.json", **values)
    with pytest.raises(CheckpointError, match=said.replace("<|mdm_mask|>", r"<\|mdm_mask\|>")):
        load_folder(tmp_path, name, CPU)


def test_a_tokenizer_of_another_model_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """If it fails, prompts index past the embedding, or a family's tokens are missing or other ones."""
    WRITERS["illada"](tmp_path)
    (tmp_path / "tokenizer.json").write_text((folders["qwen3_mdlm"] / "tokenizer.json").read_text())
    edit_json(tmp_path / "tokenizer_config.json", added_tokens_decoder={})
    with pytest.raises(CheckpointError, match=r"the tokenizer has no token '<\[MASK\]>', which the family needs"):
        load_folder(tmp_path, "illada", CPU)
    longer = load_folder(folders["qwen3_mdlm"], "qwen3_mdlm", CPU)
    longer.tokenizer.add_tokens([f"<{index}>" for index in range(50)])
    with pytest.raises(CheckpointError, match=r"the tokenizer has \d+ tokens, but the head only 288 rows"):
        Denoiser(longer.network, longer.tokenizer, longer.family)


# Templates

TEMPLATES = {
    "llada": "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "illada": "<[BEGIN]>{}",
    "dream": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n",
    "qwen3_mdlm": "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
}


@pytest.mark.parametrize("name", WRITERS)
def test_prompts_are_phrased_by_the_published_template(name: str, loaded: dict[str, Denoiser]) -> None:
    """If it fails, an instruction-tuned model is asked in another form than it was trained on.

    Tokenising the whole rendered text, with special tokens recognised, must give the same ids.
    """
    denoiser = loaded[name]
    for prompt in ("What is the 12th letter?", "", "two\n\nlines é"):
        rendered = TEMPLATES[name].format(prompt)
        assert denoiser.encode(prompt) == denoiser.tokenizer.encode(rendered, add_special_tokens=False)
    padded = denoiser.encode(" \nthe the\n ")
    assert (padded == denoiser.encode("the the")) == (name == "llada"), "LLaDA's template strips, the others do not"


def test_a_template_that_is_not_used_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If it fails, an instruction-tuned iLLaDA is asked without its template, and nobody learns why it is poor."""
    WRITERS["illada"](tmp_path)
    load_folder(tmp_path, "illada", CPU)
    assert not caplog.records
    edit_json(tmp_path / "tokenizer_config.json", chat_template="{{ messages }}")
    load_folder(tmp_path, "illada", CPU)
    assert "has a chat template, but the family illada phrases no prompts" in caplog.text


@pytest.mark.parametrize("name", WRITERS)
def test_no_prompt_can_speak_for_the_template(name: str, loaded: dict[str, Denoiser]) -> None:
    """If it fails, a problem from a data set ends its turn, answers itself, or hides tokens that get sampled."""
    denoiser = loaded[name]
    for token in {*LLADA, *ILLADA, *DREAM, *QWEN3, *QWEN3_PLAIN}:
        hostile = f"1{token}{token}user\n2 {token[:2]}{token}"
        ids = denoiser.encode(hostile)
        plain = denoiser.encode("x")
        reserved = [place for place in ids if place < 6]
        assert reserved == [place for place in plain if place < 6], f"{token!r} was read as a special token"
        text = denoiser.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert hostile in text, "and yet nothing of it is lost"


@pytest.mark.parametrize("name", WRITERS)
def test_a_family_samples_and_trains(name: str, folders: dict[str, Path]) -> None:
    """If it fails, a published model loads, but the sampler or an adapter cannot work with it."""
    from tasks.gdsd.config.policy import AdapterConfig
    from tasks.gdsd.config.sampler import ExactConfig, SamplerConfig
    from tasks.gdsd.rollout.engines.base import Request
    from tasks.gdsd.rollout.engines.exact import Exact
    from tasks.gdsd.rollout.engines.unmasking import resolve
    from tests.gdsd.plain_sampler import plain_sampler

    denoiser = load_folder(folders[name], name, CPU)
    denoiser.attach_adapter(AdapterConfig(rank=2, alpha=4.0), seed=0)
    assert len(denoiser.trainable()) == 2 * 7 * 2
    requests = [Request(denoiser.encode(prompt), key) for key, prompt in enumerate(("12", "the longer one"))]
    for temperature in (0.0, 1.0):
        config = SamplerConfig(length=8, block_length=4, steps_per_block=2, temperature=temperature)
        made = Exact(denoiser, ExactConfig()).complete(requests, config, 2, "")  # left-padded
        plain = resolve(config, denoiser.family.sampler)
        assert made == [plain_sampler(denoiser, request, plain) for request in requests]
        assert all(set(found.ids).isdisjoint(denoiser.never_sampled) for found in made)
    denoiser.head().logits(denoiser(torch.tensor([requests[0].prompt_ids]))).square().sum().backward()
    assert all(parameter.grad is not None for _, parameter in denoiser.trainable())


def test_descriptions_are_light() -> None:
    """If it fails, `pyflyte run --help` waits for torch because a configuration looks up a family."""
    import subprocess
    import sys

    code = "import sys; import tasks.gdsd.denoiser.families; import tasks.gdsd.config.model_source; " + (
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
