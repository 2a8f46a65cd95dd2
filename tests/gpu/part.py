"""One part, in this process: `python -m tests.gpu.part NAME OUT [--small]`, as `python -m tests.gpu` starts it."""

import argparse
import importlib
import platform
import sys
import traceback
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from tasks.gdsd.denoiser import devices
from tests.gpu import results
from tests.gpu.parts import PARTS
from tests.gpu.scale import FULL, SMALL, Scale


def machine(scale: Scale) -> dict[str, str]:
    """Returns what the numbers are of."""
    card = devices.name(scale.device)
    if scale.is_gpu:
        memory = torch.cuda.get_device_properties(scale.device).total_memory / 2**30
        card = f"{torch.cuda.device_count()} x {card}, {memory:.1f} GiB"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    return {"card": card, "versions": versions}


def provide_names() -> None:
    """Gives transformers 5.17 the names of 5.23, for which the project is written."""
    for name in ("enable", "disable"):
        if not hasattr(PreTrainedModel, f"activation_checkpointing_{name}"):
            old = getattr(PreTrainedModel, f"gradient_checkpointing_{name}")
            setattr(PreTrainedModel, f"activation_checkpointing_{name}", old)


def run(name: str, out: Path, scale: Scale) -> None:
    """Measures a part, and writes each row as it comes, and how it ended."""
    provide_names()
    devices.device()  # which also sets how products are summed on a GPU
    results.write(out, name, machine=machine(scale))
    try:
        for row in importlib.import_module(f"tests.gpu.{name}").measure(scale):
            results.write(out, name, **vars(row))
        ended, said = "done", ""
    except results.SkippedError as error:
        ended, said = "was skipped", str(error)
    except Exception as error:
        traceback.print_exc()
        ended, said = "failed", " ".join(f"{type(error).__name__}: {error}".split())[:300]
    results.write(out, name, ended=ended, said=said)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.part")
    parser.add_argument("name", choices=PARTS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    run(options.name, options.out, SMALL if options.small else FULL)
    sys.exit()


if __name__ == "__main__":
    main()
