"""Whether the default run's first rounds have the same rewards on the device and on the CPU."""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import torch

from tasks.gdsd import library, tables
from tasks.gdsd.config import loading
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.prompts.problems import make_prompts
from tests.gpu.results import Row
from tests.gpu.scale import Scale
from tests.gpu.tokens import equal

CONFIG = Path(__file__).resolve().parents[2] / "configs/tiny_sudoku.yaml"
TOGETHER = 5  # rounds of a row
LARGEST = 0.05  # difference of mean rewards; a round's own spread is about 0.02


@dataclass
class Run:
    """A run on one device so far."""

    policy: PolicyState
    base: PolicyState
    rewards: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def on(cls, device: str, start: PolicyState) -> "Run":
        policy, base = copy.deepcopy(start), copy.deepcopy(start)
        for state in (policy, base):
            state.denoiser.to(device)
        return cls(policy, base)

    def go_on(self, config: TrainConfig, train: Sequence[library.Prompt]) -> list[list[int]]:
        """Takes a round, and returns its completions."""
        began = time.perf_counter()
        rollout, seed = config.rollout, config.seed
        asked = library.pick(self.policy, train, rollout.prompts_per_round, seed)
        made = library.sample(
            self.policy,
            asked,
            rollout.sampler,
            group_size=rollout.group_size,
            batch_size=rollout.batch_size,
            seed=seed,
        )
        rewards = [judgement.reward for judgement in library.judge(config.prompts.domain, made)]
        library.update(self.policy, made, rewards, config.distill, base=self.base, seed=seed)
        self.rewards.append(fmean(reward for reward in rewards if reward is not None))
        self.seconds.append(time.perf_counter() - began)
        return [one.completion_ids for one in made]


def measure(scale: Scale) -> Iterator[Row]:
    config = loading.load(TrainConfig, CONFIG, scale.changed)
    # The library's own `problems` also checks them, for which it needs more packages.
    columns = tables.PROMPTS.names
    train = [library.Prompt(**row) for row in make_prompts(config.prompts)["train"].select(columns).to_pylist()]
    start = library.start(config.policy, train, config.rollout.sampler.length)
    here, there = Run.on(scale.kind, start), Run.on("cpu", start)
    first = equal(here.go_on(config, train), there.go_on(config, train))
    yield Row("round 1", {"equal tokens": f"{first:.2%}"}, first >= 0.98)
    while len(here.rewards) < scale.rounds:
        here.go_on(config, train)
        there.go_on(config, train)
        if (done := len(here.rewards)) % TOGETHER == 0 or done == scale.rounds:
            rewards = [fmean(run.rewards[-TOGETHER:]) for run in (here, there)]
            seconds = [fmean(run.seconds[-TOGETHER:]) for run in (here, there)]
            values = dict(zip(("reward", "reward on the CPU"), rewards, strict=True))
            values |= dict(zip(("seconds a round", "on the CPU"), seconds, strict=True))
            yield Row(f"rounds to {done}", values, abs(rewards[0] - rewards[1]) <= LARGEST)
    assert torch.isfinite(torch.tensor(here.rewards)).all()
