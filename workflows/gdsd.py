"""GDSD training of masked diffusion language models as a Flyte pipeline.

    pyflyte run workflows/gdsd.py train                                        # the default experiment, on this machine
    pyflyte run workflows/gdsd.py train --config configs/tiny_sudoku.yaml      # any experiment
    pyflyte run workflows/gdsd.py check --config configs/tiny_sudoku.yaml      # what its rewards say, before it trains
    pyflyte run workflows/gdsd.py compare                                      # GDSD and its rivals, over seeds
    pyflyte run --remote workflows/gdsd.py train --config configs/smoke.yaml   # the same on a cluster

| stage    | task                                      | on  | cached by, beside its sources                  |
|----------|-------------------------------------------|-----|------------------------------------------------|
| prompts  | `prepare_prompts`                         | CPU | its config                                     |
| check    | `check_rewards`                           | CPU | problems, their domains                        |
|          | `measure_problems`, `show_verdicts`       | CPU | not cached                                     |
| policy   | `prepare_policy`                          | GPU | its config, problems, completion lengths       |
| drift    | `sample_both`                             | GPU | policy, problems, sampler, engine, seed        |
|          | `measure_drift`                           | CPU | completions, engine, limits                    |
| rollout  | `generate_rollouts`                       | GPU | policy, problems, sampler, engine, round, seed |
| reward   | `reward_rollouts`                         | CPU | rollouts, reward config                        |
| distill  | `distill_epoch`, `distill_epoch_on_nodes` | GPU | policy, rewarded table, config, round, seed    |
| progress | `announce_round`, `report_progress`       | CPU | what the rounds recorded                       |
| evaluate | `answer_problems`                         | GPU | policy, problems, protocol                     |
|          | `verify_answers`                          | CPU | answers, domain                                |
| gate     | `gate`, `gate_guard`                      | CPU | not cached                                     |
| report   | `report_run`, `report_evaluations`        | CPU | not cached                                     |
| publish  | those of workflows/publish.py             | CPU | not cached                                     |
| compare  | `record_series`, `choose_learning_rate`   | CPU | inputs                                         |
|          | `report_comparison`                       | CPU | not cached                                     |

The stage `drift` takes part only where an approximate engine makes the rollouts.
"""

import time
from typing import NamedTuple

from flytekit import workflow

from tasks import failure
from tasks.check import CheckResult, check_rewards, rooms_for, sections, show_verdicts
from tasks.compare import CompareResult, choose_learning_rate, record_series, report_comparison
from tasks.evaluate import Evaluated, select_best, warn_of_another_domain
from tasks.flyte.hardware import on
from tasks.flyte.sources import reach, ship
from tasks.flyte.stage import in_order, unroll
from tasks.flyte.types import Checkpoint, Table
from tasks.gate import gate, gate_guard
from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.config.evaluate import EvaluateConfig, EvaluationConfig, GateConfig
from tasks.gdsd.config.hardware import HardwareConfig, TrainHardwareConfig
from tasks.gdsd.config.policy import PolicyConfig
from tasks.gdsd.config.prompts import PromptConfig, Room
from tasks.gdsd.config.publish import PublishConfig
from tasks.gdsd.config.train import DistillConfig, RolloutConfig, TrainConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.records import CheckStats, EvalReport, GuardReport, PolicyStats, PromptStats, Series, Tuning
from tasks.policy import Policy, measure_problems, prepare_policy
from tasks.prompts import Prompts, prepare_guard, prepare_prompts, prepare_test
from tasks.publish import require_publishing
from tasks.report import EvalResult, RunResult, report_evaluations, report_run
from workflows.publish import publish_run
from workflows.rounds import assess, run_rounds

ship(reach(__name__))


class Beginning(NamedTuple):
    train: Table
    validation: Table
    test: Table
    guards: list[Table]
    prompts: PromptStats
    check: CheckStats
    base: Checkpoint
    policy: PolicyStats
    began_unix_seconds: float  # when the run did


class Contest(NamedTuple):
    tunings: list[Tuning]
    series: list[Series]


class Evaluations(NamedTuple):
    reports: list[EvalReport]
    samples: list[Table]


class Asked(NamedTuple):
    """The problems of a run, and what they have to leave room for."""

    tables: Prompts
    guards: list[Table]
    check: CheckStats
    rooms: list[Room]  # of train, validation, test and each guard
    began_unix_seconds: float


@unroll()
def prepare(
    prompts: PromptConfig,
    policy: PolicyConfig,
    hardware: TrainHardwareConfig,
    rollout: RolloutConfig,
    evaluation: EvaluationConfig,
    judge: GateConfig,
    publish: PublishConfig = PublishConfig(),
) -> Beginning:
    """Makes problems and the first policy; outside of a dynamic task, no configuration could place the tasks.

    What could only fail at the end of the run is refused before.
    """
    require_publishing(publish)
    asked = ask(prompts, hardware, rollout, evaluation, judge)
    train, validation, test, _ = asked.tables
    base = on(
        hardware.policy,
        prepare_policy(
            config=policy, train=train, validation=validation, test=test, guards=asked.guards, rooms=asked.rooms
        ),
    )
    return begin(asked, base)


