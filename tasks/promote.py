"""Stage `promote`: runs start from the registry's champion, and one that the gate lets by takes its place."""

import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from flytekit import current_context
from flytekit.types.directory import FlyteDirectory
from pydantic import BaseModel

from tasks.flyte.local import in_pod
from tasks.flyte.stage import cpu_task
from tasks.flyte.store_options import storage_options
from tasks.flyte.types import Checkpoint
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import RegistryError
from tasks.gdsd.records import Delivery
from tasks.gdsd.registry.kept import SHORT
from tasks.gdsd.registry.registry import Registry
from tasks.gdsd.registry.store import require_shared
from tasks.report import EvalResult, RunResult

logger = logging.getLogger(__name__)


class Champion(BaseModel):
    """The champion of a registry when somebody looked; nothing where there is none yet."""

    entry: str | None
    policy: str | None  # path or URL of its checkpoint


class Found(NamedTuple):
    entry: str
    policy: Checkpoint


class RetrainResult(BaseModel):
    """What a run came to, and what it changed in the registry; printed at its end."""

    run: RunResult
    registry: str
    promoted: bool
    champion: str | None

    def __str__(self) -> str:
        now = "none yet" if self.champion is None else self.champion
        change = "is this policy" if self.promoted else "is left as it was"
        lines = [self.run.summary(), f"champion  {now}, {change}", f"registry  {self.registry}", *self.run.delivered()]
        return "\n".join(lines)


class ChampionReport(BaseModel):
    """What a champion reaches, and where that is kept; printed at its end."""

    result: EvalResult
    champion: str
    kept: str

    def __str__(self) -> str:
        return f"{self.result}\nchampion  {self.champion}\nkept      {self.kept}"


def open_registry(url: str) -> Registry:
    """Opens a registry with the access to object stores that Flyte is configured with.

    Raises:
        RegistryError: its store is of no kind that can be used; in a pod also, what is written there goes with the pod.
    """
    if in_pod():
        try:
            require_shared(url)
        except RegistryError as error:
            raise RegistryError(f"the registry (GDSD_REGISTRY, where nights are registered) {error}") from None
    return Registry(url, storage_options(url))


@cpu_task(hours=2, cached=False)
def find_champion(registry: str) -> Champion:
    """Looks up the champion and reads it through once.

    Raises:
        RegistryError: the registry cannot be written to, as the end of a run has to, or the champion is damaged.
    """
    opened = open_registry(registry)
    opened.require_writable()
    entry = opened.champion()
    if entry is None:
        logger.info("champion: none yet in %s; the configuration's policy is the base", opened.url)
        return Champion(entry=None, policy=None)
    opened.verify(entry)
    logger.info("champion: %s of %s", entry[:SHORT], opened.url)
    return Champion(entry=entry, policy=opened.policy(entry))


@cpu_task(hours=2, cached=False)
def require_champion(registry: str) -> Found:
    """Looks up the champion, where there has to be one, and reads it through once.

    Its checkpoint is given by the entry's address, which stands for its content.

    Raises:
        RegistryError: there is none, or it is damaged, or the registry cannot be written to.
    """
    opened = open_registry(registry)
    opened.require_writable()
    entry = opened.champion()
    if entry is None:
        raise RegistryError(
            f"{opened.url} has no champion to evaluate; the first run of retrain that the gate lets by is"
        )
    opened.verify(entry)
    return Found(entry, FlyteDirectory(opened.policy(entry)))


@cpu_task(cached=False)
def draw_seeds(config: TrainConfig, kickoff_time: datetime) -> TrainConfig:
    """Returns the configuration with seeds of its own for this time; the test problems stay as they are."""
    from tasks.gdsd import seeds

    moment = _utc(kickoff_time).isoformat(timespec="seconds")
    prompts, run = (seeds.key(config.seed, purpose, moment) % 2**31 for purpose in ("retrain prompts", "retrain run"))
    logger.info("retraining of %s: seed %d, training problems from seed %d", moment, run, prompts)
    fresh = config.prompts.model_copy(update={"train_seed": prompts})
    return config.model_copy(update={"seed": run, "prompts": fresh})


@cpu_task(hours=2, cached=False)
def promote(registry: str, champion: Champion, run: RunResult, kickoff_time: datetime) -> RetrainResult:
    """Puts the run's policy into the registry and makes it the champion, if the gate has promoted it.

    Raises:
        StaleError: the run was compared with a champion that is not the champion any more.
        RegistryError: the registry cannot be written to.
    """
    from tasks.gdsd.denoiser import checkpoint_record

    opened, record = open_registry(registry), run.record
    if not record.decision.promoted:
        logger.info("champion: left as it is, since the gate says no")
        return RetrainResult(run=run, registry=opened.url, promoted=False, champion=opened.champion())
    folder = Path(os.fspath(run.folder)) / "policy"
    entry = opened.add(
        folder,
        parent=champion.entry,
        made=_utc(kickoff_time),
        versions=checkpoint_record.read_record(folder).made_with,
        evidence={
            "decision": record.decision,
            "base": record.base,
            "trained": record.trained,
            "config": record.config,
        },
    )
    who = f"execution {current_context().execution_id.name}"
    opened.promote(entry, against=champion.entry, who=who, why=record.decision.reason)
    logger.info("champion: now %s", entry[:SHORT])
    return RetrainResult(run=run, registry=opened.url, promoted=True, champion=entry)


@cpu_task(hours=0.5, cached=False)
def conclude_retrain(result: RetrainResult, deliveries: list[Delivery]) -> RetrainResult:
    """Returns the result with what became of its deliveries."""
    return result.model_copy(update={"run": result.run.model_copy(update={"deliveries": deliveries})})


@cpu_task(hours=0.5, cached=False)
def keep_evaluation(registry: str, entry: str, result: EvalResult, kickoff_time: datetime) -> ChampionReport:
    """Keeps the reports of a champion's evaluation in the registry."""
    summary = [
        f"{report.solved.percent()} of {report.protocol.problems} {report.protocol.domain.name} problems at length "
        f"{report.protocol.sampler.length}"
        for report in result.reports
    ]
    address = open_registry(registry).keep_evaluation(entry, _utc(kickoff_time), summary, result.reports)
    logger.info("evaluation of %s kept in %s", entry[:SHORT], address)
    return ChampionReport(result=result, champion=entry, kept=address)


def _utc(moment: datetime) -> datetime:
    """The moment in UTC, which one without a time zone is taken to be in, as Flyte does."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
