"""The tiny family: a stock Llama of well under a million parameters that reads without the causal mask.

It is a real policy on the code path of the large models. Only its size and its tokenizer of characters differ.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.gdsd import seeds
from tasks.gdsd.config.policy import TinyModelConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.families.tiny import TINY
from tasks.gdsd.domains.alphabet import ALPHABET, END, MASK, PAD


def character_tokenizer(alphabet: str = ALPHABET) -> PreTrainedTokenizerFast:
    """Builds a tokenizer with one token per character of an alphabet and the three special tokens.

    Characters outside the alphabet are refused by `Denoiser.encode`, not mapped to an unknown token.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: index for index, token in enumerate([END, PAD, MASK, *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    # By a dot, which is any character but the end of a line, empty lines would stay together.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, mask_token=MASK)


def build(config: TinyModelConfig, seed: int, alphabet: str = ALPHABET) -> Denoiser:
    """Builds a randomly initialised tiny denoiser; the same seed and alphabet give the same weights."""
    tokenizer = character_tokenizer(alphabet)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        use_cache=False,
    )
    shape.is_causal = False
    network = LlamaForCausalLM(shape)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            if parameter.dim() > 1:
                parameter.normal_(0.0, config.init_std, generator=seeds.generator(seed, "init", name))
    return Denoiser(network, tokenizer, TINY)
