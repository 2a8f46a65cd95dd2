"""The character tokenizer of the tiny family, as a standard tokenizer of the transformers library."""

from transformers import PreTrainedTokenizerFast

from tasks.gdsd.domains.alphabet import ALPHABET, END, MASK, PAD


def character_tokenizer() -> PreTrainedTokenizerFast:
    """Builds a tokenizer with one token per character of `ALPHABET` and the three special tokens.

    Characters outside the alphabet are refused by `Denoiser.encode`, not mapped to an unknown token.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: index for index, token in enumerate([END, PAD, MASK, *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, mask_token=MASK)
