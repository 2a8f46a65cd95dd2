"""How well each objective's updates fit the sampler, exactly, on random problems that can be enumerated.

python -m pytest -m slow -s tests/bench/test_mismatch.py

Per problem of 27 completions, a third of them solved: `cosine` of the first step with the gradient of the reward;
`tilt`, the correlation of the change of log pi with the advantage, 1 for the self-teacher's exp(psi A); the reward
after 100 on-policy steps of length 0.05; the highest and the last reward of 100 rounds of 3 steps of Adam, each round
with its own old policy. Yardsticks that are no objectives: the gradient of the reward itself; the likelihood of the
token that each step kept; of all tokens hidden in the states that the sampler visited, without their complements.
"""

from statistics import fmean

import pytest
import torch
from torch import Tensor

from tasks.gdsd.config.objective import ObjectiveConfig
from tests.bench.harness import show
from tests.gdsd.objectives.directions import (
    OBJECTIVES,
    cosine,
    enumerate_cases,
    expected_gradient,
    first_step,
    kept_tokens,
    tilt,
    visited_states,
)
from tests.gdsd.objectives.enumerable import (
    any_order,
    ascent,
    consistent_table,
    elbo,
    random_table,
    sampler,
    solutions,
    solved_share,
)

TABLES = {"random": random_table, "perfect": lambda seed: consistent_table(seed)[0]}
FIRST_STEPS, PATHS, EPOCHS = range(30), range(6), range(3)  # problems per column
YARDSTICKS = {"reward": ascent, "kept tokens": kept_tokens, "visited states": visited_states}


def step(name: str, table: Tensor, solved: Tensor) -> Tensor:
    return YARDSTICKS[name](table, solved) if name in YARDSTICKS else first_step(OBJECTIVES[name], table, solved)


def after_path(name: str, table: Tensor, solved: Tensor) -> float:
    for _ in range(100):
        direction = step(name, table, solved)
        table = table + 0.05 * direction / direction.norm()
    return float(solved_share(table, solved))


def after_rounds(config: ObjectiveConfig, table: Tensor, solved: Tensor) -> tuple[float, float]:
    """The highest and the last reward."""
    policy = torch.nn.Parameter(table.clone())
    optimizer = torch.optim.Adam([policy], 0.03, (0.95, 0.99))
    rewards = []
    for _ in range(100):
        old = policy.detach().clone()
        cases = enumerate_cases(config, old, solved)
        for _ in range(3):
            policy.grad = expected_gradient(config, policy, old, cases)
            optimizer.step()
        rewards.append(float(solved_share(policy.detach(), solved)))
    return max(rewards), rewards[-1]


def mismatch(kind: str) -> dict[str, float]:
    """Means over problems of what separates the sampler from scores."""
    found: dict[str, list[float]] = {}
    for seed in FIRST_STEPS:
        table = TABLES[kind](seed)
        pi, bound, orders = sampler(table).sum(1), elbo(table), any_order(table).mean(1)
        normalised = bound.softmax(0)
        values = {
            "start": solved_share(table, solutions(seed)),
            "sum of exp(ELBO)": bound.exp().sum(),
            "total variation to exp(ELBO)": (pi - normalised).abs().sum() / 2,
            "KL to exp(ELBO)": (pi * (pi / normalised).log()).sum(),
            "total variation to any order": (pi - orders).abs().sum() / 2,
        }
        for name, value in values.items():
            found.setdefault(name, []).append(float(value))
    return {name: round(fmean(values), 3) for name, values in found.items()}


def measure(kind: str, name: str) -> dict[str, float]:
    problems = [(TABLES[kind](seed), solutions(seed)) for seed in FIRST_STEPS]
    steps = [step(name, table, solved) for table, solved in problems]
    cosines = [cosine(found, ascent(*problem)) for found, problem in zip(steps, problems, strict=True)]
    tilts = [tilt(problem[0], found, problem[1]) for found, problem in zip(steps, problems, strict=True)]
    row = {
        "cosine": fmean(cosines),
        "lowest cosine": min(cosines),
        "tilt": fmean(tilts),
        "lowest tilt": min(tilts),
        "after a path": fmean([after_path(name, *problems[seed]) for seed in PATHS]),
    }
    if name in OBJECTIVES:
        rounds = [after_rounds(OBJECTIVES[name], *problems[seed]) for seed in EPOCHS]
        row |= {
            "best of rounds": fmean(best for best, _ in rounds),
            "last of rounds": fmean(end for _, end in rounds),
        }
    return {column: round(value, 3) for column, value in row.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TABLES)
def test_how_well_updates_fit_the_sampler(kind: str) -> None:
    """The numbers of docs/results.md on the mismatch between training and inference."""
    torch.set_num_threads(1)
    rows = {name: measure(kind, name) for name in (*YARDSTICKS, *OBJECTIVES)}
    show(f"{kind} denoiser", {"mismatch": mismatch(kind)})
    show(f"{kind} denoiser, by objective", rows)
    assert all(row["cosine"] > 0.999 for name, row in rows.items() if name == "reward")
    assert max(rows[name]["tilt"] for name in ("wd1", "diffu_grpo")) < min(
        rows[name]["tilt"] for name in OBJECTIVES if name not in ("wd1", "diffu_grpo")
    )
