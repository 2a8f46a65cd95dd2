"""The plan of a comparison: that of each contestant's runs."""

from dataclasses import dataclass
from math import ceil

from tasks.gdsd.config.compare import CompareConfig
from tasks.gdsd.denoiser.families.base import Family
from tasks.gdsd.planning.plan import Plan, plan
from tasks.gdsd.planning.shapes import Shape
from tasks.gdsd.planning.work import Device


@dataclass(frozen=True)
class Contest:
    """What a contestant's runs need: some that choose its learning rate, then one for each seed."""

    tried: Plan  # of one of the former, on the validation problems
    tries: int
    run: Plan  # of one of the latter, on the test problems
    runs: int

    @property
    def peak(self) -> float:
        """Bytes that a device needs."""
        return max(self.run.peak, self.tried.peak if self.tries else 0.0)

    def hours(self, device: Device) -> float:
        """Returns the device-hours of all its runs."""
        return self.tries * self.tried.hours(device) + self.runs * self.run.hours(device)


@dataclass(frozen=True)
class Comparison:
    """What a comparison needs: all contestants' runs, and an evaluation of the base that they share."""

    contests: dict[str, Contest]
    base: Plan  # of a run with no evaluation but this one

    @property
    def runs(self) -> int:
        return sum(contest.tries + contest.runs for contest in self.contests.values())

    @property
    def peak(self) -> float:
        """Bytes that a device needs."""
        return max(contest.peak for contest in self.contests.values())

    def hours(self, device: Device) -> float:
        """Returns the device-hours of the whole comparison."""
        return sum(contest.hours(device) for contest in self.contests.values()) + self.base.evaluation_hours(device)


def of_comparison(
    config: CompareConfig, shape: Shape, family: Family, is_gpu: bool = True, prompt: int | None = None
) -> Comparison:
    """Plans a comparison, each run as `plan` does."""
    points, prompts, tuning = ceil(config.rounds / config.evaluate_every), config.prompts, config.tuning

    def planned(contestant: str, evaluated: list[int]) -> Plan:
        run = config.run(contestant, config.name, config.seeds[0])
        return plan(run, shape, family, is_gpu, prompt, evaluated)

    contests = {
        name: Contest(
            tried=planned(name, [prompts.validation_size] * points),
            tries=0 if tuning is None else len(tuning.factors) * len(tuning.seeds),
            run=planned(name, [prompts.test_size] * points),
            runs=len(config.seeds),
        )
        for name in config.contestants
    }
    return Comparison(contests, planned(next(iter(contests)), [prompts.test_size]))
