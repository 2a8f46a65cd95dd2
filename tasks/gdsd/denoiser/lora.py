"""A LoRA adapter inside a network (arXiv 2106.09685), and at rest as a folder of the peft library's form.

The layers are peft's. Where one stands, W x becomes W x + alpha / rank * B A x, with W frozen. `exact_sum` says how
that is rounded. The folder has the names of the class that the base's authors publish, so that peft can put it onto
that. It holds data only, and is read as strictly as the weights beside it: whatever it asks for beyond `AdapterConfig`
is refused. peft is imported where it is used. That takes seconds, which a policy without an adapter does not need.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.gdsd import seeds
from tasks.gdsd.config.model_source import ADAPTER_CONFIG, ADAPTER_WEIGHTS, HubModel, ModelFolder
from tasks.gdsd.config.policy import AdapterConfig, AdapterTarget
from tasks.gdsd.denoiser.families.base import Family
from tasks.gdsd.denoiser.networks import Network
from tasks.gdsd.errors import CheckpointError, ConfigError

BESIDE = ".."  # where the base lies, seen from the adapter's folder, if no pinned model stands for it


def inject(network: Network, config: AdapterConfig) -> None:
    """Freezes a network and puts an adapter into it, whose weights are yet to be drawn or loaded."""
    from peft import LoraConfig, inject_adapter_in_model

    from tasks.gdsd.denoiser.exact_sum import AdaptedLinear

    layers = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # declared whole, but only ever divided by the rank
        target_modules=[*config.targets],
    )
    layers._register_custom_module({torch.nn.Linear: AdaptedLinear})
    inject_adapter_in_model(layers, network)
    for parameter in parameters(network).values():
        # Half precision would round small updates away.
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
    """Returns the adapter's parameters under the names that the peft library gives them on a stock class."""
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
    from peft.tuners.lora import LoraLayer

    layers = [module for module in network.modules() if isinstance(module, LoraLayer)]
    found = [layer for layer in layers if not layer.disable_adapters]
    try:
        for layer in found:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in found:
            layer.enable_adapters(True)


