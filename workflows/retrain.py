"""Training on a schedule: each night from the champion, and the champion evaluated each week.

    pyflyte run workflows/retrain.py retrain --registry FOLDER --kickoff_time now --config configs/smoke.yaml
    pyflyte run workflows/retrain.py evaluate_champion --registry FOLDER --kickoff_time now
    pyflyte register --activate-launchplans workflows

| task               | what it does                                                   | cached |
|--------------------|----------------------------------------------------------------|--------|
| `find_champion`, `require_champion` | looks up the champion when the run starts     | no     |
| `draw_seeds`       | seeds that follow from the time of the run                     | no     |
| `train_champion`   | fresh problems, the champion as base (`take_policy`), training | inside |
| `promote`          | a new entry, and a new champion, if the gate says yes          | no     |
| `promote_again`    | the same for an entry that the night has made before           | no     |
| `publish_retrained` | tells trackers and the hub, where they are configured         | inside |
| `end_night`        | keeps how the run ended, promoted or not, and mails it         | no     |
| `keep_evaluation`  | the reports of a champion, beside its entry                    | no     |

Everything between is as in `train` and `evaluate`. These variables are read when the launch plans are registered:

| variable              | what it is                                                       |
|-----------------------|------------------------------------------------------------------|
| `GDSD_REGISTRY`       | URL of the registry of promoted policies; without it no plans    |
| `GDSD_RETRAIN_CONFIG` | file with the nightly experiment; without it the default one     |
| `GDSD_WEEKLY_CONFIG`  | file with the weekly protocol; without it the default one        |
| `GDSD_NOTIFY`         | mail addresses, separated by commas, that hear of each run's end |
| `GDSD_MAIL_SERVER`    | server that mails how a night ended; without it Flyte says less  |
"""

import os
from datetime import datetime
from typing import NoReturn

import rich_click as click
from flytekit import CronSchedule, Email, LaunchPlan, workflow
from flytekit.core.workflow import PythonFunctionWorkflow
from flytekit.models.concurrency import ConcurrencyLimitBehavior, ConcurrencyPolicy
from flytekit.models.core.execution import WorkflowExecutionPhase
from flytekit.types.directory import FlyteDirectory

from tasks import failure, schedule
from tasks.flyte import registration
from tasks.flyte.hardware import on
from tasks.flyte.inputs import in_words
from tasks.flyte.sources import reach, ship
from tasks.flyte.stage import unroll
from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.publish import PublishConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import ConfigError
from tasks.mail import end_night
from tasks.policy import prepare_policy, take_policy
from tasks.promote import (
    Champion,
    ChampionReport,
    RetrainResult,
    conclude_retrain,
    draw_seeds,
    find_champion,
    keep_evaluation,
    promote,
    promote_again,
    require_champion,
)
from tasks.publish import require_publishing
from tasks.report import report_evaluations
from tasks.schedule import Plan
from workflows.gdsd import ask, begin, evaluate_lengths, learn
from workflows.publish import LAUNCHING, deliver

ship(reach(__name__))

FAILED = [
    WorkflowExecutionPhase.FAILED,
    WorkflowExecutionPhase.TIMED_OUT,
    WorkflowExecutionPhase.ABORTED,
]
ONE_AT_A_TIME = ConcurrencyPolicy(max_concurrency=1, behavior=ConcurrencyLimitBehavior.SKIP)


@unroll(environment=LAUNCHING)
def train_champion(champion: Champion, config: TrainConfig, registry: str, kickoff_time: datetime) -> RetrainResult:
    """Trains the champion on fresh problems, where there is none the configuration's policy; and promotes the result.

    A night that has its entry already ends with this entry. A static workflow could not leave the training out.
    """
    if champion.made is not None:
        return promote_again(registry=registry, entry=champion.made)
    require_publishing(config.publish)
    asked = ask(config.prompts, config.hardware, config.rollout, config.evaluation, config.judge)
    train, validation, test, _ = asked.tables
    problems = {"train": train, "validation": validation, "test": test, "guards": asked.guards, "rooms": asked.rooms}
    if champion.policy is None:
        base = prepare_policy(config=config.policy, **problems)
    else:
        base = take_policy(policy=FlyteDirectory(champion.policy), **problems)
    run = learn(config, begin(asked, on(config.hardware.policy, base)))
    return promote(registry=registry, champion=champion, run=run, kickoff_time=kickoff_time)


