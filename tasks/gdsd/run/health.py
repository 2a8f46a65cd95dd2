"""Concerns: what in a run's own numbers says that it is not learning, since when, and what to try.

The thresholds were set beside the default experiment and Countdown, whose healthy rounds are given with each of them.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tasks.gdsd.evaluate.intervals import slope
from tasks.gdsd.records import Concern, EvalReport, Progress

RECENT = 5  # rounds over which shares and sizes are averaged, so that a single one alarms nobody
HELD = 3  # rounds that it has to be so, since with this many rounds some would be by chance
LEARNS = 20  # rounds after which a reward that rises shows it: the default's rises by one spread of the completions
TREND = 40  # rounds over which a reward that rose before is said to have stopped
LITTLE = 0.1  # of that spread: a rise over `TREND` rounds that is not worth their cost
HARDLY_ANY = 0.02  # of the rollouts solved; the default begins with 0.07
ALIKE = 0.15  # spread of the completions; the default begins with 0.26, and ends with 0.13 while it still rises
NO_SPREAD = 0.9  # of the groups; Countdown learned with 0.6 to 0.8
EASY = 0.8  # of the groups, where most rollouts are solved: a group in five still teaches; the default ends at 0.86
SOLVED = 0.5  # of the rollouts, from which equal answers are right ones rather than a policy that has collapsed
JUDGED = 0.95  # of the completions; the others teach nothing
HARDLY = 0.75  # likewise, of a single round, which is said at once, since so many are no accident
EMPTY = 0.2  # of the completions; less than 0.01 otherwise
TRUNCATED = 0.3  # of the completions; up to 0.05 otherwise
DISTINCT = 0.5  # of the completions of a group
SKIPPED = 0.1  # of the updates of the last `RECENT` rounds; 0 otherwise
SHIFT = 5.0  # times the median of up to 50 rounds before; up to 1.9 otherwise, and 2.3 for what grows steadily
GRADIENT = 10.0  # likewise; up to 3.6 otherwise
SURE, UNSURE = 0.2, 2.0  # times the surprise in the first `RECENT` rounds


@dataclass(frozen=True)
class _Seen:
    """The rounds up to some point; nan where something was not measured."""

    values: dict[str, np.ndarray]
    validations: list[EvalReport]
    rounds: int
    remark: str | None  # of the last completion without a reward of which the domain says why

    def all(self, name: str) -> np.ndarray:
        return self.values[name][: self.rounds]

    def recent(self, name: str) -> float:
        """The mean of the last rounds; nan where there are too few, or nothing was measured in one of them."""
        values = self.all(name)
        return float(values[-RECENT:].mean()) if len(values) >= RECENT else math.nan

    def solves(self) -> bool:
        """Whether most rollouts are solved, so that a group's answers are alike because they are right."""
        return self.recent("solved") >= SOLVED

    def with_solved(self, words: str) -> str:
        """Puts the share of the rollouts that are solved into words; nothing where it is not known."""
        share = self.recent("solved")
        return "" if math.isnan(share) else words.format(f"{share:.0%} of the rollouts")

    def is_easy(self) -> bool:
        return self.solves() and self.recent("without spread") >= EASY


def concerns(progress: Progress) -> list[Concern]:
    """Returns what there is to worry about after the last round, with the round since which it has been so."""
    values = _values(progress)
    found = []
    for name, check in CHECKS.items():
        rounds = len(progress.epochs)
        now = check(_upto(progress, values, rounds))
        if now is None:
            continue
        since = rounds
        while since > 1 and check(_upto(progress, values, since - 1)) is not None:
            since -= 1
        if rounds - since + 1 >= (1 if check in AT_ONCE else HELD):
            found.append(Concern(name=name, since=since, seen=now[0], remedy=now[1]))
    return found


def _upto(progress: Progress, values: dict[str, np.ndarray], rounds: int) -> _Seen:
    remarks = [reward.unrewarded for reward in progress.rewards[:rounds] if reward.unrewarded]
    validations = [report for report in progress.validations if report.round <= rounds]
    return _Seen(values, validations, rounds, remarks[-1] if remarks else None)


def _values(run: Progress) -> dict[str, np.ndarray]:
    rewards, epochs = run.rewards, run.epochs
    last = [applied[-1] if (applied := epoch.applied()) else None for epoch in epochs]
    return {
        "reward": _array(reward.reward_mean for reward in rewards),
        "spread": _array(reward.reward_std for reward in rewards),
        "solved": _array(reward.solved for reward in rewards),
        "without spread": _array(reward.frac_zero_std for reward in rewards),
        "judged": _array(reward.judged for reward in rewards),
        "empty": _array(reward.empty for reward in rewards),
        "truncated": _array(reward.truncated for reward in rewards),
        "distinct": _array(reward.distinct for reward in rewards),
        "shift": _array(step.shift_abs if step else None for step in last),
        "kl": _array(step.kl_ref if step else None for step in last),
        "gradient": _array(step.grad_norm if step else None for step in last),
        "surprise": _array(epoch.steps[0].nll if epoch.steps else None for epoch in epochs),
        "skipped": _array(sum(step.skipped for step in epoch.steps) / max(1, len(epoch.steps)) for epoch in epochs),
    }


