"""What the card reaches: large products by precision, and copies."""

from collections.abc import Iterator

import torch

from tests.gpu.models import product, timed
from tests.gpu.results import Row
from tests.gpu.scale import Scale


def measure(scale: Scale) -> Iterator[Row]:
    for dtype in (torch.bfloat16, torch.float32):
        yield Row(f"product, {str(dtype).removeprefix('torch.')}", {"TFLOP/s": product(scale, dtype) / 1e12})
    source = torch.randint(0, 256, (scale.copied,), device=scale.device, dtype=torch.uint8)
    goal = torch.empty_like(source)
    taken = timed(lambda: goal.copy_(source), scale).seconds
    yield Row("copy, read and written", {"TB/s": 2 * scale.copied / taken / 1e12})
