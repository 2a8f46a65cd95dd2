"""Simulates how long a round of an experiment takes on 1 to 512 GPUs.

python -m tasks.capacity configs/llada_sudoku.yaml --prompts 1024
"""

import argparse
import json
import sys
from collections.abc import Sequence

from tasks.describe import device_of, read
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import ConfigError, GdsdError
from tasks.gdsd.planning.capacity import Assumptions, Capacity, capacity
from tasks.gdsd.planning.work import DEVICES

HEAD = (
    "| GPUs | shards | GPUs of updates | seconds a round | 95 % below | rollouts | updates | work | overhead | "
    "stragglers | lost | GPU-hours of 100 rounds |"
)


def with_prompts(config: TrainConfig, prompts: int) -> TrainConfig:
    """Returns the experiment with rounds of another number of problems, which it refuses where there are too few."""
    values = config.model_dump(mode="json")
    values["rollout"] |= {"prompts_per_round": prompts, "shards": 1}  # their number follows from that of GPUs
    values |= {"rounds_per_task": 1, "keep_rollouts": []}  # what is simulated
    return TrainConfig.model_validate_json(json.dumps(values))


def row(found: Capacity) -> str:
    """Returns a row of the table, in Markdown."""
    counts = (str(number) for number in (found.gpus, found.shards, found.processes))
    times = (found.seconds, found.slow, found.stages["rollout"], found.stages["update"])
    parts = (part / found.seconds for part in (found.work, found.overhead, found.stragglers, found.lost))
    shares = (f"{round(share, 2) + 0.0:.0%}" for share in parts)  # without the sign of a negative zero
    return f"| {' | '.join([*counts, *(f'{time:.0f}' for time in times), *shares, f'{found.held / 36:.1f}'])} |"


def draw(rounds: Sequence[Capacity], path: str) -> None:
    """Draws the seconds of a round against GPUs, and what they are made of."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    gpus = [found.gpus for found in rounds]
    left.plot(gpus, [found.seconds for found in rounds], "o-", ms=3, label="a round")
    for stage in ("rollout", "update"):
        left.plot(gpus, [found.stages[stage] for found in rounds], ":", label=f"its {stage}s")
    left.set(yscale="log", ylabel="seconds")
    parts = ("work", "overhead", "stragglers", "lost")
    right.stackplot(gpus, [[vars(found)[part] / found.seconds for found in rounds] for part in parts], labels=parts)
    right.set(ylabel="share of a round", ylim=(0, 1))
    for axes in (left, right):
        axes.set(xscale="log", xlabel="GPUs", xticks=gpus, xticklabels=gpus)
        axes.minorticks_off()
        axes.legend(loc="lower left")
    with matplotlib.rc_context({"svg.hashsalt": "gdsd"}):  # the same numbers give the same bytes
        figure.savefig(path, metadata={"Date": None})


def main(arguments: Sequence[str]) -> int:
    """Prints the capacity plan of a configuration; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.capacity", description="How long a round takes on GPUs.")
    parser.add_argument("config", help="the experiment, as a YAML or JSON file")
    parser.add_argument("--gpus", type=int, nargs="+", default=[2**power for power in range(10)], help="1 to 512")
    parser.add_argument("--prompts", type=int, help="problems of a round; default: as configured")
    parser.add_argument("--device", choices=list(DEVICES), help="default: hardware.distill.kind; else h100")
    parser.add_argument("--pod", type=float, default=Assumptions.pod, help="seconds until a pod runs")
    parser.add_argument("--imports", type=float, default=Assumptions.imports, help="seconds beside loads and work")
    parser.add_argument("--taken", type=float, default=Assumptions.taken, help="pre-emptions of a GPU in an hour")
    parser.add_argument("--figure", help="a file to draw it into, such as capacity.svg")
    given = parser.parse_args(arguments)
    if min(given.pod, given.imports, given.taken) < 0 or min(given.gpus) < 1:
        parser.error("seconds and pre-emptions are at least 0, GPUs at least 1")
    try:
        config, family, shape = read(given.config)
        if isinstance(config, CompareConfig):
            raise ConfigError(
                f"{given.config} is a comparison, whose runs are independent of each other; name the configuration of "
                "one run, or see `python -m tasks.describe` for what all of them need"
            )
        config = config if given.prompts is None else with_prompts(config, given.prompts)
    except (OSError, GdsdError) as error:
        print(error, file=sys.stderr)
        return 1
    device = device_of(config, shape, given.device or (None if config.hardware.distill.kind in DEVICES else "h100"))
    assumed = Assumptions(given.pod, given.imports, given.taken)
    rollout = config.rollout
    print(
        f"{config.name}: rounds of {rollout.prompts_per_round} problems, {rollout.group_size} completions each, on "
        f"{device.name}\n\n{HEAD}\n{'|---' * HEAD.count(' | ')}|---|"
    )
    found = [capacity(config, shape, family, device, gpus, assumed) for gpus in given.gpus]
    print("\n".join(map(row, found)))
    if given.figure:
        draw(found, given.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
