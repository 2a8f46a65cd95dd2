"""Weights spread over processes: each keeps a part of every block's, and has a block whole only while it computes it.

torch's `fully_shard` (FSDP2) does it for the transformer blocks, with their gradients and the optimizer's moments.
Embeddings, the last norm and the head stay whole everywhere, since token readouts use the head's rows as they are.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill import processes


@contextmanager
def sharded(denoisers: Sequence[Denoiser], accelerator: Accelerator) -> Iterator[None]:
    """Spreads the blocks of denoisers over the processes; in the end every process has the trained weights whole.

    All processes must go through the same passes, forward and backward, since each needs the others' parts for them.
    After an error the denoisers are of no use.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    restores = []
    for denoiser in denoisers:
        body = denoiser.network.model
        restores += [_shard(block, mesh, spare=set()) for block in body.layers]
        # With nothing of its own, it is what lets the blocks fetch one while another computes.
        restores.append(_shard(body, mesh, spare=set(body.parameters())))
    yield
    for restore in restores:
        restore()


def _shard(block: torch.nn.Module, mesh: DeviceMesh, spare: set[torch.nn.Parameter]) -> Callable[[], None]:
    """Spreads a module, and returns what makes it whole again: the same parameters in a module as it was before."""
    places = [
        (module, name, parameter)
        for module in block.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter not in spare
    ]
    kind, attributes = type(block), dict(vars(block))
    hooks = {name: value.copy() for name, value in attributes.items() if name.endswith("_hooks")}
    # accelerate's own wrapper would spread the head as well.
    fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=spare)
    cast(FSDPModule, block).set_gradient_divide_factor(1.0)  # gradients are summed: the loss is a share of the mean
    cast(FSDPModule, block).set_force_sum_reduction_for_comms(True)
    for _, _, parameter in places:
        parameter.data = parameter.data.new_empty(0)

    @torch.no_grad()
    def restore() -> None:
        for module, name, parameter in places:
            whole = gathered(module.get_parameter(name))
            parameter.data = torch.empty_like(whole)
            if parameter.requires_grad:
                parameter.copy_(whole)  # counts as a change of the weights
            else:
                parameter.data = whole
            setattr(module, name, parameter)
        block.__class__ = kind
        for name in set(vars(block)) - set(attributes):
            delattr(block, name)
        vars(block).update(hooks)
        _module_state_mapping.pop(block)  # where torch notes what is spread, so that it can be spread again

    return restore


def gathered(tensor: Tensor) -> Tensor:
    """Returns a tensor whole, in every process."""
    if not isinstance(tensor, DTensor):
        return tensor
    whole: Tensor = tensor.full_tensor()
    return whole.clone() if whole.data_ptr() == tensor.to_local().data_ptr() else whole


def spread_like(
    whole: Tensor,
    parameter: Tensor,
) -> Tensor:
    """Returns a new tensor like a parameter: the part of `whole` that this process has of it, or all of it.

    What has another shape, such as the optimizer's count of steps, is copied where it is.
    """
    if whole.shape != parameter.shape:
        return whole.clone()
    copy = whole.to(parameter.device, parameter.dtype, copy=True)
    if not isinstance(parameter, DTensor):
        return copy
    part: Tensor = distribute_tensor(copy, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return part.clone()  # a part is a view, which would keep the whole


def clip(parameters: Sequence[torch.nn.Parameter], limit: float, accelerator: Accelerator) -> float:
    """Scales gradients down to a norm, of whole and spread ones together; returns the norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    spread = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    if not spread:
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    (squares,) = processes.add_up([_squares(spread)], accelerator)
    norm = math.sqrt(squares + _squares(whole))
    scale = min(1.0, limit / (norm + 1e-6)) if math.isfinite(norm) else 0.0  # such an update is skipped
    for gradient in [*spread, *whole]:
        gradient.mul_(scale)
    return norm


def _squares(tensors: Sequence[Tensor]) -> float:
    return math.fsum(float(tensor.double().square().sum()) for tensor in tensors)
