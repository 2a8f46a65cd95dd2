"""Tokenizers of published models, from their data files alone."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

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