@unroll(environment=LAUNCHING)
def publish_retrained(result: RetrainResult, publish: PublishConfig) -> RetrainResult:
    """Publishes a run of `retrain` as its end, and adds to its result what became of that."""
    if result.run is None:
        return result
    deliveries = deliver(result.run.folder, publish)
    return conclude_retrain(result=result, deliveries=deliveries) if deliveries else result


@workflow(on_failure=failure.record_retrain_failure)
def retrain(registry: str, kickoff_time: datetime, config: TrainConfig = TrainConfig()) -> RetrainResult:
    """Trains the champion further on fresh problems, and makes the result the champion if the gate says yes.

    Args:
        registry: path or URL of the registry of promoted policies; the first promotion makes it
        kickoff_time: when the run was due; its seeds follow from it, and a night whose policy is in the registry
            already ends with that
        config: the experiment, as a YAML or JSON file or inline JSON, with the fields of docs/fields.md; its policy is
            the base where there is no champion
    """
    champion = find_champion(registry=registry, experiment=config.name, kickoff_time=kickoff_time)
    fresh = draw_seeds(config=config, kickoff_time=kickoff_time)
    promoted = train_champion(champion=champion, config=fresh, registry=registry, kickoff_time=kickoff_time)
    # After the promotion, so that a policy that was overtaken meanwhile is not pushed.
    result = publish_retrained(result=promoted, publish=fresh.publish)
    end_night(result=result)
    return result


@workflow(on_failure=failure.record_evaluate_champion_failure)
def evaluate_champion(
    registry: str, kickoff_time: datetime, config: EvaluateConfig = EvaluateConfig()
) -> ChampionReport:
    """Evaluates the champion on the test problems of a prompt configuration, and keeps the reports in the registry.

    Args:
        registry: path or URL of the registry of promoted policies
        kickoff_time: when the run was due; names the reports
        config: problems and protocol, as a YAML or JSON file or inline JSON
    """
    champion = require_champion(registry=registry)
    evaluated = evaluate_lengths(policy=champion.policy, config=config)
    result = report_evaluations(reports=evaluated.reports, samples=evaluated.samples)
    return keep_evaluation(registry=registry, entry=champion.entry, result=result, kickoff_time=kickoff_time)


def _notifications(plan: Plan) -> list[Email]:
    """Mails by Flyte, which does not know what came out of a run."""
    phases = [*([] if plan.mails_outcome else [WorkflowExecutionPhase.SUCCEEDED]), *FAILED]
    return [Email(phases=phases, recipients_email=plan.post.recipients)] if plan.post.recipients else []


def _plan(plan: Plan, workflow: PythonFunctionWorkflow) -> LaunchPlan:
    return LaunchPlan.get_or_create(
        name=plan.name,
        workflow=workflow,
        schedule=CronSchedule(schedule=plan.cron, kickoff_time_input_arg="kickoff_time"),
        default_inputs={"config": plan.config},
        fixed_inputs={"registry": plan.registry},
        notifications=_notifications(plan),
        concurrency=ONE_AT_A_TIME,
    )


PLANS, FAULT = None, ConfigError(schedule.NO_PLANS)
try:
    PLANS = schedule.read(os.environ)
except ConfigError as error:
    FAULT = error  # of no interest to a run that is not of the schedule
    if schedule.registers():
        with in_words():
            raise
if PLANS is not None:
    registration.enter({plan.name: plan.inputs() for plan in PLANS})
    nightly_retrain, weekly_evaluation = (
        _plan(plan, workflow) for plan, workflow in zip(PLANS, (retrain, evaluate_champion), strict=True)
    )
if (said := schedule.announced(PLANS)) is not None:
    click.echo(said)


def __getattr__(name: str) -> NoReturn:
    """Says why there is no launch plan, to whoever asks for one."""
    if name in schedule.NAMES:
        with in_words():
            raise FAULT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
