"""How the exact engine's time grows with length, batch and vocabulary, against the model's own operations.

make bench            or            python -m pytest -m slow -s tests/bench/test_engine_growth.py

One block is unmasked per point, float32, on all cores; operations are counted by torch. The figure is
docs/engine_growth.svg.
"""

import statistics
from dataclasses import replace

import matplotlib
import pytest
import torch

from tests.bench.harness import ROOT, in_turns, show
from tests.bench.test_engines import Bench, Size, counter

matplotlib.use("svg")
FIGURE = ROOT / "docs" / "engine_growth.svg"
# Half the layers of the other benchmarks, so that what is not the body's would show.
SIZE = Size(vocabulary=8192, layers=4, prompt=64, length=128, steps=4, batch=4)
AXES = {
    "length": [128, 256, 512, 1024],
    "batch": [1, 4, 16, 64],
    "vocabulary": [1024, 8192, 32_768, 131_072],
}
TURNS = 2


def point(size: Size) -> tuple[float, float]:
    """Returns (seconds of a block, its operations in GFLOP)."""
    bench = Bench(size, 1.0)
    work = bench.engine_block("exact")
    with counter() as counted:
        work()
    (times,) = in_turns({"block": work}, TURNS, warm_up=False).values()
    return statistics.median(times), counted.get_total_flops() / 1e9


def draw_figure(found: dict[str, dict[int, tuple[float, float]]]) -> None:
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "engine growth"
    figure, panels = pyplot.subplots(1, len(found), figsize=(9, 2.8), layout="constrained")
    for panel, (axis, points) in zip(panels, found.items(), strict=True):
        values = list(points)
        seconds, operations = zip(*points.values(), strict=True)
        panel.loglog(values, [time / seconds[0] for time in seconds], "o-", label="time")
        panel.loglog(values, [each / operations[0] for each in operations], "s--", label="operations")
        panel.set_xlabel(axis)
        panel.set_xticks(values, [f"{value:,}" for value in values], minor=False)
        panel.minorticks_off()
    panels[0].set_ylabel("relative to the smallest")
    panels[0].legend(frameon=False)
    figure.savefig(FIGURE, metadata={"Date": None})
    pyplot.close(figure)


@pytest.mark.slow
def test_time_grows_no_faster_than_the_operations() -> None:
    """If it fails, something grows with the canvas or the vocabulary that is not the model.

    Along the last three points of each axis the cost of one more may grow by a third more in time than in operations,
    which is what caches cost here. That time starts from something else than operations do is no growth: the draw takes
    about ten passes over the logits, at this width as long as the head.
    """
    found = {axis: {value: point(replace(SIZE, **{axis: value})) for value in AXES[axis]} for axis in AXES}
    rows = {
        f"{axis} {value:,}": {"seconds a block": seconds, "GFLOP": gigaflop, "GFLOP/s": gigaflop / seconds}
        for axis, points in found.items()
        for value, (seconds, gigaflop) in points.items()
    }
    show(f"{SIZE}, float32, {torch.get_num_threads()} threads", rows)
    draw_figure(found)
    for axis, points in found.items():
        values = list(points)[-3:]
        of_time, of_operations = ([points[value][kind] for value in values] for kind in (0, 1))
        assert bend(values, of_time) <= 4 / 3 * bend(values, of_operations), axis


def bend(values: list[int], costs: list[float]) -> float:
    """Returns by how much the cost of one more grows from one interval to the next: 1 on a straight line."""
    slopes = [(costs[place + 1] - costs[place]) / (values[place + 1] - values[place]) for place in (0, 1)]
    return slopes[1] / slopes[0]
