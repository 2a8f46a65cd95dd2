"""Stage `publish`: the run's folder with its report, metrics, samples and policy, and the last word to the console."""

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

from flytekit import Deck, task
from flytekit.types.directory import FlyteDirectory
from pydantic import BaseModel

from images import CPU
from tasks.gdsd.config import TrainConfig
from tasks.gdsd.records import (
    Decision,
    DriftStats,
    EpochStats,
    EvalReport,
    PolicyStats,
    PromptStats,
    RewardStats,
)
from tasks.gdsd.run_record import RunRecord
from tasks.local import new_folder
from tasks.types import Checkpoint, Table


class RunResult(BaseModel):
    """What a training run came to; printed at its end."""

    record: RunRecord
    folder: FlyteDirectory

    def __str__(self) -> str:
        return self.record.summary(str(self.folder.path))


class EvalResult(BaseModel):
    """What an evaluation came to, one report and table of samples per length; printed at its end."""

    reports: list[EvalReport]
    folder: FlyteDirectory

    def __str__(self) -> str:
        lines = [""]
        for report in self.reports:
            protocol, reward, sampler = report.protocol, report.reward, report.protocol.sampler
            means = {name: "not judged" if mean is None else f"{mean:.3f}" for name, mean in report.parts.items()}
            lines += [
                f"solved    {report.solved.percent()} of {protocol.problems} {protocol.domain.name} problems "
                f"at length {sampler.length}, temperature {sampler.temperature:g}{protocol.by_engine()}",
                *(f"{f'pass@{found.k}':<9} {found.share.percent()}" for found in report.pass_at if found.k > 1),
                f"reward    {reward.mean:.3f} ({reward.low:.3f} to {reward.high:.3f}): "
                + ", ".join(f"{name} {mean}" for name, mean in means.items()),
                f"answers   {report.judged:.1%} judged, {report.empty:.1%} without text, "
                f"{report.truncated:.1%} ran out of tokens",
                *([f"warnings  {', '.join(report.warnings)}"] if report.warnings else []),
                f"time      {report.seconds:.1f} s",
                f"samples   {self.folder.path}/samples-{sampler.length}.parquet",
            ]
        lines.append(f"protocol  {self.folder.path}/evaluation.json")
        return "\n".join(lines)


@task(
    container_image=CPU.image,
    requests=CPU.requests,
    limits=CPU.limits,
    cache=False,
    retries=2,
    timeout=timedelta(hours=1),
    interruptible=True,
    enable_deck=True,
    deck_fields=(),
)
def publish_policy(
    config: TrainConfig,
    prompts: PromptStats,
    policy: PolicyStats,
    drifts: list[DriftStats],
    rewards: list[RewardStats],
    epochs: list[EpochStats],
    validations: list[EvalReport],
    base_report: EvalReport,
    base_samples: Table,
    trained_report: EvalReport,
    trained_samples: Table,
    decision: Decision,
    best: Checkpoint,
    began_unix_seconds: float,
) -> RunResult:
    """Writes the run's folder: report, metrics, samples, configuration, record and policy."""
    from tasks.gdsd import report, tables

    record = RunRecord(
        config=config,
        prompts=prompts,
        policy=policy,
        drifts=drifts,
        rewards=rewards,
        epochs=epochs,
        validations=validations,
        base=base_report,
        trained=trained_report,
        decision=decision,
        began_unix_seconds=began_unix_seconds,
    )
    folder = new_folder(f"run-{config.name}")
    samples = report.pair_samples(
        tables.read(Path(os.fspath(base_samples)), tables.SAMPLES),
        tables.read(Path(os.fspath(trained_samples)), tables.SAMPLES),
    )
    page = report.write(folder, record, samples)
    shutil.copytree(Path(os.fspath(best)), folder / "policy")
    Deck("Report", page)
    return RunResult(record=record, folder=FlyteDirectory(str(folder)))


@task(
    container_image=CPU.image,
    requests=CPU.requests,
    limits=CPU.limits,
    cache=False,
    retries=2,
    timeout=timedelta(minutes=30),
    interruptible=True,
)
def publish_evaluations(reports: list[EvalReport], samples: list[Table]) -> EvalResult:
    """Writes an evaluation's folder: the reports with their protocols, and the samples under each."""
    folder = new_folder("evaluation")
    record = json.dumps([report.model_dump(mode="json") for report in reports], indent=2)
    (folder / "evaluation.json").write_text(record + "\n", "utf-8")
    for report, table in zip(reports, samples, strict=True):
        shutil.copyfile(os.fspath(table), folder / f"samples-{report.protocol.sampler.length}.parquet")
    return EvalResult(reports=reports, folder=FlyteDirectory(str(folder)))
