"""The plan of a comparison: which runs there are, and what each evaluates."""

import pytest

from tasks.gdsd.config.compare import CompareConfig, TuningConfig
from tasks.gdsd.planning.comparison import of_comparison
from tasks.gdsd.planning.shapes import shape_of
from tasks.gdsd.planning.work import DEVICES, Device, Work


def test_all_runs_of_a_comparison_count() -> None:
    """If it fails, a comparison costs another number of hours than planned.

    Per contestant there are 2 runs on 512 test problems, and 2 x 1 on 256 validation problems. Each is evaluated after
    2, 4 and 5 of 5 rounds. The base is evaluated once for all.
    """
    config = CompareConfig(seeds=[0, 1], rounds=5, evaluate_every=2, tuning=TuningConfig(factors=[0.1, 1.0]))
    family, shape = shape_of(config.policy)
    device, found = DEVICES["h100"], of_comparison(config, shape, family)
    assert found.runs == 6 * (2 + 2)
    answer = found.base.evaluation_work.total / config.prompts.test_size
    for contest in found.contests.values():
        assert contest.run.evaluation_work.total == pytest.approx(3 * config.prompts.test_size * answer)
        assert contest.tried.evaluation_work.total == pytest.approx(3 * config.prompts.validation_size * answer)
        assert contest.run.loads.evaluations == 3 * config.evaluation.shards
        assert contest.hours(device) == 2 * contest.run.hours(device) + 2 * contest.tried.hours(device)
    hours = sum(contest.hours(device) for contest in found.contests.values())
    assert found.hours(device) == hours + found.base.evaluation_hours(device)
    untuned = of_comparison(config.model_copy(update={"tuning": None}), shape, family)
    assert untuned.runs == 6 * 2 and untuned.hours(device) < found.hours(device)


def test_seconds_are_products_over_what_is_reached_in_their_precision() -> None:
    """If it fails, logits in float32 are planned at the speed of the network, or the other way round."""
    device = Device("a device", 1.0, half=100.0, full=10.0, reached=0.5)
    products = Work(network=100.0, logits=20.0, adapter=5.0)
    assert products.parts(device, halves=True) == {"network": 2.0, "logits": 4.0, "adapter": 1.0}
    assert products.parts(device, halves=False) == {"network": 20.0, "logits": 4.0, "adapter": 1.0}
    assert products.seconds(device, halves=True) == 7.0 and products.total == 125.0
