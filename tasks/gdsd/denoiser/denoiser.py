"""A policy: a bidirectional transformer that predicts hidden tokens, with its tokenizer."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as library_logging

from tasks.gdsd.config.model_source import HubModel, ModelFolder, ModelSource, resolve
from tasks.gdsd.config.train import AdapterConfig
from tasks.gdsd.denoiser import adapter, families, networks, sampling_form, tokenizer_files, weights
from tasks.gdsd.denoiser.families.base import PROMPT, Family, Special
from tasks.gdsd.denoiser.head import Head
from tasks.gdsd.denoiser.networks import Network
from tasks.gdsd.denoiser.tokenizer_files import SpecialIds
from tasks.gdsd.errors import CheckpointError, ConfigError, DataError
from tasks.gdsd.strict import Config

# Loading takes milliseconds here, and the stages have progress bars of their own.
library_logging.disable_progress_bar()

logger = logging.getLogger(__name__)

BASE = "base.json"  # names the pinned model under an adapter, in the place of its weights
# What a published folder holds beside its weights and is written back as it was.
KEPT = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
KEPT_TOO = ("added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja")


class Base(Config):
    """The content of base.json."""

    family: str
    source: ModelSource
    bits: Literal[4] | None = None  # in which the weights of its blocks were read, and have to be read again


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
    ):
        """Puts a network and its tokenizer together.

        Args:
            files: what a published folder holds beside its weights, by name: none for a family of this project.

        Raises:
            CheckpointError: the tokenizer lacks a special token of the family, or has more tokens than the network.
        """
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.family = family
        vocabulary = tokenizer.get_vocab()
        self._special = SpecialIds(family, vocabulary, json.loads((files or {}).get("config.json", b"{}")))
        self.mask_id = self._special.mask
        self.end_ids = self._special.ends
        self.end_id = self.end_ids[0]  # what fills the canvas after an answer
        self.pad_id = self._special.pad
        banned = (self.mask_id, self.pad_id, *self._special.never)
        self.never_sampled = tuple(dict.fromkeys(token for token in banned if token not in self.end_ids))
        if max(vocabulary.values()) >= self.vocabulary_size:
            tokens = max(vocabulary.values()) + 1
            raise CheckpointError(f"the tokenizer has {tokens} tokens, but the head only {self.vocabulary_size} rows")
        self._chat = [self._special.find(part) if isinstance(part, Special) else part for part in family.chat]
        spelled = [str(tokenizer.convert_ids_to_tokens(token)) for token in sorted(self._special.reserved)]
        self._breaks = re.compile("|".join(f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in spelled))
        self._files = dict(files or {})
        self._source: HubModel | ModelFolder | None = None  # what it is as loaded, if that is pinned
        self._base_bits: Literal[4] | None = None
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
        if config.base_bits != self._base_bits:
            raise ValueError(
                f"the base was read with base_bits {self._base_bits}, but the adapter says {config.base_bits}"
            )
        if not self._is_as_loaded():
            self._source = None  # trained since, so it is no longer the pinned model
        adapter.inject(self.network, config)
        adapter.draw(self.network, seed)
        self._adapter = config

    def freeze_for_sampling(self) -> None:
        """Makes the policy as cheap to call as it can be: nothing is trained, and an adapter becomes part of the maps.

        There is no way back: afterwards only forward passes, the head and the tokenizer's calls work.

        Raises:
            ValueError: the adapter is switched off.
        """
        sampling_form.settle(self.network)
        self._only_samples = True

    def _refuse_if_frozen(self, what: str) -> None:
        if self._only_samples:
            raise ValueError(f"the denoiser was frozen for sampling, so {what}; load the checkpoint again for that")

    @contextmanager
    def base_only(self) -> Iterator[None]:
        """Switches the adapter off: inside, the denoiser is the base policy bit for bit.

        Raises:
            ValueError: there is no adapter, hence no base inside this denoiser, or it is part of the maps for good.
        """
        self._refuse_if_frozen("its base cannot be told from its adapter")
        if not self.has_adapter:
            raise ValueError("the denoiser has no adapter to switch off; load the base policy from its own checkpoint")
        with adapter.switched_off(self.network):
            yield

    def trainable(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Returns the parameters that training changes, by name: the adapter's, or all where there is none.

        Raises:
            ValueError: the denoiser only samples, or its weights cannot be trained.
        """
        self._refuse_if_frozen("nothing of it can be trained")
        if self._base_bits is not None and not self.has_adapter:
            raise ValueError(f"weights of {self._base_bits} bits cannot be trained; attach an adapter")
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
        if torch.is_grad_enabled() and not self.has_adapter and self._base_bits is None:
            self._source = None  # all weights are trained, so they are no longer the pinned ones
        mask = None if attention is None or bool(attention.all()) else attention.long()
        states: Tensor = self.network.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return _shift(states, mask) if self.family.shifted else states

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
        """Tokenises a prompt, phrased as the family's template has it.

        Whatever the prompt spells is read as text: no prompt can hold a mask, end its turn or speak for another role.

        Raises:
            DataError: the text has a character that the tokenizer does not know, or would be read as a special token.
        """
        if self.family.name == "tiny":
            return self._encode_characters(text)
        prompt = text.strip() if self.family.strips_prompt else text
        ids: list[int] = []
        piece = ""  # text between special tokens is tokenised as a whole
        for part in self._chat:
            if isinstance(part, str):
                piece += prompt if part is PROMPT else part
                continue
            ids += [*self._encode_plain(piece), part]
            piece = ""
        return ids + self._encode_plain(piece)

    def _encode_plain(self, text: str) -> list[int]:
        """Tokenises text in which no special token is recognised, however it is spelled."""
        pieces = self._breaks.split(text)  # some tokenizers recognise some of them in spite of the option below
        encode = self.tokenizer.encode
        parts = [encode(piece, add_special_tokens=False, split_special_tokens=True) for piece in pieces]
        ids: list[int] = [token for part in parts for token in part]
        if spoken := self._special.reserved.intersection(ids):
            tokens = self.tokenizer.convert_ids_to_tokens(sorted(spoken))
            raise DataError(
                f"The prompt {text!r} is read as the special tokens {tokens}; a prompt may not contain them."
            )
        return ids

    def _encode_characters(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        if self.pad_id in ids or len(ids) != len(text):
            known = set(self.tokenizer.get_vocab())
            unknown = sorted({character for character in text if character not in known})
            raise DataError(
                f"The prompt {text!r} has characters the tiny tokenizer does not know: {unknown}. "
                "Use digits, lower-case letters and + - * / ( ) = . , : | and the space."
            )
        return ids

    def ended(self, ids: Sequence[int]) -> bool:
        """Says whether a completion came to an end."""
        return not set(self.end_ids).isdisjoint(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a completion up to its first end token."""
        ids = list(ids)
        end = next((place for place, token in enumerate(ids) if token in self.end_ids), len(ids))
        return str(self.tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Returns the text of each token, ends included; what is but a part of a character has a sign in its place."""
        texts = {token: str(self.tokenizer.decode([token], skip_special_tokens=False)) for token in set(ids)}
        return [texts[token] for token in ids]

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
            base = Base(family=self.family.name, source=self._source, bits=self._base_bits)
            (folder / BASE).write_text(base.model_dump_json(indent=2) + "\n")
        elif self.family.name == "tiny":
            self.network.save_pretrained(folder, state_dict=adapter.base_weights(self.network))
            self.tokenizer.save_pretrained(folder)
        else:
            tensors = adapter.base_weights(self.network)
            for name, content in self._files.items():
                (folder / name).write_bytes(_with_dtype(content, tensors) if name == "config.json" else content)
            if networks.is_tied(self.network):
                del tensors[weights.HEAD]
            weights.write(folder, tensors, self.family, shard_bytes)
        if self._adapter is not None:
            adapter.save(self.network, self._adapter, folder / adapter.FOLDER, self.family, self._source)

    @classmethod
    def load(cls, folder: Path, family: str, device: torch.device, dtype: torch.dtype | None = None) -> "Denoiser":
        """Loads what `save` wrote, or a published folder. Weights come from safetensors; no code of the folder runs.

        Args:
            dtype: precision of the weights; by default float32, and bfloat16 for published models on a GPU. An
                adapter is float32 at least.

        Raises:
            CheckpointError: the folder lacks a file, its tensors do not fit its configuration, or the model that it
                names is not to be had.
        """
        if (folder / BASE).exists():
            base = _read_base(folder / BASE)
            if base.family != family:
                raise CheckpointError(f"{folder / BASE} names a model of the family {base.family!r}, not {family!r}")
            denoiser = cls.from_source(base.source, device, dtype, base.bits)
            if denoiser.family.name != family:
                raise CheckpointError(f"{folder / BASE} says {family!r}, but its model is {denoiser.family.name!r}")
        else:
            denoiser = cls._load_base(folder, families.named(family), device, dtype)
        if (folder / adapter.FOLDER).exists():
            place = folder / adapter.FOLDER
            config = adapter.load(denoiser.network, place, denoiser.family, denoiser._source)
            denoiser._adapter = config.model_copy(update={"base_bits": denoiser._base_bits})
        return denoiser

    @classmethod
    def from_source(
        cls,
        source: HubModel | ModelFolder,
        device: torch.device,
        dtype: torch.dtype | None = None,
        bits: Literal[4] | None = None,
    ) -> "Denoiser":
        """Loads a pinned model; what it says of itself chooses the family. `save` will name the pin, see there.

        Args:
            bits: 4 reads the weights of the blocks in 4 bits, on which only an adapter can be trained.

        Raises:
            CheckpointError: it is not to be had, has changed, is of no supported kind, or cannot be read in 4 bits.
        """
        folder = resolve(source)
        family = families.of_config(_read_json(folder, "config.json"))
        if bits is not None and family.name == "tiny":
            raise CheckpointError(f"{folder} is a tiny model, whose base is kept as it is; leave base_bits out")
        denoiser = cls._load_base(folder, family, device, dtype, bits)
        if family.name != "tiny":  # which is small, and stays whole
            denoiser._source = source
        return denoiser

    @classmethod
    def outline(cls, source: HubModel | ModelFolder) -> "Denoiser":
        """Returns a pinned model without weights, which are not downloaded: it phrases prompts, and computes nothing.

        Raises:
            CheckpointError: see `from_source`.
        """
        folder = resolve(source, whole=False)
        return cls._load_base(folder, families.of_config(_read_json(folder, "config.json")), torch.device("meta"), None)

    @classmethod
    def _load_base(
        cls,
        folder: Path,
        family: Family,
        device: torch.device,
        dtype: torch.dtype | None,
        bits: Literal[4] | None = None,
    ) -> "Denoiser":
        if (folder / adapter.CONFIG).exists():  # other tools would follow it to weights that nothing here checks
            raise CheckpointError(f"{folder}/{adapter.CONFIG} is out of place: an adapter lies in {adapter.FOLDER}/.")
        values = _read_json(folder, "config.json")
        if values.get("model_type") != family.model_type:
            raise CheckpointError(
                f"{folder}/config.json has the model_type {values.get('model_type')!r}, "
                f"but the family {family.name} has {family.model_type!r}"
            )
        tokenizer = tokenizer_files.load(folder)
        try:
            network = networks.build(family, values)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        if dtype is None:
            dtype = torch.bfloat16 if device.type == "cuda" and family.name != "tiny" else torch.float32
        if device.type != "meta":
            weights.read(folder, network, family, device, dtype, bits)
            networks.finish(network, family, device)
        kept = {name: folder / name for name in (*KEPT, *KEPT_TOO) if (folder / name).is_file()}
        files = None if family.name == "tiny" else {name: path.read_bytes() for name, path in kept.items()}
        network.train(False)
        if tokenizer.chat_template and not any(part is not PROMPT for part in family.chat if isinstance(part, str)):
            logger.warning("%s has a chat template, but the family %s phrases no prompts", folder, family.name)
        try:
            denoiser = cls(network, tokenizer, family, files)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        denoiser._base_bits = bits
        return denoiser

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


def _read_json(folder: Path, name: str) -> dict[str, object]:
    try:
        values = json.loads((folder / name).read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a checkpoint: {name} is missing.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder}/{name} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{folder}/{name} is damaged: it holds {type(values).__name__}, not an object")
    return values


def _read_base(path: Path) -> Base:
    try:
        return Base.model_validate_json(path.read_text())
    except (OSError, ValueError, ConfigError, ValidationError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
