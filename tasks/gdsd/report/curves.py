"""The figures: curves over the rounds, as SVG that takes its colours from the page."""

import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.gdsd.records import Estimate, EvalReport, Progress

if TYPE_CHECKING:  # takes half a second to import
    from matplotlib.axes import Axes

# What is drawn in these colours is given those of the page, see `style`.
INK, GRID, FIRST, SECOND, GOOD = "#010101", "#010102", "#010103", "#010104", "#010105"
PAGE = {
    INK: "currentColor",
    GRID: "var(--line)",
    FIRST: "var(--a)",
    SECOND: "var(--b)",
    GOOD: "var(--good)",
}


@dataclass(frozen=True)
class Line:
    """Values by round under a name; None where there is none."""

    name: str
    rounds: Sequence[int]
    values: Sequence[float | None]
    intervals: Sequence[Estimate] = ()  # of the same rounds, where they are known
    share: bool = False  # whether it is written in percent

    def known(self) -> list[tuple[int, float]]:
        """Returns the points that there are."""
        return [(at, value) for at, value in zip(self.rounds, self.values, strict=True) if value is not None]


@dataclass(frozen=True)
class Panel:
    """One small figure: up to two lines that share an axis."""

    title: str  # no other of the page has it
    lines: Sequence[Line]
    meaning: str = ""  # of the title's words, for a reader who meets them here
    percent: bool = False  # whether the axis is, from 0 to 100
    whole: bool = False  # whether the axis shows all from 0 to 1, for shares that stand beside rewards
    level: tuple[str, float] | None = None  # what to compare with
    mark: tuple[str, int, Estimate] | None = None  # what the best round is called, its number, and what it came to


def headline(run: Progress, base: EvalReport | None = None, best: EvalReport | None = None) -> str:
    """Draws what the run was for: the solved share at each validation, and the reward of the rollouts.

    Args:
        base: what the base reaches on the test problems.
        best: what the published round reaches on them.
    """
    rewards = [reward.reward_mean for reward in run.rewards]
    rounds, solved = [report.round for report in run.validations], [report.solved for report in run.validations]
    panel = Panel(
        "Reward and solved problems",
        [
            Line("reward of rollouts", range(1, len(rewards) + 1), rewards),
            Line("solved, validation", rounds, [share.mean for share in solved], solved, share=True),
        ],
        "By round. Rollouts are the completions that the model writes for training: those of a round before its "
        "updates. A validation is after them. Vertical lines are 95 % intervals.",
        whole=True,
        level=None if base is None else ("base, test", base.solved.mean),
        mark=None if best is None else (f"round {best.round}, test", best.round, best.solved),
    )
    return draw([panel], width=4.4, height=2.0)


def draw(panels: Iterable[Panel], width: float = 3.1, height: float = 1.45) -> str:
    """Returns the figures of the panels that have points, each of its own, so that a phone can stack them."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    shown = [panel for panel in panels if any(line.known() for line in panel.lines)]
    drawn = []
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "font.size": 9,
            "text.color": INK,
            "axes.edgecolor": GRID,
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": GRID,
            "grid.linewidth": 0.6,
            "xtick.color": GRID,
            "ytick.color": GRID,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "lines.linewidth": 1.6,
            "lines.solid_joinstyle": "round",
        }
    ):
        # One for all, and never cleared: making axes and ticks takes longer than drawing them.
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0.5 / width, 0.22 / height, 1 - 0.58 / width, 1 - 0.3 / height))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(length=0, pad=3)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
        for panel in shown:
            for artist in [*axes.lines, *axes.collections]:
                artist.remove()
            axes.relim()
            axes.autoscale(True)
            _plot(axes, panel)
            # Ids differ from figure to figure, and the same run gives the same bytes.
            matplotlib.rcParams["svg.hashsalt"] = panel.title
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
            drawn.append(f"<figure>{_caption(panel)}{_inline(buffer.getvalue(), panel)}</figure>")
    return "".join(drawn)


def _plot(axes: "Axes", panel: Panel) -> None:
    scale = 100.0 if panel.percent else 1.0
    for line, colour in zip(panel.lines, (FIRST, SECOND), strict=False):
        points = line.known()
        if not points:
            continue
        at, values = [place for place, _ in points], [scale * value for _, value in points]
        alone = "o" if line.intervals or len(points) == 1 else ""
        axes.plot(at, values, color=colour, marker=alone, markersize=3.5)
        if line.intervals:
            low, high = zip(*((scale * each.low, scale * each.high) for each in line.intervals), strict=True)
            axes.vlines(line.rounds, low, high, color=colour, linewidth=1.2, alpha=0.55)
    if panel.level is not None:
        axes.axhline(scale * panel.level[1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), alpha=0.6)
    if panel.mark is not None:
        _, best, found = panel.mark
        axes.vlines([best], scale * found.low, scale * found.high, color=GOOD, linewidth=2)
        axes.plot([best], [scale * found.mean], color=GOOD, marker="D", markersize=6)
    if panel.percent:
        top = axes.get_ylim()[1]
        axes.set_ylim(0, 100 if top > 25 else max(1, top))  # small shares are seen, and near ones not blown up
    elif panel.whole:
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), max(1.0, axes.get_ylim()[1]))


def _tick(value: float) -> str:
    """Writes a number of an axis in at most six characters, for which there is room."""
    if value and abs(value) < 0.01:
        return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:.4g}"


def _caption(panel: Panel) -> str:
    """The title with its meaning, and each line's name, colour and last value."""
    first = panel.lines[0]
    only = first.known()[-1][1] if not first.name else None
    beside = "" if only is None else f" <span class='a'>{said(only, panel.percent)}</span>"
    parts = [f"<b>{html.escape(panel.title)}{beside}</b>"]
    if panel.meaning:
        parts.append(f"<small>{html.escape(panel.meaning)}</small>")
    for line, key in zip(panel.lines, "ab", strict=False):
        if line.name and line.known():
            last = said(line.known()[-1][1], panel.percent or line.share)
            parts.append(f"<span class='key {key}'>{html.escape(line.name)} {last}</span>")
    if panel.level is not None:
        name, level = panel.level
        parts.append(f"<span class='muted'>- - {html.escape(name)} {said(level, panel.percent or panel.whole)}</span>")
    if panel.mark is not None:
        name, _, found = panel.mark
        reached = said(found.mean, panel.percent or panel.whole)
        parts.append(f"<span class='good'>&#9670; {html.escape(name)} {reached}</span>")
    return f"<figcaption>{''.join(parts)}</figcaption>"


def said(value: float, percent: bool = False) -> str:
    """Writes a value as short as it can be read."""
    return f"{100 * value:.1f}\u00a0%" if percent else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _inline(drawing: str, panel: Panel) -> str:
    """Makes a drawing part of a page: without prologue and sizes of its own, in the page's colours, with a name."""
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", drawing, flags=re.S)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)  # "axes_1" and the like, in every drawing
    box = re.search(r'viewBox="([^"]*)"', drawing)
    opening = f'<svg viewBox="{box[1] if box else ""}" role="img" aria-label="{html.escape(panel.title)}, by round">'
    drawing = opening + drawing[drawing.index(">") + 1 :]
    for drawn, named in PAGE.items():
        drawing = drawing.replace(drawn, named)
    return drawing
