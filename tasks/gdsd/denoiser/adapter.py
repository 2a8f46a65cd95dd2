"""A LoRA adapter inside a network (arXiv 2106.09685), and at rest as a folder of the peft library's form.

The layers are peft's: where one stands, W x becomes W x + alpha / rank * B A x, with W frozen. The folder holds data
only, and is read as strictly as the weights beside it: whatever it asks for beyond `AdapterConfig` is refused.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.config import AdapterConfig
from tasks.gdsd.denoiser.networks import Network
from tasks.gdsd.errors import CheckpointError, ConfigError

FOLDER, CONFIG, WEIGHTS = "adapter", "adapter_config.json", "adapter_model.safetensors"
BASE = ".."  # where the base lies, seen from the adapter's folder


def inject(network: Network, config: AdapterConfig) -> None:
    """Freezes a network and puts an adapter into it, whose weights are yet to be drawn or loaded."""
    inject_adapter_in_model(_peft_config(config), network)
    for parameter in parameters(network).values():
        # Half precision would round small updates away; peft computes in the adapter's precision and rounds after it.
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def draw(network: Network, seed: int) -> None:
    """Draws A uniformly as peft does, but by address, and sets B to zero, so that the adapter adds nothing yet."""
    with torch.no_grad():
        for name, parameter in parameters(network).items():
            if name.endswith(".lora_A.weight"):
                bound = parameter.shape[1] ** -0.5
                values = torch.empty(parameter.shape)
                values.uniform_(-bound, bound, generator=seeds.generator(seed, "adapter", name))
                parameter.copy_(values)
            else:
                parameter.zero_()


def parameters(network: Network) -> dict[str, torch.nn.Parameter]:
    """Returns the adapter's parameters under the names that they have in the peft library's files."""
    return {
        f"base_model.model.{name.replace('.default.', '.')}": parameter
        for name, parameter in network.named_parameters()
        if ".lora_" in name
    }


def base_weights(network: Network) -> dict[str, Tensor]:
    """Returns the weights without the adapter, under the names that they have in a network without one."""
    weights = network.state_dict()
    return {name.replace(".base_layer.", "."): weights[name] for name in weights if ".lora_" not in name}


@contextmanager
def switched_off(network: Network) -> Iterator[None]:
    """Takes the adapter out of the computation; leaving restores what was found, also after an error or nested."""
    layers = [module for module in network.modules() if isinstance(module, LoraLayer) and not module.disable_adapters]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def save(network: Network, config: AdapterConfig, folder: Path) -> None:
    """Writes the adapter so that peft itself can load it onto the base; equal adapters give equal bytes."""
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(_at_rest(config), indent=2, sort_keys=True) + "\n")
    tensors = {name: parameter.detach().contiguous() for name, parameter in parameters(network).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load(network: Network, folder: Path) -> AdapterConfig:
    """Freezes a network and puts the adapter of a folder into it.

    Raises:
        CheckpointError: a file is missing or damaged, asks for what is not supported, or does not fit the network.
    """
    config = _read_config(folder / CONFIG)
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    inject(network, config)
    places = parameters(network)
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    expected = {name: (place.shape, place.dtype) for name, place in places.items()}
    if found != expected:
        wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise CheckpointError(f"{path} does not fit {CONFIG} and the base: {len(wrong)} tensors, first {wrong[:3]}")
    with torch.no_grad():
        for name, place in places.items():
            place.copy_(tensors[name])
    return config


def _peft_config(config: AdapterConfig) -> LoraConfig:
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # declared whole, but only ever divided by the rank
        target_modules=[*config.targets],
        base_model_name_or_path=BASE,
    )


def _at_rest(config: AdapterConfig) -> dict[str, object]:
    """The content of adapter_config.json; peft holds the targets as a set, whose order differs between processes."""
    return _peft_config(config).to_dict() | {"target_modules": sorted(config.targets)}


def _read_config(path: Path) -> AdapterConfig:
    """Reads adapter_config.json and refuses what it asks for beyond rank, alpha and targets."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("peft_type") != "LORA":
        kind = found.get("peft_type") if isinstance(found, dict) else found
        raise CheckpointError(f"{path} does not describe a LoRA adapter: peft_type is {kind!r}")
    if found.get("base_model_name_or_path") != BASE:
        raise CheckpointError(
            f"{path} names another base, {found.get('base_model_name_or_path')!r}: "
            f"an adapter counts on top of the weights beside it, {BASE!r}"
        )
    wanted = {"rank": found.get("r"), "alpha": found.get("lora_alpha"), "targets": found.get("target_modules")}
    try:
        config = AdapterConfig.model_validate_json(json.dumps(wanted))
    except ConfigError as error:
        raise CheckpointError(f"{path} is refused: {error}") from error
    known = _at_rest(config) | {"target_modules": found["target_modules"], "peft_version": found.get("peft_version")}
    # Another version of peft may write further switches; those that are off change nothing.
    surplus = {key: value for key, value in found.items() if value != known.get(key) and (value or key in known)}
    if surplus:
        raise CheckpointError(f"{path} asks for what is not supported: {surplus}")
    return config