def _array(values: Iterable[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], np.float64)


Found = tuple[str, str] | None  # what is seen, and what to try
Check = Callable[[_Seen], Found]


def _flat(seen: _Seen) -> Found:
    """By least squares with a 95 % interval that takes the rounds' errors for independent."""
    reward = seen.all("reward")
    if len(reward) < LEARNS or seen.is_easy():
        return None
    every = slope(reward)
    rise = f"{every.mean * len(reward):+.3f} ({every.low * len(reward):+.3f} to {every.high * len(reward):+.3f})"
    if every.low <= 0:
        return (
            f"the reward has not risen: {rise} over all {len(reward)} rounds",
            _lift(seen),
        )
    window, spread = reward[-TREND:], float(seen.all("spread")[-TREND:].mean())
    last = slope(window)
    if len(window) < TREND or last.high * TREND >= LITTLE * spread:
        return None
    return (
        f"the reward no longer rises: {last.mean * TREND:+.3f} ({last.low * TREND:+.3f} to {last.high * TREND:+.3f}) "
        f"over the last {TREND} rounds, where completions spread by {spread:.3f}",
        "lower distill.learning_rate, take other problems, or stop here: patience does so by the validations",
    )


def _lift(seen: _Seen) -> str:
    """What to try where a reward has not risen."""
    spread, solved = seen.recent("spread"), seen.recent("solved")
    said = ["raise distill.learning_rate or distill.inner_steps", "more rollouts a round show a smaller rise"]
    if spread < ALIKE:
        said.insert(
            0,
            f"the rewards of the last {RECENT} rounds spread by {spread:.3f} only, and one learns in proportion: "
            "set reward.scale_by_std, or weigh the parts that tell answers apart (weights)",
        )
    if solved < HARDLY_ANY:
        said.append("see that the base solves some problems at all")
    return "; ".join(said)


def _runaway(name: str, times: float, said: str, remedy: str) -> Check:
    def check(seen: _Seen) -> Found:
        values = seen.all(name)
        before, recent = values[-50 - RECENT : -RECENT], values[-RECENT:]
        if len(before) < RECENT or np.isnan(before).all() or np.isnan(recent).all():
            return None
        usual, now = float(np.nanmedian(before)), float(np.nanmedian(recent))
        if not now > times * usual > 0:
            return None
        return f"{said} is {now:.3g} in the last {RECENT} rounds, after {usual:.3g} before", remedy

    return check


def _surprise(wrong: Callable[[float, float], bool], said: str, remedy: str, matters: bool = False) -> Check:
    """Compares the surprise with that of the first rounds; where it matters, only while most rollouts fail."""

    def check(seen: _Seen) -> Found:
        surprise = seen.all("surprise")
        if len(surprise) <= RECENT or (matters and seen.solves()):
            return None
        first, now = float(surprise[:RECENT].mean()), seen.recent("surprise")
        if not wrong(now, first):
            return None
        beside = seen.with_solved(", with {} solved") if matters else ""
        return f"{said}: a token of its own surprises it by {now:.3g} nats, after {first:.3g} at first{beside}", remedy

    return check


def _share(name: str, wrong: Callable[[float], bool], said: str, remedy: str, solves: bool | None = None) -> Check:
    """Looks at a share; where `solves` is given, only while most rollouts are solved, or only while they are not."""

    def check(seen: _Seen) -> Found:
        value = seen.recent(name)
        if math.isnan(value) or not wrong(value) or solves not in (None, seen.solves()):
            return None
        beside = {None: "", True: ", since {} are solved", False: ", with {} solved"}[solves]
        return f"{value:.0%} {said}{seen.with_solved(beside)}", remedy

    return check


def _unjudged(seen: _Seen) -> Found:
    last, recent = seen.all("judged")[-1:], seen.recent("judged")
    if (last < HARDLY).any():
        what = f"{last[0]:.0%} of the completions of the last round"
    elif recent < JUDGED:
        what = f"{recent:.0%} of the completions of the last {RECENT} rounds"
    else:
        return None
    said = "" if seen.remark is None else f"; of one the domain says: {seen.remark!r:.200}"
    return (
        f"{what} have a reward, and the others teach nothing{said}",
        "see which part of the reward is None, by make check or in the log of reward_rollouts; None is only for what "
        "cannot be judged, and a wrong answer has a number",
    )


