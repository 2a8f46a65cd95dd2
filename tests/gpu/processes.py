"""Whether an epoch on two GPUs, which talk by NCCL, ends as on one."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tasks.gdsd import tables
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.distill.epoch import Epoch, train
from tests.gdsd import epochs
from tests.gdsd.conftest import build
from tests.gpu.results import Row, SkippedError
from tests.gpu.scale import Scale

LARGEST = 1e-5  # difference of a weight, of which an update moves most by 1e-3
WAYS = {"gradients summed": "none", "weights spread (FSDP)": "fsdp"}


def trained(folder: Path, name: str, **compute: object) -> tuple[dict[str, Tensor], float]:
    """Returns the weights after an epoch, and its seconds."""
    epoch = Epoch(
        policy=folder / "policy",
        base=None,
        rewarded=folder / "rewarded.parquet",
        config=epochs.computed(**compute),
        group_size=epochs.GROUP,
        round_index=0,
        seed=0,
        trained=folder / name,
        evidence=folder / "evidence",
    )
    stats = train(epoch)
    return load_file(next(epoch.trained.glob("*.safetensors"))), stats.seconds


def measure(scale: Scale) -> Iterator[Row]:
    if scale.is_gpu and torch.cuda.device_count() < scale.processes:
        raise SkippedError(f"there are fewer than {scale.processes} GPUs")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        denoiser = build()
        checkpoint.save(folder / "policy", checkpoint.base_state(denoiser))
        tables.write(epochs.rewarded(denoiser), tables.REWARDED, folder / "rewarded.parquet")
        alone, seconds = trained(folder, "alone")
        yield Row("one process", {"seconds": seconds})
        for way, sharding in WAYS.items():
            if sharding == "fsdp" and scale.processes == 1:
                continue
            several, seconds = trained(folder, sharding, processes=scale.processes, sharding=sharding)
            off = max(float((several[key] - weight).abs().max()) for key, weight in alone.items())
            yield Row(f"{scale.processes}, {way}", {"seconds": seconds, "off": f"{off:.1e}"}, off <= LARGEST)
