"""Records of a run, its samples and its page, by hand."""

import re

import pyarrow as pa

from tasks.gdsd import report, tables
from tasks.gdsd.config.prompts import PromptConfig, PromptFile
from tasks.gdsd.config.sampler import SamplerConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.custom import CustomConfig
from tasks.gdsd.evaluate import intervals
from tasks.gdsd.records import (
    Decision,
    EpochStats,
    Estimate,
    EvalReport,
    GuardReport,
    PassAt,
    PolicyStats,
    PromptStats,
    RewardStats,
    StepStats,
)
from tasks.gdsd.run.provenance import Provenance
from tasks.gdsd.run.run_record import RunRecord
from tests.gdsd.series import reward, validation

PARTS = tables.complete(tables.SAMPLES, ["reward_cells", "reward_format"])
HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"
SAMPLER = SamplerConfig(length=16, block_length=16, steps_per_block=8, temperature=0.0)
ORIGIN = Provenance(
    sources_sha256="5" * 64,
    source=None,
    python="3.11.7",
    platform="Linux",
    cpus=2,
    packages={"torch": "2.13.0", "tqdm": "4.70.1"},
    execution=None,
    base_sha256="b" * 64,
    policy_sha256="c" * 64,
    policy_pin="d" * 64,
    command="pyflyte run workflows/gdsd.py train --config config.yaml",
)


def rendered(run: RunRecord, samples: pa.Table, origin: Provenance = ORIGIN) -> str:
    return report.render(run, samples, origin)


def evaluated(round_index: int, solved: int, size: int = 10) -> EvalReport:
    plain = validation(round_index, 0.0)
    return plain.model_copy(
        update={
            "protocol": plain.protocol.model_copy(update={"sampler": SAMPLER, "problems": size}),
            "solved": intervals.wilson(solved, size, 0.95),
            "reward": Estimate(mean=0.5, low=0.4, high=0.6),
            "parts": {"cells": 0.125 * round_index, "format": None},
            "judged": 0.875,
            "empty": 0.0625,
            "truncated": 0.375,
            "tokens": 160,
        }
    )


def step(loss: float | None, skipped: bool = False) -> StepStats:
    return StepStats(
        loss=loss,
        residual_abs=loss,
        shift_abs=0.01,
        clipped=0.05,
        kl_ref=None,
        grad_norm=None if skipped else 0.5,
        learning_rate=1e-3,
        skipped=skipped,
    )


def rewarded(mean: float, began: float = 1001.0) -> RewardStats:
    parts = {"reward_mean": mean, "solved": 0.125, "frac_zero_std": 0.5, "parts": {"cells": mean, "format": None}}
    texts = {"empty": 0.0625, "truncated": 0.1875, "distinct": None, "completions": 8, "tokens": 128}
    times = {"rollout_seconds": 2.0, "rollout_busy_seconds": 1.5, "reward_seconds": 0.5}
    return reward(**parts, **texts, **times, rollout_began_unix_seconds=began, warnings=["late"])


def record(**changed: object) -> RunRecord:
    """Two rounds; in the second, the first update was skipped; validated after the second."""
    values: dict[str, object] = {
        "config": TrainConfig(name="a-run", rounds=2),
        "prompts": PromptStats(
            train=30, validation=7, test=10, near_duplicates=3, unusable=2, checks=12, warnings=["early"], seconds=0.25
        ),
        "policy": PolicyStats(parameters=1000, prompt_tokens_mean=20.5, prompt_tokens_longest=31, seconds=3.0),
        "drifts": [],
        "rewards": [rewarded(0.25), rewarded(0.75, began=1008.0)],
        "epochs": [
            EpochStats(round=1, sequences=8, steps=[step(0.5), step(0.25)], seconds=1.0, ended_unix_seconds=1006.0),
            EpochStats(
                round=2,
                sequences=4,
                steps=[step(None, skipped=True), step(0.125)],
                seconds=2.0,
                ended_unix_seconds=1016.0,
            ),
        ],
        "validations": [evaluated(2, 6)],
        "base": evaluated(0, 3),
        "trained": evaluated(2, 7),
        "decision": Decision(
            promoted=True,
            reason="the gain clears the margin",
            solved_difference=Estimate(mean=0.4, low=0.1, high=0.7),
            reward_difference=Estimate(mean=0.1, low=-0.1, high=0.3),
            pass_at_differences=[],
            confidence=0.95,
            guards=[],
        ),
        "began_unix_seconds": 1000.0,
    }
    return RunRecord.model_validate(values | changed)


