"""The policy that a run begins with: a pinned model, or an earlier run's policy, whose adapter goes on or is merged.

Of an earlier run's folder only the policy is read: neither its optimizer nor its rounds.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import torch

from tasks.gdsd.config.model_source import (
    ADAPTER,
    ADAPTER_CONFIG,
    BASE,
    HubModel,
    ModelFolder,
    base_of,
    is_adapter,
    resolve,
)
from tasks.gdsd.config.policy import PolicyConfig
from tasks.gdsd.denoiser import lora
from tasks.gdsd.denoiser.checkpoint_record import RECORD, read_base, read_record, require_whole
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder, load_outline, load_source
from tasks.gdsd.errors import ConfigError


class Start(NamedTuple):
    """A policy before its first round."""

    denoiser: Denoiser
    parent: str | None  # pin of the policy whose adapter goes on; None where no stored adapter does


class _Held(NamedTuple):
    """What a pinned folder holds."""

    folder: Path
    model: HubModel | ModelFolder  # that has config.json: the one that is named as a base, or the folder itself
    adapter: Path | None
    bits: Literal[4] | None  # in which the adapter's base was read

    @property
    def base(self) -> HubModel | ModelFolder | None:
        """The pinned model under the adapter; None where its weights lie in the folder."""
        return None if (self.folder / "config.json").is_file() else self.model


def outline(config: PolicyConfig) -> Denoiser:
    """Returns the configured model without weights, which are not downloaded: it phrases prompts, and computes nothing.

    Raises:
        CheckpointError: see `load`.
        ConfigError: see `load`.
    """
    assert config.model is not None  # the configuration sees to it
    return _find(config.model, config, whole=False)[1]


def load(config: PolicyConfig, device: torch.device) -> Start:
    """Loads the configured model, with the stored adapter if that goes on, or a fresh one if one is wanted.

    Raises:
        CheckpointError: it is not to be had, is not the pinned one, is damaged, or is of no supported kind.
        ConfigError: what becomes of a stored adapter is not said, or cannot be; or the base is wanted in 4 bits, and
            what that needs is not installed.
    """
    assert config.model is not None  # the configuration sees to it
    found, _ = _find(config.model, config, whole=True)
    if (found.folder / RECORD).is_file():
        require_whole(found.folder, moments=False)
    bits = None if config.adapter is None else config.adapter.base_bits
    if found.adapter is None:
        denoiser = load_source(found.model, device, bits=bits)
    else:
        # Where all weights are trained, they are float32: nothing of a merged adapter is rounded away.
        dtype = torch.float32 if config.adapter is None else None
        if found.base is None:
            denoiser = load_folder(found.folder, read_record(found.folder).family, device, dtype)
        else:
            denoiser = load_source(found.base, device, dtype, bits)
            denoiser.load_adapter(found.adapter)
        if config.stored_adapter == "continue":
            return Start(denoiser, _pin(config.model))
        denoiser.merge_adapter()
    if config.adapter is not None:
        denoiser.attach_adapter(config.adapter, config.seed)
    return Start(denoiser, None)


def _find(source: HubModel | ModelFolder, config: PolicyConfig, whole: bool) -> tuple[_Held, Denoiser]:
    """Returns what is there, and the model without weights, if what is asked of the two can be."""
    found, then = _look(source, whole), config.stored_adapter
    denoiser = load_outline(found.model)
    if found.adapter is None and then is not None:
        raise ConfigError(f"policy.stored_adapter is {then!r}, but {found.folder} has no adapter; leave it out")
    if found.adapter is not None and then is None:
        raise ConfigError(
            f"{found.folder} has an adapter; set policy.stored_adapter to 'continue' to train it further, or to "
            "'merge' to make it part of the weights"
        )
    if then == "merge" and found.bits is not None:
        raise ConfigError(
            f"policy.stored_adapter 'merge': the adapter in {found.folder} was trained on a base of {found.bits} bits, "
            "which has no room for it; use 'continue'"
        )
    if then == "continue":
        assert found.adapter is not None and config.adapter is not None  # seen above, and by the configuration
        stored = lora.read_config(found.adapter, denoiser.family, found.base)
        # An adapter by itself does not say in how many bits its base was read.
        bits = config.adapter.base_bits if found.adapter == found.folder else found.bits
        if apart := lora.differences(stored.model_copy(update={"base_bits": bits}), config.adapter):
            raise ConfigError(
                f"policy.stored_adapter 'continue': the adapter in {found.folder} is another than policy.adapter: "
                f"{apart}. Make them equal, or use 'merge' to train a fresh one"
            )
    return found, denoiser


def _look(source: HubModel | ModelFolder, whole: bool) -> _Held:
    """Returns what a pinned folder holds.

    Args:
        whole: whether weights have to be downloaded as well.

    Raises:
        CheckpointError: it is not to be had, is not the pinned one, or is damaged.
    """
    folder = resolve(source, whole)
    if is_adapter(folder):
        return _Held(folder, base_of(folder), folder, None)
    adapter = folder / ADAPTER
    base = read_base(folder / BASE) if (folder / BASE).exists() else None
    return _Held(
        folder,
        source if base is None else base.source,
        adapter if (adapter / ADAPTER_CONFIG).is_file() else None,
        None if base is None else base.bits,
    )


def _pin(source: HubModel | ModelFolder) -> str:
    return source.revision if isinstance(source, HubModel) else source.sha256
