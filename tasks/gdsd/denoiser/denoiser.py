"""A policy: a bidirectional transformer that predicts hidden tokens, with its tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

from tasks.gdsd.errors import CheckpointError, DataError
from tasks.gdsd.readout import Head

# Loading takes milliseconds here, and the stages have progress bars of their own.
logging.disable_progress_bar()


class Denoiser(torch.nn.Module):
    """A masked diffusion language model behind the few calls that sampling and training need."""

    def __init__(self, network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, family: str):
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.family = family
        vocabulary = tokenizer.get_vocab()
        self.mask_id = vocabulary[str(tokenizer.mask_token)]
        self.end_id = vocabulary[str(tokenizer.eos_token)]
        self.pad_id = vocabulary[str(tokenizer.pad_token)]
        self.never_sampled = (self.mask_id, self.pad_id)

    @property
    def device(self) -> torch.device:
        return self.network.lm_head.weight.device

    def forward(
        self,
        ids: Tensor,  # (B, T) int64
        attention: Tensor | None = None,  # (B, T) bool, False on left padding; None when nothing is padded
    ) -> Tensor:  # (B, T, D): row i predicts token i
        """Returns the last hidden states, aligned so that row i predicts token i.

        Without padding no mask is passed, which keeps scaled-dot-product attention on its fast kernel.
        """
        mask = None if attention is None or bool(attention.all()) else attention.long()
        return self.network.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state

    def head(self) -> Head:
        """Returns the map from hidden states to logits, differentiable while the head is trained."""
        return Head(self.network.lm_head.weight.float())

    def encode(self, text: str) -> list[int]:
        """Tokenises a prompt.

        Raises:
            DataError: the text has a character that the tokenizer does not know.
        """
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        if self.family == "tiny" and (self.pad_id in ids or len(ids) != len(text)):
            known = set(self.tokenizer.get_vocab())
            unknown = sorted({character for character in text if character not in known})
            raise DataError(
                f"The prompt {text!r} has characters the tiny tokenizer does not know: {unknown}. "
                "Use digits, lower-case letters and + - * / ( ) = . , : | and the space."
            )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a completion up to its first end token."""
        ids = list(ids)
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def save(self, folder: Path) -> None:
        """Writes the standard files: config.json, model.safetensors, tokenizer.json, tokenizer_config.json."""
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path, family: str, device: torch.device) -> "Denoiser":
        """Loads what `save` wrote. Weights come from safetensors only; no code of the folder runs.

        Raises:
            CheckpointError: the folder lacks a file, or its tensors do not fit the configuration.
        """
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder} is not a checkpoint: {name} is missing.")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        try:
            loaded = LlamaForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except (RuntimeError, OSError, ValueError) as error:
            raise CheckpointError(f"{folder} cannot be loaded: {error}") from error
        # The stubs know only the form without loading info.
        network, report = cast(tuple[LlamaForCausalLM, dict[str, list[str]]], loaded)
        problems = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
        if problems:
            raise CheckpointError(f"{folder} does not fit its config.json: {problems}")
        if network.config.is_causal is not False:
            raise CheckpointError(f"{folder}/config.json has no is_causal=false: a denoiser reads in both directions.")
        return cls(network, tokenizer, family).to(device)