def guard(name: str, held: bool) -> GuardReport:
    """A guard on which the trained policy solves 2 problems of 10, the base 9, and whose answers gave a warning."""
    return GuardReport(
        name=name,
        base=evaluated(0, 9).model_copy(update={"warnings": ["sparse"]}),
        trained=evaluated(2, 2).model_copy(update={"warnings": ["sparse"]}),
        difference=Estimate(mean=-0.7, low=-0.9, high=-0.5),
        tolerance=0.02,
        held=held,
    )


def repeatedly(report: EvalReport, share: float) -> EvalReport:
    """The same evaluation with several samples, and pass@4."""
    protocol = report.protocol.model_copy(update={"samples": 8, "pass_at": [1, 4]})
    passed = [PassAt(k=1, share=report.solved), PassAt(k=4, share=Estimate(mean=share, low=0.25, high=0.975))]
    return report.model_copy(update={"protocol": protocol, "pass_at": passed})


def decided(**changed: object) -> Decision:
    return record().decision.model_copy(update=changed)


def answers(completions: list[str], rewards: list[float | None]) -> pa.Table:
    rows = [
        {
            "prompt_id": f"test-{index}",
            "sample": 0,
            "prompt": f"prompt {index}",
            "problem": f"problem {index}",
            "reference": f"reference {index}",
            "prompt_ids": [*f"prompt {index}".encode()],
            "completion": completion,
            "ended": True,
            "steps": 16,
            "completion_ids": [*completion.encode()],
            "tokens": list(completion),
            "unmasked_at": [place // 2 for place in range(len(completion))],
            "reward": reward,
            "solved": None if reward is None else reward == 1.0,
            "reward_cells": reward,
            "reward_format": None,
        }
        for index, (completion, reward) in enumerate(zip(completions, rewards, strict=True))
    ]
    return pa.Table.from_pylist(rows, PARTS)


def pairs() -> pa.Table:
    return report.pair_samples(answers(["left", "wrong"], [0.0, 0.25]), answers(["right", "good"], [0.25, 1.0]))


def hostile() -> tuple[RunRecord, pa.Table]:
    """A run and its samples with `HOSTILE` in every place where data or a configuration can put a text."""
    table = answers([HOSTILE, HOSTILE], [0.0, 1.0])
    names = ("problem", "reference", "prompt_id", "prompt")
    table = pa.Table.from_pylist([row | dict.fromkeys(names, HOSTILE) for row in table.to_pylist()], PARTS)
    file = PromptFile.model_construct(path=HOSTILE, sha256="0" * 64)
    prompts = PromptConfig.model_construct(train_data=file)
    domain = DomainChoice.model_construct(root=CustomConfig.model_construct(path=HOSTILE, folder=None, sha256="0" * 64))
    trained, parts = evaluated(2, 7), {"parts": {HOSTILE: 0.5}, "warnings": [HOSTILE]}
    trained = trained.model_copy(update=parts | {"protocol": trained.protocol.model_copy(update={"domain": domain})})
    guards = [guard("g", False).model_copy(update={"name": HOSTILE, "base": trained})]
    run = record().model_copy(
        update={
            "config": TrainConfig().model_copy(update={"name": HOSTILE, "prompts": prompts}),
            "decision": decided(reason=HOSTILE, guards=guards),
            "prompts": record().prompts.model_copy(update={"warnings": [HOSTILE]}),
            "rewards": [rewarded(0.5).model_copy(update=parts)] * 2,
            "base": evaluated(0, 3).model_copy(update=parts),
            "trained": trained,
        }
    )
    return run, report.pair_samples(table, table)


def cells(page: str, first: str) -> list[str]:
    """The cells of the table row that begins with a text."""
    row = next(row for row in page.split("<tr>") if re.match(rf"<th scope='(row|col)'>{re.escape(first)}</th>", row))
    return re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)[1:]
