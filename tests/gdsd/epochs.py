"""A small distillation epoch, for the tests of the update loop."""

import copy
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from tasks.gdsd import tables
from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.distill.batch import collate
from tasks.gdsd.distill.loop import distill
from tasks.gdsd.objectives.base import pair_scores
from tasks.gdsd.records import EpochStats
from tests.gdsd.readings import readings

GROUP, LENGTH = 4, 8
# One prompt of each kind; the last two groups have nothing to compare.
ADVANTAGES: list[list[float | None]] = [
    [1.0, -1 / 3, -1 / 3, -1 / 3],
    [0.5, None, -0.5, 0.0],
    [0.2, 0.3, -0.6, 0.1],
    [0.0, 0.0, 0.0, 0.0],
    [None, None, None, None],
]
PROMPTS = ["1.34341.2143.321=", "12=", "12343412....4321=", "x=", "(1+2)*3="]
SIGNAL = [0, 1, 2]


def rewarded(denoiser: Denoiser, groups: Collection[int] = range(5), factor: float = 1.0) -> pa.Table:
    source = torch.Generator().manual_seed(0)
    completions = torch.randint(3, len(denoiser.tokenizer), (5, GROUP, LENGTH), generator=source).tolist()
    orders = torch.rand(5, GROUP, LENGTH, generator=source).argsort(2).tolist()  # one token per step
    rows = [
        {
            "prompt_id": f"train-{group:06d}",
            "sample": sample,
            "problem": "p",
            "reference": "r",
            "prompt_ids": denoiser.encode(PROMPTS[group]),
            "completion_ids": completions[group][sample],
            "unmasked_at": orders[group][sample],
            "uncertainty": [1.0] * LENGTH,
            "completion": denoiser.decode(completions[group][sample]),
            "ended": denoiser.end_id in completions[group][sample],
            "engine": "exact",
            "reward": advantage,
            "solved": False,
            "advantage": None if advantage is None else factor * advantage,
        }
        for group in groups
        for sample, advantage in enumerate(ADVANTAGES[group])
    ]
    return pa.Table.from_pylist(rows, tables.REWARDED)


def ended(table: pa.Table, end_id: int) -> pa.Table:
    """The same round with an end token in all but every ninth completion, each time one place later."""
    rows = table.to_pylist()
    for index, row in enumerate(rows):
        place = index % (LENGTH + 1)
        if place < LENGTH:
            row["completion_ids"][place] = end_id
            row["ended"] = True
    return pa.Table.from_pylist(rows, table.schema)


OBJECTIVE = GdsdConfig(
    readout="log_prob",
    guidance=0.5,
    reference_weight=0.0,
    baseline="zero",
    mask_pairs=2,
    mask_source="random",
    share_masks=True,
    form="optimum",
    trust_region=None,
)
CONFIG = DistillConfig(
    objective=OBJECTIVE,
    inner_steps=3,
    learning_rate=1e-3,
    warmup_steps=0,
    weight_decay=0.0,
    adam_beta1=0.9,
    adam_beta2=0.99,
    ema_decay=0.0,
    max_grad_norm=10.0,
    max_skipped=3,
)


def configured(objective: dict[str, object] | None = None, **changed: object) -> DistillConfig:
    return CONFIG.model_copy(update={"objective": OBJECTIVE.model_copy(update=objective or {}), **changed})


def computed(config: DistillConfig = CONFIG, **compute: object) -> DistillConfig:
    """The same epoch on another machine, so to speak."""
    return config.model_copy(update={"compute": ComputeConfig.model_validate(compute)})


def run(
    state: PolicyState,
    table: pa.Table,
    config: DistillConfig = CONFIG,
    base: PolicyState | None = None,
    round_index: int = 0,
    evidence: Path = Path("/dev/null/evidence"),  # where nothing can be written
) -> tuple[PolicyState, EpochStats]:
    """One epoch from a copy of the state, because training changes the denoiser that it is given."""
    return distill(
        PolicyState(copy.deepcopy(state.denoiser), state.record, state.optimizer),
        base,
        table,
        config,
        round_index=round_index,
        group_size=GROUP,
        seed=7,
        parent=f"parent of round {round_index + 1}",
        evidence=evidence,
    )


def weights(state: PolicyState) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in state.denoiser.parameters()])


def same(first: PolicyState, second: PolicyState) -> bool:
    """Whether two states are equal bit for bit."""
    assert first.optimizer.keys() == second.optimizer.keys()
    moments = all(torch.equal(first.optimizer[name], second.optimizer[name]) for name in first.optimizer)
    return moments and torch.equal(weights(first), weights(second)) and first.record == second.record


def apart(first: PolicyState, second: PolicyState, start: PolicyState) -> float:
    """Distance between two trained policies, as a share of the way that training went."""
    return float((weights(first) - weights(second)).norm() / (weights(first) - weights(start)).norm())


def mean_scores(state: PolicyState, table: pa.Table, config: DistillConfig) -> Tensor:
    """Scores of the completions that carry a signal, under the masks of the epoch; mean over pairs."""
    assert isinstance(config.objective, GdsdConfig)
    batch = collate(table, state.denoiser, config.objective, group_size=GROUP, round_index=0, seed=7)
    assert batch is not None
    with torch.no_grad():
        read = readings(
            state.denoiser, batch.prompts, batch.attention, batch.completions, batch.views, config.objective.readout
        )
    lengths = batch.views.counted.sum(1)
    return pair_scores(read, batch.views.hidden, lengths, config.objective.weights).mean(0)
