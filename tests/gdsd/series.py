"""Rows of tables, rounds and validations made up from a few values."""

from collections.abc import Sequence

from tasks.gdsd.config.sampler import SamplerConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.records import EpochStats, Estimate, EvalReport, Progress, Protocol, RewardStats, StepStats

Row = dict[str, object]


def rollout(**values: object) -> Row:
    """A row of `tables.ROLLOUTS`, but for some values."""
    asked: Row = {"prompt_id": "p", "sample": 0, "problem": "p", "reference": "r", "prompt_ids": [1, 2]}
    made: Row = {
        "completion_ids": [3, 4],
        "unmasked_at": [0, 1],
        "uncertainty": [0.5, 0.5],
        "completion": "c",
        "ended": True,
        "engine": "exact",
    }
    return asked | made | values


def answer(**values: object) -> Row:
    """A row of `tables.ANSWERS`, but for some values."""
    asked: Row = {"prompt_id": "p", "sample": 0, "prompt": "p", "problem": "p", "reference": "r", "prompt_ids": [1]}
    made: Row = {"completion": "c", "ended": True, "steps": 4, "completion_ids": [3], "tokens": ["c"]}
    return asked | made | {"unmasked_at": [0]} | values


def reward(**values: object) -> RewardStats:
    """A healthy round's rewards, but for some values."""
    healthy: dict[str, object] = {"reward_mean": 0.5, "reward_std": 0.25, "solved": 0.2, "frac_zero_std": 0.3}
    healthy |= {"judged": 1.0, "empty": 0.0, "truncated": 0.02, "distinct": 0.9, "parts": {}, "warnings": []}
    healthy |= {"completions": 64, "tokens": 2048, "engine": "exact", "rollout_seconds": 1.0, "reward_seconds": 0.25}
    healthy |= {"rollout_busy_seconds": 1.0, "rollout_began_unix_seconds": 0.0}
    return RewardStats.model_validate(healthy | values)


def epoch(number: int, **values: object) -> EpochStats:
    """A healthy round's updates, but for some values of its only one."""
    healthy: dict[str, object] = {"loss": 1.0, "residual_abs": 0.1, "shift_abs": 0.02, "clipped": 0.1, "kl_ref": None}
    healthy |= {"grad_norm": 0.2, "learning_rate": 1e-3, "skipped": False, "nll": 0.5}
    step = StepStats.model_validate(healthy | values)
    return EpochStats(round=number, sequences=64, steps=[step], seconds=0.75, ended_unix_seconds=10.0 * number)


def validation(number: int, solved: float, half: float = 0.04, gained: float = 0.5) -> EvalReport:
    """A validation after a round, with the half width of its interval."""
    protocol = Protocol(
        domain=DomainChoice(SudokuConfig()),
        sampler=SamplerConfig(),
        samples=1,
        pass_at=[1],
        seed=0,
        problems=256,
        prompts_sha256="0" * 64,
    )
    return EvalReport(
        round=number,
        protocol=protocol,
        solved=Estimate(mean=solved, low=solved - half, high=solved + half),
        pass_at=[],
        reward=Estimate(mean=gained, low=gained, high=gained),
        parts={},
        judged=1.0,
        empty=0.0,
        truncated=0.0,
        warnings=[],
        tokens=16,
        seconds=1.0,
    )


def run(
    rewards: Sequence[dict[str, object]],
    steps: Sequence[dict[str, object]] = (),
    validations: Sequence[EvalReport] = (),
) -> Progress:
    """A run with these values in its rounds; its updates are healthy where none are given."""
    updates = list(steps) or [{} for _ in rewards]
    return Progress(
        rewards=[reward(**values) for values in rewards],
        epochs=[epoch(number, **values) for number, values in enumerate(updates, start=1)],
        validations=list(validations),
    )
