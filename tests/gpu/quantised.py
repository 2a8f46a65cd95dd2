"""What a base of 4 bits costs, in rollouts and in an adapter's update, and whether its memory is as planned."""

from collections.abc import Iterator
from importlib.util import find_spec

from tasks.gdsd.config.sampler import ExactConfig
from tasks.gdsd.planning import memory, shapes
from tests.gpu.models import as_planned, product, random_denoiser, sampling, timed
from tests.gpu.results import Row, SkippedError
from tests.gpu.scale import Scale
from tests.gpu.updates import adapter_of, config_of, row


def measure(scale: Scale) -> Iterator[Row]:
    if find_spec("bitsandbytes") is None:
        raise SkippedError("bitsandbytes is not installed")
    model, values = next(iter(scale.models.items()))
    adapter, batch = adapter_of(scale, base_bits=4), scale.batches[0]
    denoiser = random_denoiser(values, scale, in_4_bits=True).requires_grad_(False)
    shape, settings = shapes.shape_of_config(values)[1], denoiser.family.sampler.fill(scale.sampler)
    taken = timed(sampling(denoiser, ExactConfig(), scale.sampler, batch, scale.prompt), scale)
    b = scale.dtype.itemsize
    planned = memory.of_sampling(shape, batch, scale.prompt, settings, b, adapter, None, scale.is_gpu)
    speed = batch * settings.length / taken.seconds
    found = {"tokens/s": speed, "GiB": taken.gib, "planned": planned.total / memory.GIB}
    yield Row(f"{model}, exact, {batch} at once", found, as_planned(taken, planned.total, scale))
    denoiser.attach_adapter(adapter, seed=0)
    yield row(f"{model}, adapter", denoiser, values, config_of(scale), adapter, scale, product(scale, scale.dtype))
