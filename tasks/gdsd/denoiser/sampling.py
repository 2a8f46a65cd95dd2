"""A policy that samples for a while and is trained afterwards, without a way through files."""

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.gdsd.denoiser import networks
from tasks.gdsd.denoiser.denoiser import Denoiser


@contextmanager
def sampling(denoiser: Denoiser) -> Iterator[None]:
    """Inside, a policy is what it would be if it were saved, loaded and frozen for sampling; then as it was.

    Both are so bit for bit. Gradients are dropped.

    Raises:
        ValueError: the adapter is switched off.
    """
    trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    denoiser.zero_grad(set_to_none=True)
    with _read_anew(denoiser):
        denoiser.requires_grad_(False)
        denoiser.only_sample(True)
        try:
            yield
        finally:
            denoiser.only_sample(False)
            for parameter in trained:
                parameter.requires_grad_(True)


@contextmanager
def _read_anew(denoiser: Denoiser) -> Iterator[None]:
    """Puts the weights into the precision in which they would be loaded, and an adapter into the maps."""
    if denoiser.has_adapter:
        from tasks.gdsd.denoiser import exact_sum  # only here, since it imports peft

        with exact_sum.settled(denoiser.network):
            yield
        return
    dtype = networks.precision(denoiser.family, denoiser.device)
    kept = {parameter: parameter.data for parameter in denoiser.parameters() if parameter.dtype != dtype}
    for parameter in kept:
        parameter.data = parameter.data.to(dtype)
    try:
        yield
    finally:
        for parameter, data in kept.items():
            parameter.data = data
