"""What an experiment needs, printed before anything is spent.

python -m tasks.describe configs/llada_gsm8k.yaml --device h100
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from tasks.gdsd.config import TrainConfig
from tasks.gdsd.errors import GdsdError
from tasks.gdsd.plan import DEVICES, Device, Plan, plan, shape_of, table


def measure_cpu() -> Device:
    """Times a product of two matrices on this machine's CPU; its memory is what the machine has."""
    import numpy as np

    size = 1024
    left = np.ones((size, size), np.float32)
    left @ left
    began = time.perf_counter()
    repeats = 4
    for _ in range(repeats):
        left @ left
    peak = repeats * 2 * size**3 / (time.perf_counter() - began)
    (line,) = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")]
    return Device("this machine's CPU", int(line.split()[1]) / 2**20, peak, peak, is_gpu=False)


def describe(found: Plan, device: Device, name: str) -> str:
    """Returns the text: memory by stage, time by stage, and the whole run."""
    lines = [
        f"{name}: {found.family}, {found.parameters:,} parameters, of which {found.trained:,} are trained",
        f"prompts of {found.prompt_tokens} tokens, {found.completions} completions a round, {found.micro_batch} "
        "of them per forward pass of training",
        "",
        f"{'GiB on each device':22}{'rollout':>10}{'distill':>10}",
    ]
    lines += [
        f"{kind:22}" + "".join(f"{value:10.2f}" for value in values)
        for kind, values in table({"rollout": found.rollout, "distill": found.distill})
    ]
    rollout, distill = found.rollout_seconds(device), found.distill_seconds(device)
    room = f"fits {device.name}'s" if found.peak <= device.gib * 2**30 else f"exceeds {device.name}'s"
    lines += [
        f"{room} {device.gib:.0f} GiB",
        "",
        f"{'seconds of one device':22}{rollout:10.3g}{distill:10.3g}   a round, at {device.reached:.0%} of its peak",
        f"{'PFLOP':22}{found.rollout_work.total / 1e15:10.3g}{found.distill_work.total / 1e15:10.3g}",
        f"{'hours of one device':22}{found.hours(device):10.3g}   the run: {found.rounds} rounds, and "
        f"{found.evaluation_seconds(device) / 3600:.3g} for its evaluations",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Prints the plan of a configuration; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.describe", description="What an experiment needs: memory per device, time and hours."
    )
    parser.add_argument("config", help="the experiment, as a YAML or JSON file")
    parser.add_argument("--device", choices=[*DEVICES, "cpu"], help="default: h100, or the CPU for a tiny model")
    parser.add_argument("--prompt-tokens", type=int, help="tokens of a prompt; default: estimated from the domain")
    given = parser.parse_args(arguments)
    try:
        config = TrainConfig.model_validate_json(json.dumps(yaml.safe_load(Path(given.config).read_text())))
        family, shape = shape_of(config.policy)
    except (OSError, yaml.YAMLError, GdsdError) as error:
        print(error, file=sys.stderr)
        return 1
    chosen = given.device or ("cpu" if config.policy.model is None else "h100")
    device = measure_cpu() if chosen == "cpu" else DEVICES[chosen]
    print(describe(plan(config, shape, family, device.is_gpu, given.prompt_tokens), device, config.name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
