"""What a run came to, and how its rollouts were made: tables and sentences of the report."""

import html

from tasks.gdsd.records import Decision, EvalReport, RewardStats
from tasks.gdsd.report.style import table_html
from tasks.gdsd.run.run_record import RunRecord


def reached(record: RunRecord) -> list[list[str]]:
    """Returns the rows of what base and trained policy reach on the test problems, and the difference."""
    base, trained, decision = record.base, record.trained, record.decision
    return [
        ["solved, %", base.solved.percent(), trained.solved.percent(), decision.solved_difference.points()],
        *([f"pass@{k}, %", old.percent(), new.percent(), gain.points()] for k, old, new, gain in record.pass_at()),
        ["reward", str(base.reward), str(trained.reward), decision.reward_difference.signed()],
    ]


def table(record: RunRecord) -> str:
    """What base and trained policy reach on the test problems."""
    base, trained = record.base, record.trained
    rows = [
        *reached(record),
        *([f"reward: {name}", _mean(value), _mean(trained.parts[name]), ""] for name, value in base.parts.items()),
        *([words, f"{before:.1%}", f"{after:.1%}", ""] for words, before, after in _shares(base, trained)),
    ]
    head = ["test problems", "base", f"trained (round {trained.round})", "difference"]
    return table_html("What the policy reached before training, as the base, and after it", head, rows)


GUARDS = ["guard", "problems", "base solved, %", "trained solved, %", "difference", "tolerated", "outcome"]


def guards(decision: Decision) -> str:
    """What must not get worse; nothing where nothing is guarded."""
    said = "Guards: problems of which the trained policy must not solve fewer than the base, but for what is tolerated"
    return table_html(said, GUARDS, guarded(decision)) if decision.guards else ""


def guarded(decision: Decision) -> list[list[str]]:
    """Returns the rows under `GUARDS`: what both policies reach on the guarded problems."""
    return [
        [
            guard.name,
            f"{guard.base.protocol.problems} {guard.base.protocol.domain.name}",
            guard.base.solved.percent(),
            guard.trained.solved.percent(),
            guard.difference.points(),
            f"{-100 * guard.tolerance:+g}",
            "holds" if guard.held else "fails",
        ]
        for guard in decision.guards
    ]


def rollouts(record: RunRecord) -> str:
    """The rewards of the first and the last round's rollouts."""
    first, last = record.rewards[0], record.rewards[-1]
    rows = [
        ["reward", f"{first.reward_mean:.3f}", f"{last.reward_mean:.3f}"],
        *([f"reward: {name}", _mean(value), _mean(last.parts[name])] for name, value in first.parts.items()),
        ["solved", *("not known" if share is None else f"{share:.1%}" for share in (first.solved, last.solved))],
        ["groups without spread, all rewards equal", f"{first.frac_zero_std:.1%}", f"{last.frac_zero_std:.1%}"],
        *([words, f"{before:.1%}", f"{after:.1%}"] for words, before, after in _shares(first, last)),
    ]
    caption = "The first and the last round's rollouts"
    return table_html(caption, ["rollouts", "round 1", f"round {len(record.rewards)}"], rows)


def fall_back(record: RunRecord) -> str:
    """The banner of a run that did not keep the engine that it was asked to use."""
    if (end := record.fall_back()) is None:
        return ""
    return (
        f"<p class='warning'><b>The rollout engine {end.engine} was given up in round {end.round}</b>, from which on "
        f"the exact engine made the rollouts: {html.escape(end.reason)}.</p>"
    )


def drift(record: RunRecord) -> str:
    """How far an approximate engine was from the exact one: the rounds that say most."""
    rounds = record.measured()
    if not rounds:
        return ""

    agreements = {drift.round: drift.agreement.mean for drift in rounds if drift.agreement is not None}
    gaps = {drift.round: abs(drift.reward_gap.mean) for drift in rounds if drift.reward_gap is not None}
    shown = [
        ("first", rounds[0]),
        ("least agreement", min(rounds, key=lambda drift: agreements[drift.round])),
        ("largest difference", max(rounds, key=lambda drift: gaps.get(drift.round, 0.0))),
        ("last", rounds[-1]),
    ]
    head = ["before the rollouts of", "round", "equal tokens, %", "reward, exact", "difference", "positions computed"]
    rows = [
        [
            words,
            str(drift.round),
            "" if drift.agreement is None else drift.agreement.percent(),
            _mean(drift.exact_reward),
            "not judged" if drift.reward_gap is None else drift.reward_gap.signed(),
            f"{drift.positions / drift.exact_positions:.0%}",
        ]
        for words, drift in shown
    ]
    return (
        f"<p>Rollouts by the engine {rounds[0].engine}, against the exact engine on {rounds[0].completions} "
        "completions from the same random numbers. The difference is in the mean reward. Positions computed are tokens "
        "that went through the network, in % of the exact engine's.</p>"
        f"{table_html('How far the rollout engine was from the exact one', head, rows)}"
    )


def _shares(first: EvalReport | RewardStats, last: EvalReport | RewardStats) -> list[tuple[str, float, float]]:
    return [
        ("judged", first.judged, last.judged),
        ("without text", first.empty, last.empty),
        ("ran out of tokens", first.truncated, last.truncated),
    ]


def _mean(value: float | None) -> str:
    return "not judged" if value is None else f"{value:.3f}"


def protocol(record: RunRecord) -> str:
    """Says how the numbers came about."""
    found = record.trained.protocol
    sampler, times = found.sampler, "once" if found.samples == 1 else f"{found.samples} times"
    chance = "pass@k is the chance that one of k answers is right. " if record.pass_at() else ""
    return (
        "Solved is the share of right answers among those of which is known whether they are right. Judged are the "
        f"answers that have a reward, and the reward is the mean over these; a part is the mean where it has a number. "
        f"{chance}"
        f"{found.problems} {found.domain.name} problems, each answered {times}; {sampler.length} tokens in blocks of "
        f"{sampler.block_length}, {sampler.steps_per_block} steps a block, temperature {sampler.temperature:g}, seed "
        f"{found.seed}{found.by_engine()}. Intervals are at 95 % over the problems, that of the difference paired by "
        f"problem at {100 * record.decision.confidence:g} %."
    )
