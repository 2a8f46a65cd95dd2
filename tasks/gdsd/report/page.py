"""The report of a run: first what a reader decides by, then how it came about. Also the page of a run that goes on."""

import html
import re
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa

from tasks.gdsd.config import written
from tasks.gdsd.config.at_home import public
from tasks.gdsd.config.model_source import HubModel, ModelFolder
from tasks.gdsd.records import Decision, Progress
from tasks.gdsd.report import answers, curves, outcome, training
from tasks.gdsd.report.style import Tile, document, table_html, tiles
from tasks.gdsd.run import health
from tasks.gdsd.run.costs import HOUR, money
from tasks.gdsd.run.provenance import IN_CHECKOUT, MAIN, Provenance
from tasks.gdsd.run.run_record import RunRecord

RELOAD = 30  # seconds after which the page of a run that goes on is loaded anew
_HERE = re.compile('<pre data-elsewhere="([^"]*)">[^<]*</pre>')


def render(record: RunRecord, samples: pa.Table, origin: Provenance) -> str:
    """Returns the page. Everything that comes from data, configuration or environment is escaped."""
    name = html.escape(record.config.name)
    return document(
        f"{record.config.name}: GDSD run",
        [
            f"<h1>{name}</h1><p class='sub'>{html.escape(_subtitle(record))}</p>",
            "<div class='top'>",
            tiles(_tiles(record)),
            curves.headline(record.progress(), record.base, record.trained),
            "</div>",
            training.concerns_html([concern.said() for concern in health.concerns(record.progress())]),
            outcome.fall_back(record),
            "<h2>Outcome</h2>",
            outcome.table(record),
            outcome.guards(record.decision),
            f"<p>{html.escape(outcome.protocol(record))}</p>",
            "<h2>Training, by round</h2>",
            f"<p>{html.escape(_policy(record))}</p>",
            f"<div class='panels'>{_panels(record)}</div>",
            outcome.rollouts(record),
            outcome.drift(record),
            "<h2>Time and cost</h2>",
            _costs(record),
            "<h2>Answers before and after</h2>",
            answers.section(samples, record.trained.protocol.domain),
            "<h2>Data quality</h2>",
            f"<p>{record.prompts.checks} expectations on the prompts; {record.prompts.near_duplicates} problems were "
            f"left out, since they are nearly those of another split, and {record.prompts.unusable} unusable rows; "
            f"{record.policy.unusable} problems leave no room for an answer or have characters that the policy lacks. "
            f"Warnings: {html.escape(_warnings(record))}.</p>",
            "<h2>Where it came from</h2>",
            _origin(record, origin),
            "<details><summary>Configuration</summary>",
            "<p>Folders, trackers and the hub are named in <code>config.yaml</code> alone; this page goes out.</p>",
            f"<pre>{html.escape(written.write(public(record.config.model_dump(mode='json'))))}</pre>",
            "</details><details><summary>All packages</summary>",
            table_html("Installed when the report was written", ["package", "version"], origin.packages.items()),
            "</details>",
        ],
    )


def progress_page(
    name: str,
    rounds: int,  # that the run is to have
    run: Progress,
    drawn_unix_seconds: float,
    live: bool,  # whether it is drawn anew in the same place; otherwise it is a Deck
    concerns: Sequence[tuple[str, str]] = (),  # what is wrong, and what to try
    times: str = "",  # what a round takes, and the rest
) -> str:
    """Returns the page of a run after some of its rounds; drawing takes well under a second.

    Where it is live, a browser loads it anew, and the page of `ended_page` takes its place if the run has a report.
    """
    title = f"{name}: round {len(run.epochs)} of {rounds}"
    last = f"reward {run.rewards[-1].reward_mean:.3f}" if run.rewards else "no reward yet"
    if run.validations:
        found = run.validations[-1]
        last += f", {found.solved.percent()} of the validation problems solved after round {found.round}"
    drawn = f"Drawn on {datetime.fromtimestamp(drawn_unix_seconds, UTC):%Y-%m-%d at %H:%M:%S} UTC."
    if live:
        drawn += (
            f" The page loads itself anew every {RELOAD} s, and leads to the run's report as soon as that is there. "
            "Runs of a comparison have no reports of their own, so their pages stay. A page that stays as it is for "
            "many rounds is of a run that has ended, has failed or was stopped."
        )
    else:
        drawn += " The run's report will be the Deck of `report_run`."
    return document(
        title,
        [
            f"<h1>{html.escape(title)}</h1><p class='sub'>{html.escape(last)}. {html.escape(times)}</p>",
            f"<p class='sub'>{drawn}</p>",
            training.concerns_html(concerns),
            curves.headline(run),
            "<h2>Training, by round</h2>",
            f"<div class='panels'>{curves.draw(training.panels(run))}</div>",
        ],
        refresh=str(RELOAD) if live else "",
    )


