"""Weights on disk: safetensors, whole or in shards, under a family's official names.

Reading never holds a second copy: each tensor goes from its file to its device and dtype, one after the other. All
names and shapes are compared before the first is read. Pickled weights (*.bin, *.pt) are not looked at.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tasks.gdsd.denoiser import quantization
from tasks.gdsd.denoiser.families.base import Family
from tasks.gdsd.denoiser.networks import Network
from tasks.gdsd.errors import CheckpointError

WHOLE, SHARDS, INDEX = "model.safetensors", "model{suffix}.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
DTYPES = {"F64", "F32", "F16", "BF16"}
HEAD = "lm_head.weight"


def read(
    folder: Path,
    network: Network,
    family: Family,
    device: torch.device,
    dtype: torch.dtype,
    bits: Literal[4] | None = None,
) -> None:
    """Fills a network that was built on the meta device.

    Args:
        bits: 4 quantises the weights of the blocks' linear maps, each as it is read.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor is missing, surplus, or of another shape or kind.
    """
    stock = {family.official(name): name for name, _ in network.named_parameters()}
    places = {official: network.get_parameter(name) for official, name in stock.items()}
    stored = _stored(folder)
    tied_head = family.official(HEAD) if network.config.tie_word_embeddings else None
    _compare("lacks", sorted(places.keys() - stored.keys()), folder)
    _compare("has surplus", sorted(stored.keys() - places.keys() - {tied_head}), folder)
    if wrong := [name for name, place in places.items() if list(place.shape) != stored[name].shape]:
        name = wrong[0]
        raise CheckpointError(
            f"{folder}: {len(wrong)} tensors of {WHOLE} do not fit config.json; first {name}, "
            f"which is {stored[name].shape} instead of {list(places[name].shape)}"
        )
    for file in sorted({tensor.file for tensor in stored.values()}):
        with _opened(file) as tensors:
            for name in sorted(name for name in places if stored[name].file == file):
                module, _, kind = stock[name].rpartition(".")
                # A copy even where neither changes: the library maps the file, and a file can change under us.
                tensor: Tensor = tensors.get_tensor(name).to(device=device, dtype=dtype, copy=True)
                place = network.get_submodule(module)
                if bits is not None and quantization.is_quantised(stock[name], network):
                    network.set_submodule(module, quantization.quantise(cast(torch.nn.Linear, place), tensor))
                else:
                    place.register_parameter(kind, torch.nn.Parameter(tensor))
    if tied_head in stored:
        _compare_tied_head(network, stored[tied_head].file, tied_head)


def write(folder: Path, weights: dict[str, Tensor], family: Family, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes weights under their official names: one file, or shards with an index where they exceed `shard_bytes`."""
    named = {family.official(name): tensor.detach() for name, tensor in weights.items()}
    split = split_torch_state_dict_into_shards(named, filename_pattern=SHARDS, max_shard_size=shard_bytes)
    for file, names in split.filename_to_tensors.items():
        shard = {name: named[name].cpu().contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


@dataclass(frozen=True)
class _Stored:
    """Where a tensor lies, and its shape."""

    file: Path
    shape: list[int]


def _stored(folder: Path) -> dict[str, _Stored]:
    """Returns all tensors of a folder, read from the heads of its files.

    Raises:
        CheckpointError: a file is missing, damaged or of a kind that is not read, or is not what the index says.
    """
    index = _read_index(folder) if (folder / INDEX).is_file() else None
    if index is None and not (folder / WHOLE).is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint: {WHOLE} (or {INDEX} with its shards) is missing.{_advice(folder)}"
        )
    found: dict[str, _Stored] = {}
    for file in sorted({WHOLE} if index is None else set(index.values())):
        with _opened(folder / file) as tensors:
            names: list[str] = tensors.keys()
            for name in names:
                if index is not None and index.get(name) != file:
                    raise CheckpointError(f"{folder / file} has the tensor {name}, which {INDEX} does not place there")
                head = tensors.get_slice(name)
                if head.get_dtype() not in DTYPES:
                    raise CheckpointError(
                        f"{folder / file}: {name} is {head.get_dtype()}, but weights are one of {sorted(DTYPES)}"
                    )
                found[name] = _Stored(folder / file, list(head.get_shape()))
    if index is not None and (lacking := sorted(index.keys() - found.keys())):
        raise CheckpointError(f"{folder / index[lacking[0]]} lacks the tensor {lacking[0]}, which {INDEX} places there")
    return found


def _read_index(folder: Path) -> dict[str, str]:
    try:
        places = json.loads((folder / INDEX).read_text())["weight_map"]
        index = {str(name): str(file) for name, file in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise CheckpointError(f"{folder / INDEX} is damaged: {type(error).__name__}: {error}") from error
    for file in sorted(set(index.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{folder / INDEX} names {file!r}, which is no safetensors file beside it")
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder} is not whole: {file} is missing, which {INDEX} names.")
    return index


def _advice(folder: Path) -> str:
    """Says what to do where there are only weights that are not read."""
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth"))
    if not pickled:
        return " Of a model that was published as *.bin alone, the weights have to be converted to safetensors first."
    return (
        f" Its {pickled[0]} is a pickle, which can run code when it is read. If you trust its origin, convert each "
        "such file: safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in torch.load('x.bin', "
        f"map_location='cpu', weights_only=True).items()}}, '{WHOLE}'); for shards, name them in {INDEX} as the index "
        "of the pickles does."
    )


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    """Opens a safetensors file.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    with file as tensors:
        yield tensors


def _compare(what: str, names: list[str], folder: Path) -> None:
    if names:
        raise CheckpointError(
            f"{folder} does not fit its config.json: it {what} {len(names)} tensors, first {names[:3]}; "
            "a model with other weights would be partly random, or not the one that was published"
        )


def _compare_tied_head(network: Network, file: Path, name: str) -> None:
    """Some writers store a tied head although it is the embedding; then it has to be that."""
    embedding = network.model.embed_tokens.weight
    with _opened(file) as tensors:
        head: Tensor = tensors.get_tensor(name)
    if head.shape != embedding.shape or not torch.equal(head.to(embedding.device, embedding.dtype), embedding):
        raise CheckpointError(f"{file}: {name} differs from the embedding, but config.json says that they are tied")
