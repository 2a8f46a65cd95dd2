"""Loading a policy: from a folder that `Denoiser.save` wrote, from a published folder, or from a pinned model.

Weights come from safetensors and all else from JSON; no code of a folder runs.
"""

import json
import logging
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer
from transformers.utils import logging as library_logging

from tasks.gdsd.config.model_source import ADAPTER, ADAPTER_CONFIG, BASE, HubModel, ModelFolder, resolve
from tasks.gdsd.denoiser import families, networks, quantization, weights
from tasks.gdsd.denoiser.checkpoint_record import read_base
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.families.base import PROMPT, Family
from tasks.gdsd.errors import CheckpointError

# Loading takes milliseconds here, and the stages have progress bars of their own.
library_logging.disable_progress_bar()

logger = logging.getLogger(__name__)

# What a published folder holds beside its weights and is written back as it was.
KEPT = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"),
)


def load_folder(folder: Path, family: str, device: torch.device, dtype: torch.dtype | None = None) -> Denoiser:
    """Loads what `Denoiser.save` wrote, or a published folder.

    Args:
        dtype: precision of the weights; by default float32, and bfloat16 for published models on a GPU. An adapter is
            float32 at least.

    Raises:
        CheckpointError: the folder lacks a file, its tensors do not fit its configuration, or the model that it names
            is not to be had.
        ConfigError: see `load_source`.
    """
    if (folder / BASE).exists():
        base = read_base(folder / BASE)
        if base.family != family:
            raise CheckpointError(f"{folder / BASE} names a model of the family {base.family!r}, not {family!r}")
        denoiser = load_source(base.source, device, dtype, base.bits)
        if denoiser.family.name != family:
            raise CheckpointError(f"{folder / BASE} says {family!r}, but its model is {denoiser.family.name!r}")
    else:
        denoiser = _load(folder, families.named(family), device, dtype)
    if (folder / ADAPTER).exists():
        denoiser.load_adapter(folder / ADAPTER)
    return denoiser


def load_source(
    source: HubModel | ModelFolder,
    device: torch.device,
    dtype: torch.dtype | None = None,
    bits: Literal[4] | None = None,
) -> Denoiser:
    """Loads a pinned model; what it says of itself chooses the family. `Denoiser.save` will name the pin, see there.

    Args:
        bits: 4 reads the weights of the blocks in 4 bits, on which only an adapter can be trained.

    Raises:
        CheckpointError: it is not to be had, has changed, is of no supported kind, or cannot be read in 4 bits.
        ConfigError: it is to be read in 4 bits, and what that needs is not installed.
    """
    if bits is not None:
        quantization.require()
    folder = resolve(source)
    family = families.of_config(_read_json(folder, "config.json"))
    if bits is not None and family.name == "tiny":
        raise CheckpointError(f"{folder} is a tiny model, whose base is kept as it is; leave base_bits out")
    # A tiny model is small, so it is copied whole and not named.
    return _load(folder, family, device, dtype, None if family.name == "tiny" else source, bits)


def load_outline(source: HubModel | ModelFolder) -> Denoiser:
    """Returns a pinned model without weights, which are not downloaded: it phrases prompts, and computes nothing.

    Raises:
        CheckpointError: see `load_source`.
    """
    folder = resolve(source, whole=False)
    return _load(folder, families.of_config(_read_json(folder, "config.json")), torch.device("meta"), None)


def _load(
    folder: Path,
    family: Family,
    device: torch.device,
    dtype: torch.dtype | None,
    source: HubModel | ModelFolder | None = None,
    bits: Literal[4] | None = None,
) -> Denoiser:
    if (folder / ADAPTER_CONFIG).exists():  # other tools would follow it to weights that nothing here checks
        raise CheckpointError(f"{folder}/{ADAPTER_CONFIG} is out of place: an adapter lies in {ADAPTER}/.")
    values = _read_json(folder, "config.json")
    if values.get("model_type") != family.model_type:
        raise CheckpointError(
            f"{folder}/config.json has the model_type {values.get('model_type')!r}, "
            f"but the family {family.name} has {family.model_type!r}"
        )
    tokenizer = load_tokenizer(folder)
    try:
        network = networks.build(family, values)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    dtype = dtype or networks.precision(family, device)
    if device.type != "meta":
        weights.read(folder, network, family, device, dtype, bits)
        networks.finish(network, family, device)
    kept = [folder / name for name in KEPT if family.name != "tiny" and (folder / name).is_file()]
    network.train(False)
    if tokenizer.chat_template and not any(part is not PROMPT for part in family.chat if isinstance(part, str)):
        logger.warning(
            "%s has a chat template, but the family %s phrases no prompts: its answers are those of a base model that "
            "continues a text",
            folder,
            family.name,
        )
    try:
        return Denoiser(network, tokenizer, family, {path.name: path.read_bytes() for path in kept}, source, bits)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Loads tokenizer.json, or vocab.json and merges.txt as the tokenizer of Qwen2; no code of the folder runs.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    kind: type[PreTrainedTokenizerBase] = PreTrainedTokenizerFast
    needed = "tokenizer.json"
    if not (folder / needed).is_file() and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        kind, needed = Qwen2Tokenizer, "vocab.json"
    for name in (needed, "tokenizer_config.json"):
        _read_json(folder, name)
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged file surfaces as whatever its parser raises
        raise CheckpointError(f"{folder}: its tokenizer cannot be loaded: {type(error).__name__}: {error}") from error
    for key in ("is_local", "local_files_only", "trust_remote_code"):
        tokenizer.init_kwargs.pop(key, None)  # how it was loaded is no part of what is saved
    return tokenizer


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
