"""What a look costs as it is, as a CUDA graph, and compiled: of a small model, launches are the most."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tasks.gdsd.config.policy import TinyModelConfig
from tasks.gdsd.denoiser import partial, tiny
from tasks.gdsd.denoiser.denoiser import Denoiser
from tests.gpu.models import few_layers, freed, random_denoiser, timed
from tests.gpu.results import Row, Value
from tests.gpu.scale import Scale

LARGEST = 1e-2  # difference of the states, as a share: products are summed in another order
Look = Callable[[], Tensor]


def denoisers(scale: Scale) -> Iterator[tuple[str, int, int, Denoiser]]:
    """Yields names, tokens of a text, tokens of a block, and denoisers."""
    yield "default", 33, 16, tiny.build(TinyModelConfig(), 0).to(scale.device).eval()
    text, block = scale.prompt + scale.sampler.length, scale.sampler.block_length
    for name, values in scale.models.items():
        if name != "Dream-7B":  # of much the same shape as LLaDA-8B
            few = few_layers(values, scale.layers)
            yield f"{name}, {scale.layers} blocks", text, block, random_denoiser(few, scale)


def graphed(look: Look) -> Look:
    """Returns a function that replays the look; its warm-up on a stream of its own is what capturing asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        look()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        states = look()

    def replay() -> Tensor:
        graph.replay()
        return states

    return replay


def row(name: str, denoiser: Denoiser, ids: Tensor, places: Tensor, scale: Scale) -> Row:
    def look() -> Tensor:
        return partial.states_at(denoiser, ids, None, places)

    eager = timed(look, scale).seconds
    found: dict[str, Value] = {"milliseconds": 1e3 * eager}
    torch.compiler.reset()  # or the looks of all rows would share the few compilations of one function
    read = torch.compile(look, dynamic=True, backend=scale.compiler)  # as the engine does, by what torch 2.11 has
    found["times as fast compiled"] = eager / timed(read, scale).seconds
    off = float((read() - look()).float().norm() / look().float().norm())
    found["off"] = f"{off:.1e}"
    if scale.is_gpu:
        try:
            found["times as fast as a graph"] = eager / timed(graphed(look), scale).seconds
        except RuntimeError as error:  # which leaves the other measurements as they are
            found["times as fast as a graph"] = f"cannot be captured: {str(error).splitlines()[0]}"
    return Row(name, found, off <= LARGEST)


@torch.no_grad()
def measure(scale: Scale) -> Iterator[Row]:
    for name, text, block, denoiser in denoisers(scale):
        denoiser.freeze_for_sampling()
        with freed(scale):
            for batch in scale.looked:
                ids = torch.full((batch, text), denoiser.mask_id, device=scale.device)
                places = torch.arange(text - block, text, device=scale.device).expand(batch, -1)
                yield row(f"{name}, {batch} at once", denoiser, ids, places, scale)
