"""Weights on disk: safetensors, whole or in shards, under a family's official names.

Reading never holds a second copy: each tensor goes from its file to its device and dtype, one after the other. All
names and shapes are compared before the first is read. Pickled weights (*.bin, *.pt) are not looked at.
"""

import json
from pathlib import Path
from typing import Literal, Self, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tasks.gdsd.denoiser import quantization
from tasks.gdsd.denoiser.families.base import Family
from tasks.gdsd.denoiser.networks import Network
from tasks.gdsd.errors import CheckpointError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
DTYPES = {"F64", "F32", "F16", "BF16"}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


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
    places = official_places(network, family)
    files = _files(folder)
    tied_head = family.official(HEAD) if network.config.tie_word_embeddings else None
    shapes: dict[str, list[int]] = {}
    for file in sorted(set(files.values())):
        with _Tensors(file) as tensors:
            for name in tensors.names:
                if files.get(name) != file:
                    raise CheckpointError(f"{file} has the tensor {name}, which {INDEX} does not place there")
                dtype_here, shapes[name] = tensors.describe(name)
                if dtype_here not in DTYPES:
                    raise CheckpointError(f"{file}: {name} is {dtype_here}, but weights are one of {sorted(DTYPES)}")
    _compare("lacks", sorted(places.keys() - shapes.keys()), folder)
    _compare("has surplus", sorted(shapes.keys() - places.keys() - {tied_head}), folder)
    wrong = [name for name, place in places.items() if list(place.shape) != shapes[name]]
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{folder}: {len(wrong)} tensors of {WHOLE} do not fit config.json; first {name}, "
            f"which is {shapes[name]} instead of {list(places[name].shape)}"
        )
    stock = {family.official(name): name for name, _ in network.named_parameters()}
    for file in sorted(set(files.values())):
        with _Tensors(file) as tensors:
            for name in sorted(name for name, at in files.items() if at == file and name in places):
                module, _, kind = stock[name].rpartition(".")
                # A copy even where neither changes: the library maps the file, and a file can change under us.
                tensor = tensors.read(name).to(device=device, dtype=dtype, copy=True)
                place = network.get_submodule(module)
                if bits is not None and quantization.is_quantised(stock[name], network):
                    network.set_submodule(module, quantization.quantise(cast(torch.nn.Linear, place), tensor))
                else:
                    place.register_parameter(kind, torch.nn.Parameter(tensor))
    if tied_head in shapes:
        _compare_tied_head(network, files[tied_head], tied_head)


def write(folder: Path, weights: dict[str, Tensor], family: Family, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes weights under their official names: one file, or shards with an index where they exceed `shard_bytes`."""
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for name, tensor in weights.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][family.official(name)] = tensor.detach()
        room -= tensor.nbytes
    metadata = {"format": "pt"}
    if len(shards) == 1:
        save_file(_ready(shards[0]), folder / WHOLE, metadata=metadata)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(_ready(shard), folder / file, metadata=metadata)
        places |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def official_places(network: Network, family: Family) -> dict[str, torch.nn.Parameter]:
    """Returns the parameters by official name; a tied head is no parameter of its own."""
    return {family.official(name): parameter for name, parameter in network.named_parameters()}


def _ready(shard: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in shard.items()}


def _files(folder: Path) -> dict[str, Path]:
    """Returns which file holds which tensor."""
    if not (folder / INDEX).is_file():
        if not (folder / WHOLE).is_file():
            raise CheckpointError(
                f"{folder} is not a checkpoint: {WHOLE} (or {INDEX} with its shards) is missing.{_advice(folder)}"
            )
        with _Tensors(folder / WHOLE) as tensors:
            return dict.fromkeys(tensors.names, folder / WHOLE)  # not a dict
    try:
        places = json.loads((folder / INDEX).read_text())["weight_map"]
        names = {str(name): str(file) for name, file in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise CheckpointError(f"{folder / INDEX} is damaged: {type(error).__name__}: {error}") from error
    for file in sorted(set(names.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{folder / INDEX} names {file!r}, which is no safetensors file beside it")
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder} is not whole: {file} is missing, which {INDEX} names.")
    found: dict[str, set[str]] = {}
    for name, file in names.items():
        if file not in found:
            with _Tensors(folder / file) as tensors:
                found[file] = set(tensors.names)
        if name not in found[file]:
            raise CheckpointError(f"{folder / file} lacks the tensor {name}, which {INDEX} places there")
    return {name: folder / file for name, file in names.items()}


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


class _Tensors:
    """An open safetensors file; damage is refused by name. (The library has no types for its calls.)"""

    def __init__(self, path: Path):
        try:
            self._file = safe_open(path, framework="pt")
            self.names: list[str] = list(self._file.keys())  # type: ignore[no-untyped-call]  # safetensors has no types
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.__exit__(*raised)  # type: ignore[no-untyped-call]  # safetensors has no types

    def describe(self, name: str) -> tuple[str, list[int]]:
        part = self._file.get_slice(name)  # type: ignore[no-untyped-call]  # safetensors has no types
        return str(part.get_dtype()), list(part.get_shape())

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)  # type: ignore[no-untyped-call]  # safetensors has no types
        return tensor


def _compare(what: str, names: list[str], folder: Path) -> None:
    if names:
        raise CheckpointError(
            f"{folder} does not fit its config.json: it {what} {len(names)} tensors, first {names[:3]}; "
            "a model with other weights would be partly random, or not the one that was published"
        )


def _compare_tied_head(network: Network, file: Path, name: str) -> None:
    """Some writers store a tied head although it is the embedding; then it has to be that."""
    embedding = network.model.embed_tokens.weight
    with _Tensors(file) as tensors:
        head = tensors.read(name)
    if head.shape != embedding.shape or not torch.equal(head.to(embedding.device, embedding.dtype), embedding):
        raise CheckpointError(f"{file}: {name} differs from the embedding, but config.json says that they are tied")
