"""An epoch of the default experiment against the bare body: time, and kernels of an update.

make bench            or            python -m pytest -m slow -s tests/bench/test_default_epoch.py

Of made-up completions as many as a round has, and as long. All weights are trained, so the bare body goes forward and
backward by inputs and weights in each of three updates; the epoch also reads the base, and the policy that is an
average. Times are seconds of a processor, with one thread.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.gdsd.config.loading import load
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.denoiser import tiny
from tests.bench.harness import ROOT, apart, in_turns, show
from tests.bench.models import round_of, train

PROMPT, TURNS = 17, 5


class Kernels(TorchDispatchMode):
    """Counts what torch computes. Views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # torch's form
        returns = [one.alias_info for one in func._schema.returns]
        self.count += not any(alias is not None and not alias.is_write for alias in returns)
        return func(*args, **(kwargs or {}))


def works(updates: int | None = None) -> dict[str, Callable[[], None]]:
    config = load(TrainConfig, ROOT / "configs/tiny_sudoku.yaml")
    shape, groups, group = config.policy.tiny, config.rollout.prompts_per_round, config.rollout.group_size
    assert shape is not None
    distill, length = config.distill, config.rollout.sampler.length
    if updates is not None:
        distill = distill.model_copy(update={"inner_steps": updates})
    policy, base = tiny.build(shape, 0), tiny.build(shape, 0).requires_grad_(False)
    rewarded = round_of(policy.encode("1234"), groups, group, PROMPT, length)
    body = tiny.build(shape, 0).network.model
    sequences = torch.full((2 * groups * group, PROMPT + length), 5)  # two states of each path
    at_once = distill.compute.micro_batch_tokens // sequences.shape[1]

    def bare() -> None:
        for ids in [part for _ in range(distill.inner_steps) for part in sequences.split(at_once)]:
            states: Tensor = body(input_ids=ids, use_cache=False).last_hidden_state
            states.backward(torch.ones_like(states))

    return {"epoch": lambda: train(policy, rewarded, distill, group, base), "bare body": bare}


def seconds() -> dict[str, float]:
    torch.set_num_threads(1)
    taken = in_turns(works(), TURNS)
    return {name: min(several) for name, several in taken.items()}


def kernels(updates: int) -> int:
    work = works(updates)["epoch"]
    work()
    with Kernels() as counted:
        work()
    return counted.count


@pytest.mark.slow
def test_an_epoch_of_the_default_experiment_costs_little_more_than_the_body() -> None:
    """If it fails, the default run spends its time on what no update needs."""
    row = apart(seconds)
    row["times the bare body"] = row["epoch"] / row["bare body"]
    row["kernels of an update"] = apart(kernels, 2) - apart(kernels, 1)
    show("the default experiment, float32, one thread", {"default": row})
    assert row["times the bare body"] <= 1.25
    assert row["kernels of an update"] <= 2700
