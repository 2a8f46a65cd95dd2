"""How long a round of an experiment takes on 1 to 512 GPUs, by simulation.

python -m tasks.capacity configs/llada_sudoku.yaml --prompts 128
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields, replace

import yaml

from tasks.describe import device_of, read
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import GdsdError
from tasks.gdsd.planning.capacity import Assumptions, capacity, table
from tasks.gdsd.planning.work import DEVICES

GPUS = [2**power for power in range(10)]
OPTIONS = {
    "pod": "seconds until a pod runs",
    "imports": "seconds of a task that are neither a pod's start, nor a load, nor work",
    "again": "bytes a second of files that another process of the machine has read",
    "verdicts": "of the scoring, a second",
    "spread": "standard deviation of the logarithm of a task's work",
    "taken": "pre-emptions of a GPU in an hour",
    "replaced": "seconds until another machine takes the place of one that was taken away",
}


def with_prompts(config: TrainConfig, prompts: int) -> TrainConfig:
    """Returns the experiment with rounds of another number of problems.

    Raises:
        GdsdError: there are not so many.
    """
    values = config.model_dump(mode="json")
    values["rollout"] |= {"prompts_per_round": prompts, "shards": 1}  # their number follows from that of GPUs
    return TrainConfig.model_validate_json(json.dumps(values))


def main(arguments: Sequence[str]) -> int:
    """Prints the capacity plan of a configuration; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.capacity", description="How long a round takes on a number of GPUs, by simulation."
    )
    parser.add_argument("config", help="the experiment, as a YAML or JSON file")
    parser.add_argument("--gpus", type=int, nargs="+", default=GPUS, help="default: 1 to 512")
    parser.add_argument("--prompts", type=int, help="problems of a round; default: as configured")
    parser.add_argument("--device", choices=list(DEVICES), help="default: hardware.distill.kind; else h100")
    for field in fields(Assumptions):
        if field.name in OPTIONS:
            help_text = f"{OPTIONS[field.name]}; default: {field.default:g}"
            parser.add_argument(f"--{field.name}", type=float, default=field.default, help=help_text)
    given = parser.parse_args(arguments)
    values = {name: getattr(given, name) for name in OPTIONS}
    wrong = [f"--{name} {value:g} is negative" for name, value in values.items() if value < 0]
    wrong += [
        f"--{name} 0 would never end; give how many a second" for name in ("again", "verdicts") if not values[name]
    ]
    wrong += [f"--gpus {count} is no number of GPUs; give 1 or more" for count in given.gpus if count < 1]
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    try:
        config, family, shape = read(given.config)
        config = config if given.prompts is None else with_prompts(config, given.prompts)
    except (OSError, yaml.YAMLError, GdsdError) as error:
        print(error, file=sys.stderr)
        return 1
    device = device_of(config, shape, given.device or (None if config.hardware.distill.kind in DEVICES else "h100"))
    assumed = replace(Assumptions(), **values)
    rollout = config.rollout
    print(
        f"{config.name}: rounds of {rollout.prompts_per_round} problems, {rollout.group_size} completions each, on "
        f"{device.name}\n"
    )
    print(table([capacity(config, shape, family, device, gpus, assumed) for gpus in given.gpus]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