def ask(
    prompts: PromptConfig,
    hardware: TrainHardwareConfig,
    rollout: RolloutConfig,
    evaluation: EvaluationConfig,
    judge: GateConfig,
) -> Asked:
    """Adds to a dynamic task what makes all problems of a run, which begins with that, and checks verdicts on them."""
    began = time.time()
    tables, guards = make_problems(prompts, hardware, rollout, judge)
    train, validation, test, _ = tables
    check = on(
        hardware.scoring,
        check_rewards(problems=[train, validation, test, *guards], sections=sections(prompts, rollout, judge)),
    )
    return Asked(tables, guards, check, rooms_for(prompts, rollout, evaluation, judge), began)


def make_problems(
    prompts: PromptConfig, hardware: HardwareConfig, rollout: RolloutConfig, judge: GateConfig
) -> tuple[Prompts, list[Table]]:
    """Adds to a dynamic task what makes all problems of a run: its own and those of its guards."""
    tables = on(hardware.prompts, prepare_prompts(config=prompts.rule(), prompts_per_round=rollout.prompts_per_round))
    guards = [
        on(
            hardware.prompts,
            prepare_guard(name=name, config=guard.rule(), prompts=prompts.rule(), train=tables.train),
        )
        for name, guard in judge.guards.items()
    ]
    return tables, guards


def begin(asked: Asked, base: Policy) -> Beginning:
    """Returns what a run begins with: the base, and those of the problems that it can be asked.

    The base is made when the rewards were checked, so that nothing is trained on what nobody could train on.
    """
    in_order(asked.check, base.checkpoint)
    return Beginning(
        base.train,
        base.validation,
        base.test,
        base.guards,
        asked.tables.stats,
        asked.check,
        base.checkpoint,
        base.stats,
        asked.began_unix_seconds,
    )


@unroll()
def check_domains(config: TrainConfig) -> CheckResult:
    """Makes the problems of a run, measures them for its policy, and looks at the verdicts on answers to them.

    Answers are judged where the run would judge them.
    """
    prompts, rollout, judge, scoring = config.prompts, config.rollout, config.judge, config.hardware.scoring
    (train, validation, test, _), guards = make_problems(prompts, config.hardware, rollout, judge)
    problems = [train, validation, test, *guards]
    rooms = rooms_for(prompts, rollout, config.evaluation, judge)
    on(scoring, measure_problems(config=config.policy, problems=problems, rooms=rooms))
    return on(scoring, show_verdicts(problems=problems, sections=sections(prompts, rollout, judge)))


@unroll()
def evaluate_policy(
    policy: Checkpoint,
    problems: Table,
    domain: DomainChoice,
    config: EvaluationConfig,
    seed: int,
    hardware: TrainHardwareConfig,
    asked: str,
) -> Evaluated:
    """Answers every problem and verifies the answers; `asked` says which problems they are."""
    room = Room(problems=asked, length=config.sampler.length)
    return assess(policy, problems, domain, config, seed, hardware, room)


def measure(
    policy: Checkpoint,
    problems: Table,
    domain: DomainChoice,
    config: TrainConfig | CompareConfig,
    seed: int,
    asked: str = "test",
) -> Evaluated:
    """Adds an evaluation under the protocol of a run, as a dynamic task of its own, which has all shards."""
    return evaluate_policy(
        policy=policy,
        problems=problems,
        domain=domain,
        config=config.evaluation,
        seed=seed,
        hardware=config.hardware,
        asked=asked,
    )


@unroll()
def evaluate_lengths(policy: Checkpoint, config: EvaluateConfig) -> Evaluations:
    """Evaluates a policy on the problems of a configuration, under one protocol per completion length."""
    warn_of_another_domain(policy, config.prompts.domain)
    problems = on(config.hardware.prompts, prepare_test(config=config.prompts.rule()))
    protocols = config.protocols()
    # The same problems for all lengths; what the longest has no room for is known before any is answered.
    longest = max(each.sampler.length for each in protocols)
    room = Room(problems="test", length=longest, unusable=config.prompts.unusable)
    asked = (config.seed, config.hardware, room)
    found = [assess(policy, problems, config.prompts.domain, protocol, *asked) for protocol in protocols]
    return Evaluations([each.report for each in found], [each.samples for each in found])


@unroll()
def check_guards(base: Checkpoint, trained: Checkpoint, guards: list[Table], config: TrainConfig) -> list[GuardReport]:
    """Evaluates base and trained policy on the guarded domains, under the protocol of the run."""
    found = []
    for (name, guard), problems in zip(config.judge.guards.items(), guards, strict=True):
        before, after = (
            measure(policy, problems, guard.domain, config, config.seed, f"guard {name}") for policy in (base, trained)
        )
        found.append(
            gate_guard(
                name=name,
                base=before.report,
                base_samples=before.samples,
                trained=after.report,
                trained_samples=after.samples,
                config=config.judge.model_copy(update={"guards": {name: guard}}),
            )
        )
    return found