def ended_page(name: str, report: str) -> str:
    """Returns what takes the place of a run's page at its end, and leads to the report at a relative address."""
    address, title = html.escape(report), f"{name}: ended"
    return document(
        title,
        [f"<h1>{html.escape(title)}</h1><p>Its <a href='{address}'>report</a> is there.</p>"],
        refresh=f"0; url={report}",
    )


def _subtitle(record: RunRecord) -> str:
    rollouts = record.config.rollout.prompts_per_round * record.config.rollout.group_size
    rounds = len(record.epochs)
    early = "" if (why := record.stopped()) is None else f", stopped {why}"
    return (
        f"{record.config.distill.objective.name} on {record.trained.protocol.domain.name}, {rounds} "
        f"{'round' if rounds == 1 else 'rounds'} of {rollouts} rollouts, a policy of {record.policy.parameters:,} "
        f"parameters, {_when(record.began_unix_seconds)}{early}"
    )


def _when(unix_seconds: float) -> str:
    return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _tiles(record: RunRecord) -> list[Tile]:
    """Whether it got better, by how much, how sure that is, and at what cost."""
    base, trained, decision, costs = record.base, record.trained, record.decision, record.stage_costs()
    answer, devices = record.answer(), sorted({cost.device for cost in costs if cost.device})
    solved, reward = decision.solved_difference, decision.reward_difference
    hours = f"{_hours(sum(cost.device_seconds for cost in costs))} device-hours of work"
    more = [f"{hours} on {', '.join(devices)}" if devices else hours]
    if (paid := money(costs)) is not None:
        more.append(f"{paid:.2f} at the configured prices")
    if (beyond := record.overhead()) is not None:
        more.append(f"{beyond.share:.0%} of a round was overhead")
    return [
        Tile("Did it get better?", _sentence(answer.words), f"{_sentence(decision.verdict())}.", answer.tone),
        Tile(
            "By how much?",
            f"{reward.mean:+.3f} reward" if answer.by_reward else f"{100 * solved.mean:+.1f} points",
            f"{100 * base.solved.mean:.1f} % of {trained.protocol.problems} test problems solved before, "
            f"{100 * trained.solved.mean:.1f} % after; reward {base.reward.mean:.3f} and {trained.reward.mean:.3f}.",
        ),
        Tile("How sure?", *_sure(decision, answer.by_reward)),
        Tile("At what cost?", span(sum(cost.seconds for cost in costs)), f"{'; '.join(more)}."),
    ]


def _sure(decision: Decision, by_reward: bool) -> tuple[str, str]:
    """Returns the interval of what the answer goes by, and in a sentence that of the other."""
    solved, reward = decision.solved_difference, decision.reward_difference
    found = [
        ("solved problems", f"{100 * solved.low:+.1f} to {100 * solved.high:+.1f}"),
        ("reward", f"{reward.low:+.3f} to {reward.high:+.3f}"),
    ]
    (kind, shown), (other, beside) = reversed(found) if by_reward else found
    return shown, (
        f"{100 * decision.confidence:g} % interval of the gain in {kind}, paired by problem; in {other} it is {beside}."
        " Of this one run: another seed ends elsewhere."
    )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}"


