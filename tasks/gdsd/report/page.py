"""The run report: what happened, how sure, at what cost, answers before and after; one self-contained page."""

import html

import pyarrow as pa
import yaml

from tasks.gdsd.records import Decision, DriftStats, Estimate, EvalReport, RewardStats
from tasks.gdsd.report import curves
from tasks.gdsd.report.style import STYLE, table_html
from tasks.gdsd.report.training import panels
from tasks.gdsd.run_record import RunRecord

SHOWN = 12  # answers in the page; samples.parquet has all
ROOM = 600  # characters of a text in the page, likewise


def render(record: RunRecord, samples: pa.Table) -> str:
    """Returns the page. Everything that comes from data or configuration is escaped."""
    decision, config = record.decision, record.config
    seconds = record.stage_seconds()
    total = sum(seconds.values())
    verdict = "Promoted" if decision.promoted else "Not promoted"
    protocol = record.trained.protocol
    return "\n".join(
        [
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
            "<meta name='viewport' content='width=device-width, initial-scale=1'>",
            f"<title>{html.escape(config.name)}: GDSD run</title><style>{STYLE}</style></head><body>",
            f"<h1>{html.escape(config.name)}</h1>",
            f"<p class='headline'><b>{verdict}</b>: {record.base.solved.percent()} solved before, "
            f"{record.trained.solved.percent()} after, a gain of {decision.solved_difference.points()} points, "
            f"in {total:.0f} s of work.</p>",
            f"<p>{html.escape(decision.reason)}.</p>",
            _fall_back(record),
            _outcome(record),
            _guards(decision),
            f"<p>{protocol.problems} {html.escape(protocol.domain.name)} problems, {_times(protocol.samples)}; "
            f"{protocol.sampler.length} tokens, {protocol.sampler.steps_per_block} steps per block of "
            f"{protocol.sampler.block_length}, temperature {protocol.sampler.temperature:g}, seed {protocol.seed}"
            f"{protocol.by_engine()}; "
            f"intervals at 95 %, the difference paired by problem at {100 * decision.confidence:g} %.</p>",
            f"<p>Policy: {record.policy.parameters:,} parameters. Training prompts have "
            f"{record.policy.prompt_tokens_mean:.0f} tokens on average and {record.policy.prompt_tokens_longest} at "
            "most.</p>",
            "<h2>Training</h2>",
            _curves(record),
            _rollouts(record),
            _drift(record),
            "<h2>Time</h2>",
            table_html(
                ["stage", "seconds", "share"],
                [[stage, f"{value:.1f}", f"{value / total:.0%}"] for stage, value in seconds.items()],
            ),
            _overhead(record),
            "<h2>Answers before and after</h2>",
            _answers(samples),
            "<h2>Data quality</h2>",
            f"<p>{record.prompts.checks} expectations on the prompts; {record.prompts.near_duplicates} problems were "
            f"left out, being nearly those of another split, and {record.prompts.unusable} rows, which cannot be "
            f"judged. Warnings: {html.escape(_warnings(record))}.</p>",
            "<h2>Configuration</h2>",
            f"<pre>{html.escape(yaml.safe_dump(config.model_dump(mode='json'), sort_keys=False))}</pre>",
            "</body></html>",
        ]
    )


def _times(samples: int) -> str:
    return "each answered once" if samples == 1 else f"each answered {samples} times"


def _outcome(record: RunRecord) -> str:
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


def _guards(decision: Decision) -> str:
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


def _rollouts(record: RunRecord) -> str:
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


def _fall_back(record: RunRecord) -> str:
    """The banner of a run that did not keep the engine that it was asked to use."""
    if (end := record.fall_back()) is None:
        return ""
    return (
        f"<p class='warning'><b>The rollout engine {end.engine} was given up in round {end.round}</b>, from which on "
        f"the exact engine made the rollouts: {html.escape(end.reason)}.</p>"
    )


def _drift(record: RunRecord) -> str:
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


def _overhead(record: RunRecord) -> str:
    """What rounds take beyond their work, and what size of a round that asks for."""
    found = record.overhead()
    if found is None:
        return (
            "<p>What rounds take beyond this work is not known: each was the first, followed a validation, or came "
            "from the cache.</p>"
        )
    return (
        f"<p>Starts of processes, imports, loads, transfers and waiting are {found}. Rounds after a validation and "
        "from the cache were not timed.</p>"
    )


def _warnings(record: RunRecord) -> str:
    return ", ".join(f"{name} in {count} tables" for name, count in record.warnings().items()) or "none"


def _answers(samples: pa.Table) -> str:
    """A few answers: the ones that changed most, either way, then unchanged ones."""
    rows = samples.to_pylist()
    rows.sort(key=lambda row: -abs((row["trained_reward"] or 0.0) - (row["base_reward"] or 0.0)))
    names = ["problem", "reference", "base_completion", "base_reward", "trained_completion", "trained_reward"]
    cells = [[_cell(row[name]) for name in names] for row in rows[:SHOWN]]
    return table_html([name.replace("_", " ") for name in names], cells)


def _cell(value: str | float | None) -> str:
    if value is None:
        return "not judged"
    if isinstance(value, str):
        return value if len(value) <= ROOM else f"{value[:ROOM]} [...]"
    return f"{value:.2f}"


def _curves(record: RunRecord) -> str:
    """All figures of the rounds."""
    return f"<div class='panels'>{curves.draw(panels(record.rewards, record.epochs, record.validations))}</div>"
