"""Tokenizers of published models, from their data files alone, and the tokens that a family gives a meaning."""

import json
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from tasks.gdsd.denoiser.families.base import Family, Special, Values
from tasks.gdsd.errors import CheckpointError

WHOLE, PARTS = "tokenizer.json", ("vocab.json", "merges.txt")
CONFIG = "tokenizer_config.json"


def load(folder: Path) -> PreTrainedTokenizerBase:
    """Loads tokenizer.json, or vocab.json and merges.txt as the tokenizer of Qwen2; no code of the folder runs.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    kind: type[PreTrainedTokenizerBase] = PreTrainedTokenizerFast
    needed: tuple[str, ...] = (WHOLE, CONFIG)
    if not (folder / WHOLE).is_file() and all((folder / name).is_file() for name in PARTS):
        kind, needed = Qwen2Tokenizer, (PARTS[0], CONFIG)
    for name in needed:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is not a checkpoint: {name} is missing.")
        try:
            json.loads((folder / name).read_text())
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{folder}/{name} is damaged: {error}") from error
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged file surfaces as whatever its parser raises
        raise CheckpointError(f"{folder}: its tokenizer cannot be loaded: {type(error).__name__}: {error}") from error
    for key in ("is_local", "local_files_only", "trust_remote_code"):
        tokenizer.init_kwargs.pop(key, None)  # how it was loaded is no part of what is saved
    return tokenizer


class SpecialIds:
    """The ids of a family's special tokens in one checkpoint.

    Raises:
        CheckpointError: one is missing, or config.json and the tokenizer disagree.
    """

    def __init__(self, family: Family, vocabulary: Mapping[str, int], values: Values):
        self._vocabulary, self._values = vocabulary, values
        self.mask = self.find(family.mask)
        self.ends = tuple(dict.fromkeys(map(self.find, family.ends)))
        self.pad = self.find(family.pad)
        self.never = tuple(map(self.find, family.never))
        self.template = tuple(self.find(part) for part in family.chat if isinstance(part, Special))
        # Text that a tokenizer reads as one of these would let a prompt speak for the template, or hold a mask.
        self.reserved = frozenset((self.mask, self.pad, *self.ends, *self.never, *self.template))
        if self.mask in (self.pad, *self.ends):
            raise CheckpointError(f"the mask, {family.mask.text!r}, is also the padding or an end, so it says nothing")

    def find(self, special: Special) -> int:
        """Returns the id of a special token."""
        in_text = None if special.text is None else self._vocabulary.get(special.text)
        if special.text is not None and in_text is None:
            raise CheckpointError(f"the tokenizer has no token {special.text!r}, which the family needs")
        in_config = None if special.key is None else self._values.get(special.key)
        if in_config is None:
            if in_text is None:
                raise CheckpointError(f"config.json names no {special.key}, which the family needs")
            return in_text
        if in_text is not None and in_config != in_text:
            raise CheckpointError(
                f"config.json says that {special.key} is {in_config!r}, "
                f"but the tokenizer's {special.text!r} is {in_text}"
            )
        if not isinstance(in_config, int) or in_config not in self._vocabulary.values():
            raise CheckpointError(f"config.json says that {special.key} is {in_config!r}, which is no token")
        return in_config