def span(seconds: float) -> str:
    """Writes a time as short as it can be read."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"


def _hours(seconds: float) -> str:
    return f"{seconds / HOUR:.3g}" if seconds >= HOUR / 1000 else "under 0.001"


def _panels(record: RunRecord) -> str:
    panels = training.panels(record.progress(), record.base, record.trained)
    times = record.round_times()
    rounds = [epoch.round for epoch in record.epochs]
    overhead = curves.Line("", rounds, [None if timed is None else timed.share for timed in times])
    said = "Share of its seconds in which no task of it was at work: starts, imports, loads, transfers, waiting."
    return curves.draw([*panels, curves.Panel("Overhead of a round", [overhead], said, percent=True)])


def _policy(record: RunRecord) -> str:
    return (
        f"Policy: {record.policy.parameters:,} parameters. Training prompts have "
        f"{record.policy.prompt_tokens_mean:.0f} tokens on average and {record.policy.prompt_tokens_longest} at most. "
        "Numbers beside the names are the last round's."
    )


def _costs(record: RunRecord) -> str:
    costs = record.stage_costs()
    total = sum(cost.seconds for cost in costs)
    paid = money(costs)
    head = ["stage", "device", "seconds", "share", "device-hours", "tokens/s", *(["cost"] if paid is not None else [])]
    rows: list[list[str]] = [
        [
            cost.stage,
            cost.device or "not recorded",
            f"{cost.seconds:.1f}",
            f"{cost.seconds / total:.0%}",
            _hours(cost.device_seconds),
            f"{cost.tokens / cost.seconds:,.0f}" if cost.tokens else "",
            *([] if paid is None else ["" if cost.money is None else f"{cost.money:.2f}"]),
        ]
        for cost in costs
    ]
    everything = _hours(sum(cost.device_seconds for cost in costs))
    rows.append(["all", "", f"{total:.1f}", "", everything, "", *([] if paid is None else [f"{paid:.2f}"])])
    beyond = record.overhead()
    if beyond is None:
        said = (
            "What rounds take beyond this work is not known: each was the first, followed a validation, or came from "
            "the cache."
        )
    else:
        said = (
            f"Starts of processes, imports, loads, transfers and waiting are {beyond}. Rounds after a validation and "
            "from the cache were not timed."
        )
    return (
        f"{table_html('What each stage took', head, rows)}<p>Device-hours count each machine of those that work at "
        f"the same time. {said} What came from the cache is counted with what it took when it was made.</p>"
    )


def _warnings(record: RunRecord) -> str:
    return "; ".join(record.warnings()) or "none"


def _origin(record: RunRecord, origin: Provenance) -> str:
    source, execution = origin.source, origin.execution
    checkout = "no checkout" if source is None else source.commit
    if source is not None and not source.clean:
        checkout += ", with changes that are not committed"
    rows = [
        ["began", _when(record.began_unix_seconds)],
        ["sources, SHA-256", origin.sources_sha256],
        ["git commit", checkout],
        *_model(record.config.policy.model),
        ["base, SHA-256", origin.base_sha256 or "not recorded"],
        ["published policy, SHA-256", origin.policy_sha256],
        ["published policy as another run's model, SHA-256", origin.policy_pin],
        ["problems, SHA-256", record.trained.protocol.prompts_sha256],
        ["report by", f"Python {origin.python}, {origin.platform}, {origin.cpus} cores"],
        ["packages", ", ".join(f"{name} {origin.packages[name]}" for name in MAIN if name in origin.packages)],
    ]
    if execution is None:
        rows.append(["execution", "on one machine, without a cluster"])
    else:
        rows += [
            ["execution", f"{execution.name} in {execution.project}, {execution.domain}"],
            ["image", (execution.image or "not known").rpartition("/")[2]],  # the page goes out, and no registry's name
            ["workflow version", execution.version or "not known"],
        ]
    if record.policy.parent is not None:  # `train` would begin with the configured policy instead
        repeat = (
            f"<p>It began with an earlier policy, SHA-256 {html.escape(record.policy.parent)}. To repeat it, "
            "<code>retrain</code> with the same configuration and <code>--kickoff_time</code>, from a registry whose "
            "champion is that policy.</p>"
        )
    else:
        sources = (
            "" if source is None else f", with the sources of <code>git checkout {html.escape(source.commit)}</code>"
        )
        where = (
            "" if execution is None else ", in a checkout and with the <code>config.yaml</code> of this run's folder"
        )
        here = f' data-elsewhere="{html.escape(IN_CHECKOUT)}"' if execution is None else ""
        repeat = f"<p>To repeat it{sources}{where}:</p><pre{here}>{html.escape(origin.command)}</pre>"
    return table_html("What the run was made of", [], rows) + repeat


def _model(source: HubModel | ModelFolder | None) -> list[list[str]]:
    """The row of the model that a configuration names, by the pin that the run which made it has of its policy."""
    match source:
        case HubModel():
            return [["configured model", f"{source.hub} at {source.revision}"]]
        case ModelFolder():
            return [["configured model, SHA-256", source.sha256]]
    return []


def elsewhere(page: str) -> str:
    """Returns a page for those who read it on another machine: its command names no folder of this one."""
    return _HERE.sub(r"<pre>\1</pre>", page)
