"""Stage `report`: a run's folder with report, metrics, samples and policy, and the last lines on the console."""

import json
import os
import shutil
from functools import cached_property
from pathlib import Path

from flytekit import Deck, current_context
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from pydantic import BaseModel

from tasks.flyte import commands
from tasks.flyte.local import in_pod, new_folder
from tasks.flyte.sources import ROOT, source_digest
from tasks.flyte.stage import cpu_task
from tasks.flyte.types import Checkpoint, ProgressFile, Table
from tasks.gdsd.config import model_source
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.files import digest
from tasks.gdsd.records import CheckStats, Decision, Delivery, EvalReport, PolicyStats, Progress, PromptStats
from tasks.gdsd.run.provenance import Execution
from tasks.gdsd.run.run_record import RunRecord
from tasks.progress import lead_to


class RunResult(BaseModel):
    """What a training run came to; printed at its end.

    Its record is in its folder. As a value, that of a long run would be more than a cluster takes.
    """

    promoted: bool
    reason: str
    folder: FlyteDirectory
    deliveries: list[Delivery] = []

    @cached_property
    def record(self) -> RunRecord:
        """Everything that the run says of itself."""
        return read_record(self.folder)

    def __str__(self) -> str:
        return "\n".join([self.summary(), *self.delivered()])

    def summary(self) -> str:
        """Returns what happened, and where everything lies."""
        return self.record.summary(str(self.folder.path))

    def delivered(self) -> list[str]:
        """Returns what was published where, and what was not delivered: the last lines, whatever the run came to."""
        ordered = sorted(self.deliveries, key=lambda delivery: delivery.problem is not None)
        return [line for delivery in ordered for line in delivery.lines()]


def read_record(folder: FlyteDirectory) -> RunRecord:
    """Reads the record in a run's folder, and nothing else of what lies there.

    Raises:
        DataError: it is missing or damaged.
    """
    file = FlyteFile.from_source(f"{folder.remote_source or folder.path}/run.json")
    return RunRecord.load(Path(os.fspath(file)))


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


@cpu_task(cached=False, deck=True)
def report_run(
    config: TrainConfig,
    prompts: PromptStats,
    check: CheckStats,
    policy: PolicyStats,
    progress: list[ProgressFile],
    validation: list[EvalReport],
    base_report: EvalReport,
    base_samples: Table,
    trained_report: EvalReport,
    trained_samples: Table,
    decision: Decision,
    best: Checkpoint,
    began_unix_seconds: float,
) -> RunResult:
    """Writes the run's folder: report, metrics, samples, configuration, record, model card and policy."""
    from tasks.gdsd import report, tables
    from tasks.gdsd.denoiser import checkpoint_record
    from tasks.gdsd.report import model_card
    from tasks.gdsd.run import provenance

    run = Progress.read(progress)
    record = RunRecord(
        config=config,
        prompts=prompts,
        check=check,
        policy=policy,
        drifts=run.drifts,
        rewards=run.rewards,
        epochs=run.epochs,
        validations=[*run.validations, *validation],
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
    shutil.copytree(Path(os.fspath(best)), folder / "policy")
    stored = "config.yaml" if in_pod() else str(folder / "config.yaml")
    origin = provenance.record(
        ROOT,
        sources_sha256=source_digest("workflows.gdsd"),
        execution=_execution(),
        base_sha256=record.epochs[0].parent,
        policy_sha256=digest(folder / "policy"),
        policy_pin=model_source.digest(folder / "policy"),
        command=commands.run("workflows/gdsd.py", "train", "--config", stored),
    )
    page = report.write(folder, record, samples, origin)
    card = model_card.write(record, checkpoint_record.read_record(folder / "policy"), origin)
    (folder / "README.md").write_text(card, "utf-8")
    Deck("Report", page)
    if not in_pod():
        lead_to(folder / "report.html", config.name, run)
    decision = record.decision
    return RunResult(promoted=decision.promoted, reason=decision.reason, folder=FlyteDirectory(str(folder)))


def _execution() -> Execution | None:
    """The run on a cluster that this process is part of, None in a local one."""
    running = current_context().execution_id
    if not in_pod() or running is None:
        return None
    return Execution(
        project=running.project,
        domain=running.domain,
        name=running.name,
        image=os.environ.get("FLYTE_INTERNAL_IMAGE"),
        version=os.environ.get("FLYTE_INTERNAL_TASK_VERSION"),
    )


@cpu_task(hours=0.5, cached=False)
def report_evaluations(reports: list[EvalReport], samples: list[Table]) -> EvalResult:
    """Writes an evaluation's folder: the reports with their protocols, and the samples under each."""
    folder = new_folder("evaluation")
    record = json.dumps([report.model_dump(mode="json") for report in reports], indent=2)
    (folder / "evaluation.json").write_text(record + "\n", "utf-8")
    for report, table in zip(reports, samples, strict=True):
        shutil.copyfile(os.fspath(table), folder / f"samples-{report.protocol.sampler.length}.parquet")
    return EvalResult(reports=reports, folder=FlyteDirectory(str(folder)))
