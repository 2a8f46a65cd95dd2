"""What the parts have found: lines of JSON, written as they come, and the page that is made of them."""

import json
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.gpu.parts import PARTS

OF_PEAK = "of the plan's peak"  # a column from which the plan's share follows
LINES, PAGE, LOG = "results.jsonl", "gpu.md", "log.txt"
Value = float | str


class SkippedError(Exception):
    """A part cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Row:
    """A measurement, and where something has to be true of it, whether it is."""

    name: str
    values: Mapping[str, Value]
    holds: bool | None = None


@dataclass
class Found:
    """What is known of a part."""

    machine: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    ended: str = ""  # done, was skipped, failed, was ended or was not begun; nothing while it goes on
    said: str = ""
    seconds: float = 0.0

    @property
    def wrong(self) -> list[str]:
        """Names of the rows of which something is not true that has to be."""
        return [row.name for row in self.rows if row.holds is False]

    @property
    def is_good(self) -> bool:
        return self.ended in ("done", "was skipped") and not self.wrong


def write(out: Path, part: str, **content: object) -> None:
    """Adds a line, which is there even if the process ends in the next moment."""
    with (out / LINES).open("a") as file:
        file.write(json.dumps({"part": part, **content}) + "\n")


def forget(out: Path, part: str) -> None:
    """Removes the lines of a part that is measured again."""
    lines = (out / LINES).read_text().splitlines(keepends=True) if (out / LINES).exists() else []
    (out / LINES).write_text("".join(line for line in lines if json.loads(line)["part"] != part))


def read(out: Path) -> dict[str, Found]:
    """Returns what is known of each part that was begun, in the order of the parts."""
    found = {name: Found() for name in PARTS}
    for line in (out / LINES).read_text().splitlines():
        content = json.loads(line)
        part = found[content.pop("part")]
        if "name" in content:
            part.rows.append(Row(**content))
        else:
            vars(part).update(content)
    return {name: part for name, part in found.items() if part.machine or part.ended}


def page(found: Mapping[str, Found], when: str, commit: str, reached: float) -> str:
    """Returns the page docs/gpu.md.

    Args:
        reached: the share of a GPU's peak that the plan has.
    """
    machines = list(dict.fromkeys(", ".join(part.machine.values()) for part in found.values() if part.machine))
    lines = [
        "# What was measured on a GPU?",
        "",
        *(f"- {machine}" for machine in machines),
        f"- written by `python -m tests.gpu OUT` on {when}, at commit {commit}",
        "",
        "All models have random weights. Times are medians after a warm-up.",
    ]
    for name, part in found.items():
        lines += ["", f"## {PARTS[name].title}", "", _wrapped(PARTS[name].text), ""]
        lines += [*_table(part.rows), ""] if part.rows else []
        lines += [_ending(part)]
    lines += ["", "## What share of the peak does the plan have?", "", *_plan(found, reached)]
    lines += ["", "## What came of each part?", "", "| part | seconds | of | ended | rows | not as it should be |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, part in found.items():
        cells = [name, f"{part.seconds:.0f}", str(PARTS[name].seconds), part.ended or "no", str(len(part.rows))]
        lines += ["| " + " | ".join([*cells, "; ".join(part.wrong) or "nothing"]) + " |"]
    return "\n".join(lines) + "\n"


def measured(found: Mapping[str, Found]) -> dict[str, dict[str, float]]:
    """Returns the share of the plan's peak that each model reaches in rollouts and updates, at its best size."""
    shares: dict[str, dict[str, float]] = {}
    for name in ("rollouts", "updates"):
        for row in found[name].rows if name in found else ():
            share, model = row.values.get(OF_PEAK), row.name.partition(",")[0]
            if isinstance(share, float) and (name == "updates" or ", exact," in row.name):
                of_model = shares.setdefault(model, {})
                of_model[name] = max(share, of_model.get(name, 0.0))
    return shares


def _plan(found: Mapping[str, Found], reached: float) -> Iterator[str]:
    yield f"`REACHED` in tasks/gdsd/planning/work.py is {reached:.2f}, for all models."
    if shares := measured(found):
        yield from ("", "| | rollouts by the exact engine | updates |", "|---|---|---|")
        for model, of_model in shares.items():
            cells = [f"{of_model[name]:.2f}" if name in of_model else "" for name in ("rollouts", "updates")]
            yield "| " + " | ".join([model, *cells]) + " |"
        middle = statistics.median(share for of_model in shares.values() for share in of_model.values())
        yield from ("", f"The middle of these is {middle:.2f}. Set `REACHED` to it, and name this page there.")


def _ending(part: Found) -> str:
    if part.ended == "done":
        return f"It took {part.seconds:.0f} s."
    said = f": {part.said}" if part.said else ""
    return _wrapped(f"It {part.ended or 'goes on'} after {part.seconds:.0f} s{said}.")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _table(rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    judged = any(row.holds is not None for row in rows)
    head = ["", *columns, *(["as it should be"] if judged else [])]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row.name, *(_cell(row.values.get(column, "")) for column in columns)]
        verdict = {None: "", True: "yes", False: "**no**"}[row.holds]
        lines.append("| " + " | ".join([*cells, *([verdict] if judged else [])]) + " |")
    return lines


def _cell(value: Value) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.3g}"
