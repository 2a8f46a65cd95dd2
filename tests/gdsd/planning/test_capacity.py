"""The simulation of rounds on a cluster, against what can be said without one."""

import re
from math import exp, inf
from pathlib import Path

import pytest

from tasks import capacity as command
from tasks.describe import read
from tasks.gdsd.planning.capacity import Assumptions, Capacity, Stage, capacity, simulate, sized
from tasks.gdsd.planning.plan import plan
from tasks.gdsd.planning.work import DEVICES

ROOT = Path(__file__).resolve().parents[3]
RECIPE, H100 = str(ROOT / "configs/llada_sudoku.yaml"), DEVICES["h100"]
SERIAL = Assumptions(pod=0.0, imports=0.0, taken=0.0, spread=0.0, verdicts=inf)  # nothing but what the plan has


def on(gpus: int, assumed: Assumptions, prompts: int = 16) -> Capacity:
    config, family, shape = read(RECIPE)
    return capacity(command.with_prompts(config, prompts), shape, family, H100, gpus, assumed, draws=8)


def test_one_gpu_takes_the_time_of_the_plan() -> None:
    """If it fails, the two commands that say how long a run takes disagree."""
    config, family, shape = read(RECIPE)
    planned = plan(sized(config, shards=1, processes=1), shape, family)
    serial = planned.rollout_seconds(H100) + planned.drift_seconds(H100) + planned.distill_seconds(H100)
    found = on(1, SERIAL)
    assert found.seconds == found.slow == found.held == pytest.approx(serial + planned.loads.round_seconds)


def test_more_gpus_are_quicker_until_problems_run_out() -> None:
    """If it fails, the plan sends a person to a cluster that is worse than a smaller one."""
    found = [on(2**power, SERIAL, prompts=128) for power in range(9)]
    seconds, last = [each.seconds for each in found], found[-1]
    assert seconds == sorted(seconds, reverse=True) and seconds[-1] == pytest.approx(seconds[-2])
    assert (last.shards, last.processes) == (128, 8)


def test_lost_machines_cost_what_they_must() -> None:
    """If it fails, spot machines look cheaper than they are.

    A task of d seconds whose machine is lost at a rate r, and back after w, takes (1 / r + w) (exp(r d) - 1) on
    average, of which the GPUs are held for (exp(r d) - 1) / r. Here r d is 1: d is 360 s, and of two GPUs 10 an hour
    are taken. Without chance five tasks of 5 s on two GPUs take three turns.
    """
    often = Assumptions(taken=5.0, replaced=30.0, attempts=1000, spread=0.0)
    rounds = simulate([Stage("update", 100.0, (260.0,), spot=True, gpus=2)], 2, often, 4000)
    assert rounds.mean(0)[0] == pytest.approx([390 * (exp(1) - 1), 720 * (exp(1) - 1)], rel=0.05)
    firm = Stage("rollout", 2.0, (3.0,) * 5, spot=False)
    assert simulate([firm], 2, often).tolist() == [[[15.0, 25.0]]]


def test_the_page_has_what_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it fails, docs/capacity.md advises by numbers of another cost model; put in what the commands print now."""
    page = (ROOT / "docs/capacity.md").read_text()
    (options, table), *others = re.findall(r"```\n.*?capacity configs/\S+ (.*?)\n```\n\n(\| GPUs.*?)\n\n", page, re.S)
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)  # where it draws the figure
    assert not others and command.main([RECIPE, *options.split()]) == 0
    assert table in capsys.readouterr().out  # random numbers are fixed
    assert command.main([RECIPE, "--prompts", "100000"]) == 1
    assert "prompts_per_round 100000 exceeds prompts.train_size" in capsys.readouterr().err
