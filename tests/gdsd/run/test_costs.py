"""What a run cost, by hand: every second of a device once, and no second of another."""

import pytest

from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.records import CheckStats
from tasks.gdsd.run.costs import money
from tasks.gdsd.run.run_record import RunRecord
from tests.gdsd.report.records import cells, pairs, record, rendered

GPU = "NVIDIA H100 80GB HBM3"


def on_gpus(**hardware: object) -> RunRecord:
    """Rollouts and answers on one GPU, updates by 2 processes; of an evaluation's second a quarter is for verdicts."""
    plain = record()
    evaluations = {"device": GPU, "scoring_seconds": 0.25}
    return plain.model_copy(
        update={
            "config": TrainConfig.model_validate({"name": "a-run", "rounds": 2, "hardware": hardware}),
            "rewards": [reward.model_copy(update={"device": GPU}) for reward in plain.rewards],
            "epochs": [epoch.model_copy(update={"device": GPU, "processes": 2}) for epoch in plain.epochs],
            "validations": [report.model_copy(update=evaluations) for report in plain.validations],
            "base": plain.base.model_copy(update=evaluations),
            "trained": plain.trained.model_copy(update=evaluations),
        }
    )


def test_device_seconds_of_a_round() -> None:
    """If it fails, a run's bill is not the sum of its metrics.

    A round has 2 s of rollouts and 0.5 s of verdicts; updates take 1 s, then 2 s, of 2 GPUs each. The second one's
    validation has 0.75 s of answers and 0.25 s of verdicts.
    """
    _, first, second, _ = on_gpus().metrics()
    assert (first["cost/gpu_s"], first["cost/cpu_s"]) == (2 + 2 * 1, 0.5)
    assert (second["cost/gpu_s"], second["cost/cpu_s"]) == (2 + 2 * 2 + 0.75, 0.5 + 0.25)
    # Processes without GPUs share a machine.
    epochs = [epoch.model_copy(update={"device": "cpu", "processes": 2}) for epoch in record().epochs]
    assert record(epochs=epochs).metrics()[1]["cost/cpu_s"] == 0.5 + 1


def test_the_check_of_verdicts_is_paid_where_verdicts_are() -> None:
    """If it fails, a judge that is asked before the first round is free in the report, or has another price."""
    run = record(config=on_gpus(scoring={"price": 36.0}).config)
    run = run.model_copy(update={"check": CheckStats(seconds=5.0, ended_unix_seconds=1000.0)})
    (check,) = [cost for cost in run.stage_costs(since=1000.0) if cost.stage == "check"]
    assert (check.seconds, check.device, check.money) == (5.0, "cpu", pytest.approx(0.05))
    assert not [cost for cost in run.stage_costs(since=1000.5) if cost.stage == "check"]


def test_money_follows_from_prices() -> None:
    """If it fails, the report names a price that nobody paid.

    4 s of rollouts at 3.6 an hour are 0.004; updates of 2 * (1 + 2) s at 7.2 an hour 0.012; 3 * 0.75 s of answers at
    1.6 an hour 0.001.
    """
    run = on_gpus(rollout={"price": 3.6}, distill={"price": 7.2}, evaluation={"price": 1.6})
    costs = {cost.stage: cost for cost in run.stage_costs()}
    assert costs["rollout"].money == pytest.approx(0.004) and costs["distill"].money == pytest.approx(0.012)
    assert costs["evaluate: answers"].money == pytest.approx(0.001) and costs["reward"].money is None
    assert money(run.stage_costs()) == pytest.approx(0.017)
    page = rendered(run, pairs())
    assert "0.02 at the configured prices" in page and f"on {GPU}, cpu" in page
    assert cells(page, "distill") == [GPU, "3.0", "21%", "0.00167", "", "0.01"]
    # Rollouts of rounds in memory are on the machine of the updates, at its price: 4 s at 7.2 an hour.
    stays = run.model_copy(update={"config": run.config.model_copy(update={"rounds_per_task": 2})})
    assert money(stays.stage_costs()) == pytest.approx(0.017 + 0.004)
    # A run of unknown price does not look free, and the table of costs tells the times of the run's last lines.
    run = on_gpus()
    assert money(run.stage_costs()) is None and "configured prices" not in rendered(run, pairs())
    assert sum(cost.seconds for cost in run.stage_costs()) == pytest.approx(sum(run.stage_seconds().values()))


@pytest.mark.parametrize(
    ("began", "said"),
    [
        (990.0, "prompts 0.2, policy 3.0, rollout 4.0, reward 1.0, distill 3.0, evaluate 3.0"),
        (1000.0, "policy 3.0, rollout 4.0, reward 1.0, distill 3.0, evaluate 3.0; 0.2 came from the cache"),
        (1004.0, "rollout 2.0, reward 0.5, distill 3.0, evaluate 2.0; 6.8 came from the cache"),
        (1017.0, "evaluate 1.0; 13.2 came from the cache"),
        (1040.0, "none; 14.2 came from the cache"),
    ],
)
def test_a_run_counts_its_own_work(began: float, said: str) -> None:
    """If it fails, a run that took all from the cache says that it worked for an hour.

    The rounds' rollouts begin at 1001 and 1008, their updates end at 1006 and 1016.
    """
    run, ended = record(began_unix_seconds=began), "ended_unix_seconds"
    run = run.model_copy(
        update={
            "prompts": run.prompts.model_copy(update={ended: 999.0}),
            "policy": run.policy.model_copy(update={ended: 1000.0}),
            "base": run.base.model_copy(update={ended: 1000.5}),
            "validations": [report.model_copy(update={ended: 1016.5}) for report in run.validations],
            "trained": run.trained.model_copy(update={ended: 1020.0}),
        }
    )
    assert run.worked() == said and f"seconds   {said}" in run.summary("folder").splitlines()


def test_answers_and_rollouts_that_were_there_are_not_counted_with_their_new_verdicts() -> None:
    """If it fails, after a change of the reward a run claims the hours in which an earlier run made the answers."""
    plain, ended = record(began_unix_seconds=1030.0), "ended_unix_seconds"
    old = {"tokens": 160, "scoring_seconds": 0.25, ended: 1031.0, "answered_unix_seconds": 1000.5}
    reports = {
        "base": plain.base.model_copy(update=old),
        "trained": plain.trained.model_copy(update=old | {"answered_unix_seconds": 1030.5}),
    }
    run = plain.model_copy(
        update=reports | {"rewards": [reward.model_copy(update={ended: 1030.0}) for reward in plain.rewards]}
    )
    assert run.worked() == "reward 1.0, evaluate 1.2; 12.0 came from the cache"
    costs = {cost.stage: cost for cost in run.stage_costs(since=1030.0)}
    assert (costs["evaluate: answers"].seconds, costs["evaluate: answers"].tokens) == (0.75, 160)
    assert costs["evaluate: verdicts"].seconds == 0.5
