"""The page, figure and tables of a comparison."""

import html
import io
from pathlib import Path

from tasks.gdsd import tables
from tasks.gdsd.records import Tuning
from tasks.gdsd.report.style import as_yaml, document, table_html, table_markdown
from tasks.gdsd.run.comparison import ComparisonRecord, points

HEAD = ["objective", "learning rate", "reward, %", "area, %", "worst drop", "end below best", "solved, %", "seconds"]
TRIED = ["objective", "learning rate", "seed", "reward at the end, validation", "choice"]
FIGURE = "Mean reward on the test problems by round"
FILES = {"report": "report.html", "figure": "curves.svg", "numbers": "curves.parquet", "table": "table.md"}


def write(folder: Path, record: ComparisonRecord) -> str:
    """Writes report.html, curves.svg, curves.parquet, table.md, config.yaml and comparison.json; returns the page."""
    drawing = curves(record)
    page = render(record, drawing)
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "curves.svg").write_text(drawing, encoding="utf-8")
    (folder / "table.md").write_text(f"{table_markdown(HEAD, rows(record))}\n", encoding="utf-8")
    tables.write(points(record), tables.CURVES, folder / "curves.parquet")
    (folder / "config.yaml").write_text(as_yaml(record.config), "utf-8")
    (folder / "comparison.json").write_text(record.model_dump_json(indent=2) + "\n", "utf-8")
    return page


def rows(record: ComparisonRecord) -> list[list[str]]:
    """Returns the cells of the table under `HEAD`, the best contestant first."""
    return [
        [
            standing.contestant,
            f"{standing.learning_rate:g}",
            standing.reward.percent(),
            standing.area.percent(),
            f"{100 * standing.worst_drop:.1f}",
            f"{100 * standing.final_drop:.1f}",
            standing.solved.percent(),
            f"{standing.seconds:.0f}",
        ]
        for standing in record.standings()
    ]


def summary(record: ComparisonRecord) -> str:
    """Returns the last lines of a comparison: who came where."""
    cells = [HEAD, *rows(record)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(["", *lines, "", _protocol(record)])


def _protocol(record: ComparisonRecord) -> str:
    config, base, protocol = record.config, record.base, record.base.protocol
    rollouts = config.rollout.prompts_per_round * config.rollout.group_size
    parts = [
        f"base: reward {base.reward.percent()}, solved {base.solved.percent()}",
        f"{len(config.seeds)} seeds, {config.rounds} rounds of {rollouts} rollouts",
        f"{protocol.problems} {protocol.domain.name} test problems, temperature {protocol.sampler.temperature:g}"
        f"{protocol.by_engine()}",
        "95 % Student t intervals over seeds",
    ]
    if config.rollout.engine.drift is not None:
        parts.append(f"rollouts by {config.rollout.engine.root.name}, {_given_up(record)}")
    if config.tuning is not None:
        parts.append(f"learning rates out of {len(config.tuning.factors)} by validation problems")
    return "; ".join(parts)


def _given_up(record: ComparisonRecord) -> str:
    """Says which runs went back to the exact engine."""
    runs = [series for tuning in record.tunings for series in tuning.series] + record.series
    ends = [
        f"{series.contestant} at {series.learning_rate:g}, seed {series.seed}, from round {drift.round} on"
        for series in runs
        for drift in series.drifts
        if drift.fell_back
    ]
    return f"but exact, because of drift, in {', '.join(ends)}" if ends else "which no run gave up"


def render(record: ComparisonRecord, drawing: str) -> str:
    """Returns the page. Everything that comes from data or configuration is escaped."""
    tuned = [
        [
            run.contestant,
            f"{run.learning_rate:g}",
            str(run.seed),
            run.reports[-1].reward.percent(),
            _remark(tuning, run.learning_rate),
        ]
        for tuning in record.tunings
        for run in tuning.series
    ]
    title = html.escape(record.config.name)
    named = drawing.replace("<svg", f"<svg role='img' aria-label='{FIGURE}'", 1)
    return document(
        f"{record.config.name}: comparison of objectives",
        [
            f"<h1>{title}</h1>",
            table_html("What each objective reached on the test problems", HEAD, rows(record)),
            f"<p>{html.escape(_protocol(record))}. "
            "Reward and solved are after the last round, area is the mean height of the reward's curve; drops are the "
            "worst seed's.</p>",
            f"<figure class='printed'><figcaption><b>{FIGURE}</b><small>Strong lines are means over seeds, thin ones "
            f"single seeds.</small></figcaption>{named}</figure>",
            *(["<h2>Learning rates</h2>", table_html("What was tried, and chosen", TRIED, tuned)] if tuned else []),
            "<h2>Configuration</h2>",
            f"<pre>{html.escape(as_yaml(record.config))}</pre>",
        ],
    )


def _remark(tuning: Tuning, rate: float) -> str:
    """Says which rate was chosen, and whether a better one may lie outside the grid."""
    rates = [series.learning_rate for series in tuning.series]
    if rate != tuning.distill.learning_rate:
        return ""
    return "chosen, at the edge of the grid" if rate in (min(rates), max(rates)) else "chosen"


def curves(record: ComparisonRecord) -> str:
    """Draws reward against rounds: each contestant's mean over seeds, and its seeds thinly."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    palette = matplotlib.colormaps["tab20"]
    for index, standing in enumerate(record.standings()):
        runs = [record.curve(series) for series in record.runs(standing.contestant)]
        colour = palette((2 * index + index // 10) % 20)  # the ten strong colours first
        rounds = [at for at, _ in runs[0]]
        for run in runs:
            axes.plot(rounds, [100 * height for _, height in run], color=colour, lw=0.5, alpha=0.5)
        means = [100 * sum(run[at][1] for run in runs) / len(runs) for at in range(len(rounds))]
        axes.plot(rounds, means, "o-", color=colour, ms=3, label=standing.contestant)
    axes.set(xlabel="round", ylabel="mean reward on test problems, %")
    axes.legend(loc="upper left")
    buffer = io.StringIO()
    # A fixed salt and no date: the same comparison gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "gdsd"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :]  # without the XML prologue, which has no place inside HTML
