"""Stage `promote`: runs start from the registry's champion, and one that the gate lets by takes its place.

A night is known by its experiment and the time that it was due. Where it has an entry in the registry, a run of it that
was killed or is repeated ends with this entry, and nothing is trained again.
"""

import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from flytekit import current_context
from flytekit.types.directory import FlyteDirectory
from pydantic import BaseModel

from tasks.flyte.kickoff import due
from tasks.flyte.local import in_pod
from tasks.flyte.stage import cpu_task
from tasks.flyte.store_options import storage_options
from tasks.flyte.types import Checkpoint
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import RegistryError
from tasks.gdsd.records import Delivery
from tasks.gdsd.registry.condition import require_known
from tasks.gdsd.registry.kept import SHORT, Change, Night, Origin
from tasks.gdsd.registry.registry import Registry
from tasks.gdsd.registry.store import require_shared
from tasks.report import EvalResult, RunResult

logger = logging.getLogger(__name__)


class Champion(BaseModel):
    """The champion of a registry when a night began; nothing where there was none yet."""

    entry: str | None
    policy: str | None  # path or URL of its checkpoint
    made: str | None = None  # the entry that the same night has made before, if it has


class Found(NamedTuple):
    entry: str
    policy: Checkpoint


class RetrainResult(BaseModel):
    """What a night came to, and what it changed in the registry; printed at its end."""

    run: RunResult | None  # None where another run of the same night has made the entry
    registry: str
    entry: str | None  # of its policy; None where the gate said no
    champion: str | None  # now, which may have come after this night's
    folder: str | None  # path or URL of the run's folder; None where that is not known
    night: Night

    def __str__(self) -> str:
        lines = [self._found() if self.run is None else self.run.summary()]
        lines += [f"champion  {self._champion()}", f"registry  {self.registry}"]
        return "\n".join([*lines, *(self.run.delivered() if self.run is not None else [])])

    def _found(self) -> str:
        """Says what the night came to before."""
        return "\n".join(
            [
                "",
                f"night     of {self.night.due:%Y-%m-%d %H:%M:%S} UTC has made entry {self.entry} already, in another "
                "run; this is what that came to",
                f"gain      {self.night.gain.points()} points solved"
                + ("" if self.night.reward is None else f", {self.night.reward.signed()} reward"),
                f"decision  promoted: {self.night.reason}",
                f"run       {self.folder or 'not known'}",
            ]
        )

    def _champion(self) -> str:
        if self.champion is None:
            return "none yet, is left as it was"
        if self.entry is None:
            return f"{self.champion}, is left as it was"
        is_still = self.champion == self.entry
        return f"{self.champion}, {'is this policy' if is_still else f'has replaced this policy, {self.entry}'}"


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
def find_champion(registry: str, experiment: str, kickoff_time: datetime) -> Champion:
    """Looks up the champion and reads it through once, and whether this night has an entry already.

    Raises:
        RegistryError: the registry cannot be written to, as the end of a run has to, or the champion is damaged or not
            known.
    """
    opened, moment = open_registry(registry), due(kickoff_time)
    opened.require_writable()
    opened.log.copy()
    for damage in (*opened.log.damage(), *opened.nights.damage()):
        logger.warning("registry: %s", damage)
    entry = opened.champion()
    if (made := opened.of_night(experiment, moment)) is not None:
        logger.info("night: %s of %s has made entry %s of %s already", experiment, moment, made[:SHORT], opened.url)
        return Champion(entry=entry, policy=None, made=made)
    require_known(opened)
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
        RegistryError: there is none, or it is damaged or not known, or the registry cannot be written to.
    """
    opened = open_registry(registry)
    require_known(opened)
    entry = opened.champion()
    if entry is None:
        raise RegistryError(
            f"{opened.url} has no champion to evaluate; the first run of retrain that the gate lets by is"
        )
    opened.require_writable()  # which would make a registry where there is none
    opened.verify(entry)
    return Found(entry, FlyteDirectory(opened.policy(entry)))


@cpu_task(cached=False)
def draw_seeds(config: TrainConfig, kickoff_time: datetime) -> TrainConfig:
    """Returns the configuration with seeds of its own for this time; the test problems stay as they are."""
    from tasks.gdsd import seeds

    moment = due(kickoff_time).isoformat()
    prompts, run = (seeds.key(config.seed, purpose, moment) % 2**31 for purpose in ("retrain prompts", "retrain run"))
    logger.info("retraining of %s: seed %d, training problems from seed %d", moment, run, prompts)
    fresh = config.prompts.model_copy(update={"train_seed": prompts})
    return config.model_copy(update={"seed": run, "prompts": fresh})


@cpu_task(hours=2, cached=False)
def promote(registry: str, champion: Champion, run: RunResult, kickoff_time: datetime) -> RetrainResult:
    """Puts the run's policy into the registry and makes it the champion, if the gate has promoted it.

    Where another run of the same night has made an entry meanwhile, that is what the night came to.

    Raises:
        StaleError: the run was compared with a champion that is not the champion any more.
        RegistryError: the registry cannot be written to.
    """
    from tasks.gdsd.denoiser import checkpoint_record

    opened, record, moment = open_registry(registry), run.record, due(kickoff_time)
    decision = record.decision
    origin = Origin(
        experiment=record.config.name,
        gain=decision.solved_difference,
        reward=decision.reward_difference,
        reason=decision.reason,
    )
    address = str(run.folder.remote_source or run.folder.path)
    if (entry := opened.of_night(origin.experiment, moment)) is None:
        if not decision.promoted:
            logger.info("champion: left as it is, since the gate says no")
            return _result(opened, origin, moment, address, None).model_copy(update={"run": run})
        folder = Path(os.fspath(run.folder)) / "policy"
        evidence = {"decision": decision, "base": record.base, "trained": record.trained, "config": record.config}
        versions = checkpoint_record.read_record(folder).made_with
        entry = opened.add(
            folder, parent=champion.entry, made=moment, origin=origin, run=address, versions=versions, evidence=evidence
        )
    result = _promoted(opened, entry)
    return result.model_copy(update={"run": run}) if result.folder == address else result


@cpu_task(hours=2, cached=False)
def promote_again(registry: str, entry: str) -> RetrainResult:
    """Ends a night with the entry that it has made before, and makes this the champion if it never was.

    Raises:
        StaleError: it was compared with a champion that is not the champion any more.
        RegistryError: it is not whole, or the registry cannot be written to.
    """
    return _promoted(open_registry(registry), entry)


@cpu_task(hours=0.5, cached=False)
def conclude_retrain(result: RetrainResult, deliveries: list[Delivery]) -> RetrainResult:
    """Returns the result with what became of its deliveries."""
    assert result.run is not None  # or nothing would have been delivered
    return result.model_copy(update={"run": result.run.model_copy(update={"deliveries": deliveries})})


@cpu_task(hours=0.5, cached=False)
def keep_evaluation(registry: str, entry: str, result: EvalResult, kickoff_time: datetime) -> ChampionReport:
    """Keeps the reports of a champion's evaluation in the registry."""
    summary = [
        f"{report.solved.percent()} of {report.protocol.problems} {report.protocol.domain.name} problems at length "
        f"{report.protocol.sampler.length}"
        for report in result.reports
    ]
    address = open_registry(registry).evaluations.keep(entry, due(kickoff_time), summary, result.reports)
    logger.info("evaluation of %s kept in %s", entry[:SHORT], address)
    return ChampionReport(result=result, champion=entry, kept=address)


def _promoted(opened: Registry, entry: str) -> RetrainResult:
    """Makes the entry of a night the champion, if it never was, and returns what the night came to."""
    kept = opened.entry(entry)
    if kept.origin is None:
        raise RegistryError(f"{entry[:SHORT]} of {opened.url} does not say which night has made it")
    change = opened.promote(entry, against=kept.parent, who=_who(), why=kept.origin.reason)
    logger.info("champion: %s since %s", entry[:SHORT], change.when)
    return _result(opened, kept.origin, kept.made, opened.run_folder(entry), change)


def _result(
    opened: Registry, origin: Origin, moment: datetime, folder: str | None, change: Change | None
) -> RetrainResult:
    champion = opened.champion()
    night = Night(
        experiment=origin.experiment,
        due=moment,
        ended=datetime.now(UTC) if change is None else change.when,
        who=_who() if change is None else change.who,
        promoted=change is not None,
        champion=champion if change is None else change.entry,
        gain=origin.gain,
        reward=origin.reward,
        reason=origin.reason,
    )
    entry = None if change is None else change.entry
    return RetrainResult(run=None, registry=opened.url, entry=entry, champion=champion, folder=folder, night=night)


def _who() -> str:
    return f"execution {current_context().execution_id.name}"