def _fallen(seen: _Seen) -> Found:
    """Twice in a row, and by more than both intervals together allow: one validation in twenty falls by chance."""
    if len(seen.validations) < 3:
        return None
    best = max(seen.validations[:-2], key=lambda report: report.solved.mean)
    last = seen.validations[-2:]
    for report in last:
        noise = math.hypot(best.solved.mean - best.solved.low, report.solved.high - report.solved.mean)
        if best.solved.mean - report.solved.mean <= noise:
            return None
    return (
        f"{last[0].solved.mean:.1%} and {last[1].solved.mean:.1%} of the validation problems are solved after rounds "
        f"{last[0].round} and {last[1].round}, after {best.solved.percent()} in round {best.round}",
        "stop here, since the best round is the one that is published (patience); next time lower "
        "distill.learning_rate, or distill.decay_after",
    )


def _by_heart(seen: _Seen) -> Found:
    """Twice in a row. A healthy policy solves less where it is sampled for rollouts than where it is validated."""
    last, solved = seen.validations[-2:], seen.all("solved")
    shares = [float(solved[: report.round][-RECENT:].mean()) for report in last if report.round >= RECENT]
    if len(shares) < 2 or not all(share > report.solved.high for share, report in zip(shares, last, strict=True)):
        return None
    return (
        f"{shares[1]:.0%} of the rollouts of training problems are solved, but {last[1].solved.percent()} of the "
        f"validation problems after round {last[1].round}",
        "give more training problems, since a policy learns few of them by heart, or stop here: the best round is the "
        "one that is published (patience); where the validation problems are harder ones, this is no fault",
    )


AT_ONCE = (_fallen, _by_heart, _unjudged)  # which ask for two validations, or for what is no accident

CHECKS: dict[str, Check] = {
    "no spread": _share(
        "without spread",
        lambda share: share >= NO_SPREAD,
        f"of the groups of the last {RECENT} rounds have equal rewards and teach nothing",
        "raise rollout.group_size or rollout.sampler.temperature, take easier problems or, for a tiny policy, a longer "
        "warm start (policy.warm_start.steps), or weigh a part of the reward that tells answers apart",
        solves=False,
    ),
    "problems solved": _share(
        "without spread",
        lambda share: share >= EASY,
        f"of the groups of the last {RECENT} rounds have equal rewards and teach nothing",
        "take harder problems, raise rollout.group_size, or stop here: patience does so by the validations",
        solves=True,
    ),
    "reward flat": _flat,
    "validation fell": _fallen,
    "learned by heart": _by_heart,
    "shift": _runaway(
        "shift",
        SHIFT,
        "the mean distance of a score from the old policy's",
        "lower distill.learning_rate, distill.inner_steps or distill.ema_decay, or set distill.objective.trust_region",
    ),
    "divergence": _runaway(
        "kl",
        SHIFT,
        "the divergence from the base",
        "lower distill.learning_rate, or raise the objective's weight of the reference",
    ),
    "gradient": _runaway(
        "gradient", GRADIENT, "the gradient's norm", "lower distill.learning_rate or distill.max_grad_norm"
    ),
    "policy too sure": _surprise(
        lambda now, first: now < SURE * first,
        "the policy hardly varies",
        "lower distill.learning_rate or distill.objective.guidance, set reference_weight, or raise "
        "rollout.sampler.temperature",
        matters=True,
    ),
    "policy too random": _surprise(
        lambda now, first: now > UNSURE * first,
        "the policy writes at random",
        "lower distill.learning_rate or rollout.sampler.temperature, or set distill.objective.trust_region",
    ),
    "completions alike": _share(
        "distinct",
        lambda share: share <= DISTINCT,
        f"of a group's completions of the last {RECENT} rounds are different ones",
        "raise rollout.sampler.temperature, or lower distill.learning_rate or distill.objective.guidance",
        solves=False,
    ),
    "completions empty": _share(
        "empty",
        lambda share: share > EMPTY,
        f"of the completions have no text in the last {RECENT} rounds",
        "look at the samples; weigh the part `format` of the reward, or start from a base that answers",
    ),
    "completions cut off": _share(
        "truncated",
        lambda share: share > TRUNCATED,
        f"of the completions ran out of tokens in the last {RECENT} rounds",
        "raise rollout.sampler.length, and evaluation.sampler.length with it",
    ),
    "not judged": _unjudged,
    "updates skipped": _share(
        "skipped",
        lambda share: share > SKIPPED,
        f"of the updates of the last {RECENT} rounds were skipped, being not finite",
        "lower distill.learning_rate, or distill.compute.precision: float32",
    ),
}
