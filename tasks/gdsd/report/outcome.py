"""What a run came to, and how its rollouts were made: tables and sentences of the report."""

import html

from tasks.gdsd.records import Decision, DriftStats, Estimate, EvalReport, RewardStats
from tasks.gdsd.report.style import table_html
from tasks.gdsd.run.run_record import RunRecord


def table(record: RunRecord) -> str:
    """What base and trained policy reach on the test problems."""
    base, trained, decision = record.base, record.trained, record.decision
    rows = [
        ["solved, %", base.solved.percent(), trained.solved.percent(), decision.solved_difference.points()],
        *(
            [f"pass@{k}, %", before.percent(), after.percent(), difference.points()]
            for k, before, after, difference in record.pass_at()
        ),
        [
            "reward",
            _interval(base.reward),
            _interval(trained.reward),
            _signed(decision.reward_difference),
        ],
        *([f"reward: {name}", _mean(value), _mean(trained.parts[name]), ""] for name, value in base.parts.items()),
        *([words, f"{before:.1%}", f"{after:.1%}", ""] for words, before, after in _shares(base, trained)),
    ]
    return table_html(["test problems", "base", f"trained (round {trained.round})", "difference"], rows)


def guards(decision: Decision) -> str:
    """What both policies reach on the guarded problems, if there are any."""
    if not decision.guards:
        return ""
    head = ["guard", "problems", "base solved, %", "trained solved, %", "difference", "tolerated", ""]
    rows = [
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
    return table_html(head, rows)


def rollouts(record: RunRecord) -> str:
    """The rewards of the first and the last round's rollouts."""
    first, last = record.rewards[0], record.rewards[-1]
    rows = [
        ["reward", f"{first.reward_mean:.3f}", f"{last.reward_mean:.3f}"],
        *([f"reward: {name}", _mean(value), _mean(last.parts[name])] for name, value in first.parts.items()),
        ["solved", f"{first.solved:.1%}", f"{last.solved:.1%}"],
        ["groups without spread", f"{first.frac_zero_std:.1%}", f"{last.frac_zero_std:.1%}"],
        *([words, f"{before:.1%}", f"{after:.1%}"] for words, before, after in _shares(first, last)),
    ]
    return table_html(["rollouts", "round 1", f"round {len(record.rewards)}"], rows)


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

    def agreement(drift: DriftStats) -> float:
        return drift.agreement.mean if drift.agreement is not None else 1.0

    def gap(drift: DriftStats) -> float:
        return abs(drift.reward_gap.mean) if drift.reward_gap is not None else 0.0

    shown = [
        ("first", rounds[0]),
        ("least agreement", min(rounds, key=agreement)),
        ("largest difference", max(rounds, key=gap)),
        ("last", rounds[-1]),
    ]
    head = ["before the rollouts of", "round", "equal tokens, %", "reward, exact", "difference", "positions computed"]
    rows = [
        [
            words,
            str(drift.round),
            "" if drift.agreement is None else drift.agreement.percent(),
            _mean(drift.exact_reward),
            "not judged" if drift.reward_gap is None else _signed(drift.reward_gap),
            f"{drift.positions / drift.exact_positions:.0%}",
        ]
        for words, drift in shown
    ]
    return (
        f"<p>Rollouts by the engine {rounds[0].engine}, against the exact engine on {rounds[0].completions} "
        f"completions from the same random numbers:</p>{table_html(head, rows)}"
    )


def _shares(first: EvalReport | RewardStats, last: EvalReport | RewardStats) -> list[tuple[str, float, float]]:
    return [
        ("judged", first.judged, last.judged),
        ("without text", first.empty, last.empty),
        ("ran out of tokens", first.truncated, last.truncated),
    ]


def _interval(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _signed(estimate: Estimate) -> str:
    return f"{estimate.mean:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def _mean(value: float | None) -> str:
    return "not judged" if value is None else f"{value:.3f}"


def protocol(record: RunRecord) -> str:
    """Says how the numbers came about."""
    found = record.trained.protocol
    times = "each answered once" if found.samples == 1 else f"each answered {found.samples} times"
    return (
        f"{found.problems} {found.domain.name} problems, {times}; {found.sampler.length} tokens, "
        f"{found.sampler.steps_per_block} steps per block of {found.sampler.block_length}, temperature "
        f"{found.sampler.temperature:g}, seed {found.seed}{found.by_engine()}; intervals at 95 %, the difference "
        f"paired by problem at {100 * record.decision.confidence:g} %."
    )