def save(
    network: Network, config: AdapterConfig, folder: Path, family: Family, source: HubModel | ModelFolder | None
) -> None:
    """Writes the adapter so that peft itself can load it onto the base; equal adapters give equal bytes.

    Args:
        source: the pinned model that is the base; None where its weights lie beside the adapter's folder.
    """
    folder.mkdir()
    (folder / ADAPTER_CONFIG).write_text(json.dumps(_at_rest(config, family, source), indent=2, sort_keys=True) + "\n")
    tensors = {name: parameter.detach().contiguous() for name, parameter in _official(network, family).items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def load(network: Network, folder: Path, family: Family, source: HubModel | ModelFolder | None) -> AdapterConfig:
    """Freezes a network and puts the adapter of a folder into it.

    Args:
        source: the pinned model that is the base; None where its weights lie beside the adapter's folder.

    Raises:
        CheckpointError: a file is missing or damaged, asks for what is not supported, or does not fit the network.
    """
    config = read_config(folder, family, source)
    inject(network, config)
    with torch.no_grad():
        for place, tensor in _read(network, folder, family).items():
            place.copy_(tensor)
    return config


def refer_to(
    network: Network, config: AdapterConfig, folder: Path, family: Family, source: HubModel | ModelFolder | None
) -> None:
    """Lets the adapter of a folder count wherever the network's own is switched off.

    Args:
        config: of the network's own, which the folder's has to be alike.
        source: as for `load`.

    Raises:
        CheckpointError: see `load`, or the two are not alike.
    """
    from tasks.gdsd.denoiser.exact_sum import adapted

    stored = read_config(folder, family, source).model_copy(update={"base_bits": config.base_bits})
    if apart := differences(stored, config):
        raise CheckpointError(f"{folder} is no adapter that the policy can have begun with: {apart}")
    found = _read(network, folder, family)
    for layer in adapted(network).values():
        down, up = layer.factors()
        layer.began = found[down].to(down.device), found[up].to(up.device)


def differences(stored: AdapterConfig, wanted: AdapterConfig) -> str:
    """Says in what two adapters differ, "" where they do not."""
    have, want = (config.model_dump() | {"targets": sorted(config.targets)} for config in (stored, wanted))
    return "; ".join(f"{name} is {have[name]} there and {want[name]} here" for name in have if have[name] != want[name])


def _read(network: Network, folder: Path, family: Family) -> dict[torch.nn.Parameter, Tensor]:
    """Reads an adapter's weights for the places in a network that has one.

    Raises:
        CheckpointError: they cannot be read, or do not fit.
    """
    path = folder / ADAPTER_WEIGHTS
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    places = _official(network, family)
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    expected = {name: (place.shape, place.dtype) for name, place in places.items()}
    if found != expected:
        wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise CheckpointError(
            f"{path} does not fit {ADAPTER_CONFIG} and the base: {len(wrong)} tensors, first {wrong[:3]}"
        )
    return {place: tensors[name] for name, place in places.items()}


def _official(network: Network, family: Family) -> dict[str, torch.nn.Parameter]:
    """Returns the adapter's parameters under the names that the peft library gives them on the official class."""
    prefix, kind = "base_model.model.", ".weight"
    return {
        f"{prefix}{family.official(name.removeprefix(prefix).removesuffix(kind))}{kind}": parameter
        for name, parameter in parameters(network).items()
    }


def _at_rest(config: AdapterConfig, family: Family, source: HubModel | ModelFolder | None) -> dict[str, object]:
    """The content of adapter_config.json.

    There is no task type: peft's wrapper of one demands methods of generation, which not all official classes have.
    """
    from peft import LoraConfig

    targets = sorted(family.official_leaf(target) for target in config.targets)
    # peft finds targets by the end of their path, and LLaDA's head is called as the last map of its blocks.
    excluded = family.outside_blocks(targets) or None
    # Lists, since peft's sets have another order in each process.
    fields = {"r": config.rank, "lora_alpha": config.alpha, "target_modules": targets, "exclude_modules": excluded}
    return LoraConfig().to_dict() | fields | _home(source)


def _home(source: HubModel | ModelFolder | None) -> dict[str, object]:
    """Where peft finds the base."""
    if isinstance(source, HubModel):
        return {"base_model_name_or_path": source.hub, "revision": source.revision}
    return {"base_model_name_or_path": BESIDE if source is None else source.path, "revision": None}


def _spelled(home: dict[str, object]) -> str:
    place, revision = home.values()
    return f"{place!r}" if revision is None else f"{place!r} at {revision!r}"


def read_config(folder: Path, family: Family, source: HubModel | ModelFolder | None) -> AdapterConfig:
    """Reads adapter_config.json and refuses what it asks for beyond rank, alpha and targets.

    Args:
        source: as for `load`.

    Raises:
        CheckpointError: see `load`.
    """
    path = folder / ADAPTER_CONFIG
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    kind = found.get("peft_type") if isinstance(found, dict) else found
    if kind != "LORA" or not isinstance(found, dict):
        raise CheckpointError(f"{path} does not describe a LoRA adapter: peft_type is {kind!r}")
    home = _home(source)
    named = {key: found.get(key) for key in home}
    if isinstance(source, ModelFolder):  # which may have moved; the pin says what is in it
        is_home = PurePath(str(named["base_model_name_or_path"])).name == PurePath(source.path).name
        is_home = is_home and named["revision"] is None
    else:
        is_home = named == home
    if not is_home:
        raise CheckpointError(f"{path} names another base, {_spelled(named)}: here it counts on {_spelled(home)}")
    targets = found.get("target_modules")
    if isinstance(targets, list):
        stock = {family.official_leaf(target): target for target in get_args(AdapterTarget)}
        if unknown := [target for target in targets if not isinstance(target, str) or target not in stock]:
            raise CheckpointError(
                f"{path} is refused: targets {unknown} are no linear maps of the blocks of {family.name}; "
                f"those are {', '.join(stock)}"
            )
        targets = [stock[target] for target in targets]
    wanted = {"rank": found.get("r"), "alpha": found.get("lora_alpha"), "targets": targets}
    try:
        config = AdapterConfig.model_validate_json(json.dumps(wanted))
    except ConfigError as error:
        raise CheckpointError(f"{path} is refused: {error}") from error
    known = _at_rest(config, family, source) | named
    known |= {"target_modules": found["target_modules"], "peft_version": found.get("peft_version")}
    # Another version of peft may write further switches; those that are off change nothing.
    surplus = {key: value for key, value in found.items() if value != known.get(key) and (value or key in known)}
    if surplus:
        raise CheckpointError(f"{path} asks for what is not supported: {surplus}")
    return config
