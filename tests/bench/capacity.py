"""Draws docs/capacity.svg: the time of a round of the LLaDA-8B recipe on 1 to 512 GPUs, by simulation.

python -m tests.bench.capacity docs/capacity.svg
"""

import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from tasks.capacity import GPUS, with_prompts
from tasks.describe import read
from tasks.gdsd.planning.capacity import Capacity, capacity
from tasks.gdsd.planning.work import DEVICES

RECIPE = Path(__file__).resolve().parents[2] / "configs/llada_sudoku.yaml"
ROUNDS = {16: "tab:red", 128: "tab:orange", 1024: "tab:blue"}  # problems of a round, the recipe's first
PARTS = {"work": "tab:green", "overhead": "tab:gray", "stragglers": "tab:purple", "lost": "tab:red"}
SHOWN = 1024  # whose parts are shown


def simulated(prompts: int) -> list[Capacity]:
    config, family, shape = read(str(RECIPE))
    return [capacity(with_prompts(config, prompts), shape, family, DEVICES["h100"], gpus) for gpus in GPUS]


def draw(found: dict[int, list[Capacity]]) -> Figure:
    """Seconds of rounds of several sizes, and what those of one size are made of."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for prompts, rounds in found.items():
        colour = ROUNDS[prompts]
        left.plot(GPUS, [each.seconds for each in rounds], "o-", ms=3, color=colour, label=f"{prompts} problems")
        left.plot(GPUS, [each.stages["update"] for each in rounds], ":", color=colour)
    left.plot([], [], ":", color="black", label="of which updates")
    left.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="seconds a round", xticks=GPUS, xticklabels=GPUS)
    left.legend()
    parts = {name: [vars(each)[name] / each.seconds for each in found[SHOWN]] for name in PARTS}
    right.stackplot(GPUS, *parts.values(), colors=list(PARTS.values()), labels=list(PARTS), alpha=0.7)
    right.set(xscale="log", xlabel="GPUs", ylabel=f"share of a round of {SHOWN} problems", ylim=(0, 1), xlim=(1, 512))
    right.set(xticks=GPUS, xticklabels=GPUS)
    right.legend(loc="lower left")
    for axes in (left, right):
        axes.minorticks_off()
    return figure


def main(path: str) -> None:
    matplotlib.use("svg")
    # A fixed salt and no date: the same numbers give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "gdsd"}):
        draw({prompts: simulated(prompts) for prompts in ROUNDS}).savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1])
