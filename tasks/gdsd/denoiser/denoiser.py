"""A policy: a bidirectional transformer that predicts hidden tokens, with its tokenizer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tasks.gdsd.config.model_source import ADAPTER, BASE, HubModel, ModelFolder
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.denoiser import last_block, lora, weights
from tasks.gdsd.denoiser.checkpoint_record import BaseRecord
from tasks.gdsd.denoiser.families.base import Family
from tasks.gdsd.denoiser.head import Head
from tasks.gdsd.denoiser.networks import Network
from tasks.gdsd.denoiser.text import Text
from tasks.gdsd.errors import CheckpointError


class Denoiser(torch.nn.Module):
    """A masked diffusion language model behind the few calls that sampling and training need.

    With an adapter only the adapter is trained, and the base policy is the same denoiser under `base_only`. What only
    samples should say so with `freeze_for_sampling`.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: PreTrainedTokenizerBase,
        family: Family,
        files: Mapping[str, bytes] | None = None,
        source: HubModel | ModelFolder | None = None,
        bits: Literal[4] | None = None,
    ):
        """Puts a network and its tokenizer together.

        Args:
            files: what a published folder holds beside its weights, by name: none for a family of this project.
            source: the pinned model that the network is, if it is one; `save` names it instead of copying it.
            bits: in which the weights of the blocks were read; None as they are.

        Raises:
            CheckpointError: the tokenizer lacks a special token of the family, or has more tokens than the network.
        """
        super().__init__()
        self.network = network
        last_block.prepare(network)
        self.tokenizer = tokenizer
        self.family = family
        self._files = dict(files or {})
        self._text = Text(tokenizer, family, json.loads(self._files.get("config.json", b"{}")))
        self.mask_id, self.pad_id, self.end_ids = self._text.mask, self._text.pad, self._text.ends
        self.end_id = self.end_ids[0]  # what fills the canvas after an answer
        banned = (self.mask_id, self.pad_id, *self._text.never)
        self.never_sampled = tuple(dict.fromkeys(token for token in banned if token not in self.end_ids))
        tokens = max(tokenizer.get_vocab().values()) + 1
        if tokens > self.vocabulary_size:
            raise CheckpointError(f"the tokenizer has {tokens} tokens, but the head only {self.vocabulary_size} rows")
        self._source, self._bits = source, bits
        self._as_loaded = self._versions()
        self._adapter: AdapterConfig | None = None
        self._only_samples = False
        self._frozen_head: tuple[tuple[int, int], Head] | None = None

    @property
    def device(self) -> torch.device:
        return self.network.lm_head.weight.device

    @property
    def vocabulary_size(self) -> int:
        """V: rows of the head."""
        return self.network.lm_head.weight.shape[0]

    @property
    def positions(self) -> int:
        """Tokens of prompt and completion that the model was made for."""
        return int(self.network.config.max_position_embeddings)

    @property
    def has_adapter(self) -> bool:
        return self._adapter is not None

    def attach_adapter(self, config: AdapterConfig, seed: int) -> None:
        """Freezes all weights and puts a fresh adapter on them, which adds nothing until it is trained.

        Raises:
            ValueError: there is an adapter already, the base was read in other bits, or the denoiser only samples.
        """
        self._refuse_if_frozen("no adapter can be trained")
        if self.has_adapter:
            raise ValueError("the denoiser has an adapter already, and a second one would take its place as the base")
        if config.base_bits != self._bits:
            raise ValueError(f"the base was read with base_bits {self._bits}, but the adapter says {config.base_bits}")
        if not self._is_as_loaded():
            self._source = None  # trained since, so it is no longer the pinned model
        lora.inject(self.network, config)
        lora.draw(self.network, seed)
        self._adapter = config

    def load_adapter(self, folder: Path) -> None:
        """Freezes all weights and puts the adapter on them that `save` wrote.

        Raises:
            CheckpointError: see `lora.load`.
        """
        config = lora.load(self.network, folder, self.family, self._source)
        self._adapter = config.model_copy(update={"base_bits": self._bits})

    def refer_to(self, folder: Path) -> None:
        """Makes an adapter's folder part of the base: `base_only` then is that policy, which the run began with.

        Raises:
            CheckpointError: see `lora.refer_to`.
        """
        assert self._adapter is not None  # only a policy with one has such a base
        lora.refer_to(self.network, self._adapter, folder, self.family, self._source)

    def merge_adapter(self) -> None:
        """Makes the adapter part of the weights, each rounded once; all of them can be trained then.

        They are no longer those of a pinned model.
        """
        from tasks.gdsd.denoiser import exact_sum  # only here, since it imports peft

        assert self.has_adapter and self._bits is None  # 4 bits have no room for it
        exact_sum.merge(self.network)
        self.network.requires_grad_(True)
        self._adapter = self._source = None

    def freeze_for_sampling(self) -> None:
        """Makes the policy as cheap to call as it can be: nothing is trained, and an adapter becomes part of the maps.

        There is no way back: afterwards only forward passes, the head and the tokenizer's calls work.

        Raises:
            ValueError: the adapter is switched off.
        """
        if self.has_adapter:
            from tasks.gdsd.denoiser import exact_sum  # only here, since it imports peft

            exact_sum.settle(self.network)
        self.network.requires_grad_(False)
        self.only_sample(True)

    def only_sample(self, only: bool) -> None:
        """Refuses from here on whatever needs the weights as they are at rest, or does so no longer."""
        self._only_samples, self._frozen_head = only, None

    def _refuse_if_frozen(self, what: str) -> None:
        if self._only_samples:
            raise ValueError(f"the denoiser was frozen for sampling, so {what}; load the checkpoint again for that")

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """Switches the adapter off: inside, the denoiser is the base policy bit for bit, see `refer_to`.

        Raises:
            ValueError: there is no adapter, hence no base inside this denoiser, or it is part of the maps for good.
        """
        self._refuse_if_frozen("its base cannot be told from its adapter")
        if not self.has_adapter:
            raise ValueError("the denoiser has no adapter to switch off; load the base policy from its own checkpoint")
        with lora.switched_off(self.network):
            yield

    def trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Returns the parameters that training changes, by name: the adapter's, or all where there is none.

        Raises:
            ValueError: the denoiser only samples, or its weights cannot be trained.
        """
        self._refuse_if_frozen("nothing of it can be trained")
        if self._bits is not None and not self.has_adapter:
            raise ValueError(f"weights of {self._bits} bits cannot be trained; attach an adapter")
        chosen = set(lora.parameters(self.network).values()) if self.has_adapter else set(self.parameters())
        return [(name, parameter) for name, parameter in self.named_parameters() if parameter in chosen]

    def forward(
        self,
        ids: Tensor,  # (B, T) int64
        attention: Tensor | None = None,  # (B, T) bool, False on left padding; None when nothing is padded
        read: Tensor | None = None,  # (B, L) bool: which of the last L tokens are to be predicted, R in all
    ) -> Tensor:  # (B, T, D): row i predicts token i; or (R, D)
        """Returns the last hidden states, aligned so that row i predicts token i; or those alone that predict `read`.

        Without padding no mask is passed, which keeps scaled-dot-product attention on its fast kernel.
        """
        if torch.is_grad_enabled() and not self.has_adapter and self._bits is None:
            self._source = None  # all weights are trained, so they are no longer the pinned ones
        mask = None if attention is None or bool(attention.all()) else attention.long()
        rows = None if read is None else last_block.rows(read, ids.shape[1], attention, self.family.shifted)
        found = self.network.model(input_ids=ids, attention_mask=mask, use_cache=False, rows=rows)
        states: Tensor = found.last_hidden_state
        return _shift(states, mask) if self.family.shifted and rows is None else states

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
        """Tokenises a prompt, phrased as the family's template has it; whatever it spells is read as text.

        Raises:
            DataError: the text has a character that the tokenizer does not know, or would be read as a special token.
        """
        return self._text.encode(text)

    def lacking(self, text: str) -> str | None:
        """Says which characters of a text the policy can neither read nor write, see `Text.lacking`."""
        return self._text.lacking(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a completion up to its first end token."""
        return self._text.decode(ids)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Returns the text of each token, see `Text.pieces`."""
        return self._text.pieces(ids)

    def ended(self, ids: Sequence[int]) -> bool:
        """Says whether a completion came to an end."""
        return self._text.ended(ids)

    def save(self, folder: Path, shard_bytes: int = weights.SHARD_BYTES) -> None:
        """Writes the policy into an existing folder.

        A published model is written in its own layout: official names of weights, config.json and tokenizer as they
        were, but that config.json names the precision of the weights as it is now, if it names any. An adapter is
        beside it in the folder `adapter`, in the form of the peft library. Where a pinned model has not been trained
        itself, `base.json` with the pin stands for all of its files.

        Raises:
            ValueError: the denoiser only samples.
        """
        self._refuse_if_frozen("its weights are no longer those to save")
        if self._source is not None and (self.has_adapter or self._is_as_loaded()):
            base = BaseRecord(family=self.family.name, source=self._source, bits=self._bits)
            (folder / BASE).write_text(base.model_dump_json(indent=2) + "\n")
        elif self.family.name == "tiny":
            self.network.save_pretrained(folder, state_dict=lora.base_weights(self.network))
            self.tokenizer.save_pretrained(folder)
        else:
            tensors = lora.base_weights(self.network)
            for name, content in self._files.items():
                (folder / name).write_bytes(_with_dtype(content, tensors) if name == "config.json" else content)
            if self.network.config.tie_word_embeddings:
                del tensors[weights.HEAD]
            weights.write(folder, tensors, self.family, shard_bytes)
        if self._adapter is not None:
            lora.save(self.network, self._adapter, folder / ADAPTER, self.family, self._source)

    def _is_as_loaded(self) -> bool:
        """Says whether no weight of the base was written since, as far as torch counts: fused optimizers pass it by."""
        return self._versions() == self._as_loaded

    def _versions(self) -> int:
        return sum(parameter._version for name, parameter in self.named_parameters() if ".lora_" not in name)


def _shift(
    states: Tensor,  # (B, T, D): row i - 1 predicts token i
    mask: Tensor | None,  # (B, T), 0 on left padding
) -> Tensor:  # (B, T, D): row i predicts token i
    """Moves all rows on by one; the first row of each sequence also stands for itself, as its authors have it."""
    if mask is None:
        return torch.cat([states[:, :1], states[:, :-1]], dim=1)
    first = mask.long().argmax(1, keepdim=True)  # (B, 1)
    rows = torch.arange(states.shape[1], device=states.device)  # (T,)
    rows = torch.where(rows > first, rows - 1, rows)  # (B, T)
    return states.gather(1, rows[:, :, None].expand_as(states))


def _with_dtype(config: bytes, tensors: Mapping[str, Tensor]) -> bytes:
    """Returns config.json with the precision of the weights beside it, where it names one: others load them by it."""
    values = json.loads(config)
    stored = str(reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))).removeprefix("torch.")
    wrong = {key: stored for key in ("dtype", "torch_dtype") if key in values and values[key] != stored}
    return json.dumps(values | wrong, indent=2).encode() + b"\n" if wrong else config
