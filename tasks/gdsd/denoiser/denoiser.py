"""A policy: a bidirectional transformer that predicts hidden tokens, with its tokenizer."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

from tasks.gdsd.config import AdapterConfig
from tasks.gdsd.denoiser import adapter
from tasks.gdsd.errors import CheckpointError, DataError
from tasks.gdsd.readout import Head

# Loading takes milliseconds here, and the stages have progress bars of their own.
logging.disable_progress_bar()


class Denoiser(torch.nn.Module):
    """A masked diffusion language model behind the few calls that sampling and training need.

    With an adapter only the adapter is trained, and the base policy is the same denoiser under `base_only`.
    """

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
        self._adapter: AdapterConfig | None = None
        self._frozen_head: tuple[tuple[int, int], Head] | None = None

    @property
    def device(self) -> torch.device:
        return self.network.lm_head.weight.device

    @property
    def vocabulary_size(self) -> int:
        """V: rows of the head."""
        return self.network.lm_head.weight.shape[0]

    @property
    def has_adapter(self) -> bool:
        return self._adapter is not None

    def attach_adapter(self, config: AdapterConfig, seed: int) -> None:
        """Freezes all weights and puts a fresh adapter on them, which adds nothing until it is trained.

        Raises:
            ValueError: there is an adapter already.
        """
        if self.has_adapter:
            raise ValueError("the denoiser has an adapter already, and a second one would take its place as the base")
        adapter.inject(self.network, config)
        adapter.draw(self.network, seed)
        self._adapter = config

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """Switches the adapter off: inside, the denoiser is the base policy bit for bit.

        Raises:
            ValueError: there is no adapter, hence no base inside this denoiser.
        """
        if not self.has_adapter:
            raise ValueError("the denoiser has no adapter to switch off; load the base policy from its own checkpoint")
        with adapter.switched_off(self.network):
            yield

    def trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Returns the parameters that training changes, by name: the adapter's, or all where there is none."""
        chosen = set(adapter.parameters(self.network).values()) if self.has_adapter else set(self.parameters())
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter in chosen]

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
        """Returns the map from hidden states to logits, differentiable while the head is trained.

        A frozen head is one and the same object until its weights move or change, so that what it remembers is kept.
        """
        weight = self.network.lm_head.weight
        if weight.requires_grad:
            return Head(weight)
        content = (weight.data_ptr(), weight._version)
        if self._frozen_head is None or self._frozen_head[0] != content:
            self._frozen_head = content, Head(weight)
        return self._frozen_head[1]

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
        """Writes the standard files: config.json, model.safetensors, tokenizer.json, tokenizer_config.json.

        They hold the base; an adapter is beside them in the folder `adapter`, in the form of the peft library.
        """
        self.network.save_pretrained(folder, state_dict=adapter.base_weights(self.network))
        self.tokenizer.save_pretrained(folder)
        if self._adapter is not None:
            adapter.save(self.network, self._adapter, folder / adapter.FOLDER)

    @classmethod
    def load(cls, folder: Path, family: str, device: torch.device) -> "Denoiser":
        """Loads what `save` wrote. Weights come from safetensors only; no code of the folder runs.

        Raises:
            CheckpointError: the folder lacks a file, or its tensors do not fit the configuration.
        """
        shape = _read_shape(folder)
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
            loaded = LlamaForCausalLM.from_pretrained(
                folder,
                config=shape,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # a damaged file surfaces as whatever its parser raises
            raise CheckpointError(f"{folder} cannot be loaded: {type(error).__name__}: {error}") from error
        # The stubs know only the form without loading info.
        network, report = cast(tuple[LlamaForCausalLM, dict[str, list[str]]], loaded)
        problems = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
        if problems:
            raise CheckpointError(f"{folder} does not fit its config.json: {problems}")
        special = (tokenizer.mask_token, tokenizer.eos_token, tokenizer.pad_token)
        if not {str(token) for token in special} <= set(tokenizer.get_vocab()):
            raise CheckpointError(f"{folder}: tokenizer_config.json names no mask, end and padding token: {special}")
        for key in ("is_local", "local_files_only"):
            tokenizer.init_kwargs.pop(key, None)  # how it was loaded is no part of what is saved
        denoiser = cls(network, tokenizer, family)
        if (folder / adapter.FOLDER).exists():
            denoiser._adapter = adapter.load(network, folder / adapter.FOLDER)
        return denoiser.to(device)


def _read_shape(folder: Path) -> LlamaConfig:
    """Checks that the files can be read, and config.json's content, before anything of its size is built."""
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is not a checkpoint: {name} is missing.")
    if (folder / adapter.CONFIG).exists():  # transformers would follow it to weights that nothing here checks
        raise CheckpointError(f"{folder}/{adapter.CONFIG} is out of place: an adapter lies in {adapter.FOLDER}/.")
    parsed: dict[str, object] = {}
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        try:
            parsed[name] = json.loads((folder / name).read_text())
        except ValueError as error:
            raise CheckpointError(f"{folder}/{name} is damaged: {error}") from error
    try:
        with safe_open(folder / "model.safetensors", framework="pt"):
            pass
    except SafetensorError as error:
        raise CheckpointError(f"{folder}/model.safetensors is damaged: {error}") from error
    values = parsed["config.json"]
    needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    if not isinstance(values, dict) or values.get("model_type") != "llama" or any(key not in values for key in needed):
        raise CheckpointError(f"{folder}/config.json does not describe a Llama with {', '.join(needed)}.")
    if values.get("is_causal") is not False:
        raise CheckpointError(f"{folder}/config.json has no is_causal=false: a denoiser reads in both directions.")
    try:
        return LlamaConfig.from_pretrained(folder)
    except Exception as error:  # its validation has errors of its own
        raise CheckpointError(f"{folder}/config.json is refused: {error}") from error