@workflow
def check(config: TrainConfig = TrainConfig()) -> CheckResult:
    """Shows what an experiment's domains say of right, empty, senseless, over-long and repeated answers.

    Problems that its policy cannot read, or has no room for, are refused.

    Args:
        config: the experiment, as for `train`
    """
    return check_domains(config=config)


@workflow(on_failure=failure.record_train_failure)
def train(config: TrainConfig = TrainConfig(rounds_per_task=10)) -> RunResult:
    """Trains a diffusion language model by GDSD and compares it with its base on the test problems.

    Args:
        config: the experiment, as a YAML or JSON file or inline JSON, with the fields of docs/fields.md; the default is
            configs/tiny_sudoku.yaml
    """
    begun = prepare(
        prompts=config.prompts,
        policy=config.policy,
        hardware=config.hardware,
        rollout=config.rollout,
        evaluation=config.evaluation,
        judge=config.judge,
        publish=config.publish,
    )
    return publish_run(run=learn(config, begun), publish=config.publish)


def learn(config: TrainConfig, begun: Beginning) -> RunResult:
    """Adds to a workflow what makes a run of a beginning: rounds, evaluations, the gate and the report."""
    before = measure(begun.base, begun.test, config.prompts.domain, config, config.seed)
    rounds = run_rounds(
        config=config,
        distill=config.distill,
        train=begun.train,
        problems=begun.validation,
        base=begun.base,
        asked="validation",
    )
    best = select_best(before=rounds.best, last=rounds.policy, progress=rounds.progress, validation=rounds.validation)
    after = measure(best, begun.test, config.prompts.domain, config, config.seed)
    guards = check_guards(base=begun.base, trained=best, guards=begun.guards, config=config)
    decision = gate(
        base=before.report,
        base_samples=before.samples,
        trained=after.report,
        trained_samples=after.samples,
        guards=guards,
        config=config.judge,
    )
    return report_run(
        config=config,
        prompts=begun.prompts,
        check=begun.check,
        policy=begun.policy,
        progress=rounds.progress,
        validation=rounds.validation,
        base_report=before.report,
        base_samples=before.samples,
        trained_report=after.report,
        trained_samples=after.samples,
        decision=decision,
        best=best,
        began_unix_seconds=begun.began_unix_seconds,
    )


@workflow(on_failure=failure.record_evaluate_failure)
def evaluate(policy: Checkpoint, config: EvaluateConfig = EvaluateConfig()) -> EvalResult:
    """Evaluates any checkpoint on the test problems of a prompt configuration.

    Args:
        policy: the checkpoint folder, for example the `policy` folder of a run
        config: problems and protocol, as a YAML or JSON file or inline JSON, with the fields of docs/fields.md
    """
    evaluated = evaluate_lengths(policy=policy, config=config)
    return report_evaluations(reports=evaluated.reports, samples=evaluated.samples)


@unroll()
def run_contest(config: CompareConfig, train: Table, validation: Table, test: Table, base: Checkpoint) -> Contest:
    """Unrolls the runs of all contestants: those that choose the learning rates, then one per seed at the chosen rate.

    All share the base, the prompts and the rollouts' random numbers; only what is distilled differs.
    """

    def run_one(contestant: str, distill: DistillConfig, problems: Table, asked: str, seed: int, what: str) -> Series:
        run = config.run(contestant, f"{config.name}-{contestant}-{what}-{seed}", seed)
        rounds = run_rounds(config=run, distill=distill, train=train, problems=problems, base=base, asked=asked)
        return record_series(
            contestant=contestant,
            distill=distill,
            seed=seed,
            progress=rounds.progress,
            validation=rounds.validation,
        )

    tunings, series = [], []
    for name, distill in config.contestants.items():
        if config.tuning is not None:
            rates = {
                factor: distill.model_copy(update={"learning_rate": distill.learning_rate * factor})
                for factor in config.tuning.factors
            }
            tried = [
                run_one(name, rate, validation, "validation", seed, f"rate-{factor:g}".replace(".", "_"))
                for factor, rate in rates.items()
                for seed in config.tuning.seeds
            ]
            chosen = choose_learning_rate(contestant=name, distill=distill, series=tried)
            tunings.append(chosen.tuning)
            distill = chosen.distill
        series += [run_one(name, distill, test, "test", seed, "run") for seed in config.seeds]
    return Contest(tunings, series)


@workflow(on_failure=failure.record_compare_failure)
def compare(config: CompareConfig = CompareConfig()) -> CompareResult:
    """Trains several objectives and seeds from one base on the same prompts, and compares what they reach.

    Args:
        config: contestants, seeds and learning rates, as a YAML or JSON file or inline JSON, with the fields of
            docs/fields.md; the default is configs/compare_tiny.yaml
    """
    begun = prepare(
        prompts=config.prompts,
        policy=config.policy,
        hardware=config.hardware,
        rollout=config.rollout,
        evaluation=config.evaluation,
        judge=GateConfig(),
    )
    before = measure(begun.base, begun.test, config.prompts.domain, config, 0)
    contest = run_contest(
        config=config, train=begun.train, validation=begun.validation, test=begun.test, base=begun.base
    )
    return report_comparison(config=config, base=before.report, tunings=contest.tunings, series=contest.series)
