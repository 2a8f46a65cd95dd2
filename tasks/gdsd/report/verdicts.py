"""What a check of a domain's verdicts found: as text for a console, and as a page."""

import html
from collections.abc import Sequence

from tasks.gdsd.report.style import document, table_html
from tasks.gdsd.reward.probes import Probe, Probed

SHOWN = 600  # characters of a prompt on a console; the page has all
QUOTED = 40  # characters of an answer, likewise
LEFT = ("answer", "answers", "text", "remark")  # columns of words; all others are of numbers, and stand at the right
KINDS = ["answers", "judged", "solved", "mean reward", "seconds each"]


def text(found: Sequence[Probed]) -> str:
    """Returns prompts, verdicts and warnings, to be read on a console."""
    return "\n".join(line for probed in found for line in _lines(probed))


def page(found: Sequence[Probed]) -> str:
    """Returns the same as HTML, with whole prompts."""
    parts = [part for probed in found for part in _parts(probed)]
    return document("Verdicts", ["<h1>Verdicts on answers of which much is known</h1>", *parts])


def _lines(found: Probed) -> list[str]:
    lines = [f"{_title(found)}", ""]
    if _has_details(found):
        for place, (name, prompt) in enumerate(found.prompts.items()):
            shown = prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]} [...]"
            rows = [_row(probes[place], QUOTED) for probes in found.probes.values()]
            lines += [f"problem {name!r}", *(f"  | {_plain(line)}" for line in shown.split("\n"))]
            lines += [*_table(_head(found), rows), ""]
    lines += [*_table(KINDS, _summary(found)), *_notes(found)]
    return [*lines, ""]


def _parts(found: Probed) -> list[str]:
    parts = [f"<h2>{html.escape(_title(found))}</h2>"]
    parts += [f"<p class='warning'>{html.escape(note)}</p>" for note in _notes(found)]
    parts.append(table_html("By kind of answer", KINDS, _summary(found)))
    if _has_details(found):
        for place, (name, prompt) in enumerate(found.prompts.items()):
            head = _head(found)
            rows = [_row(probes[place], SHOWN)[: len(head)] for probes in found.probes.values()]
            parts += [
                f"<h3>problem {html.escape(name)}</h3><pre class='text' dir='auto'>{html.escape(prompt)}</pre>",
                table_html("What the domain says of answers to it", head, rows),
            ]
    return parts


def _title(found: Probed) -> str:
    return f"{found.domain}: {len(found.prompts)} problems of {found.problems}"


def _has_details(found: Probed) -> bool:
    """Whether wrong answers were looked at too, and not only whether right ones are solved."""
    return len(found.probes) > 1


def _head(found: Probed) -> list[str]:
    every = [probe.verdict for probes in found.probes.values() for probe in probes]
    remark = ["remark"] if any(verdict.remark for verdict in every) else []
    return ["answer", "reward", "solved", *every[0].parts, "text", *remark]


def _row(probe: Probe, room: int) -> list[str]:
    verdict, written = probe.verdict, probe.answer.text
    solved = "?" if verdict.solved is None else "yes" if verdict.solved else "no"
    more = "" if len(written) <= room else f" [{len(written)} characters]"
    remark = _plain((verdict.remark or "")[: 2 * room])
    parts = map(_number, verdict.parts.values())
    return [probe.kind, _number(probe.reward), solved, *parts, repr(written[:room]) + more, remark]


def _summary(found: Probed) -> list[list[str]]:
    rows = []
    for kind, probes in found.probes.items():
        rewards = [probe.reward for probe in probes if probe.reward is not None]
        rows.append(
            [
                kind,
                f"{len(rewards)} of {len(probes)}",
                str(sum(bool(probe.verdict.solved) for probe in probes)),
                _number(sum(rewards) / len(rewards) if rewards else None),
                f"{found.seconds[kind]:.2g}",
            ]
        )
    return rows


def _notes(found: Probed) -> list[str]:
    notes = [f"warning: {warned.said}" for warned in found.warnings]
    if "right" not in found.probes:
        notes.append(f"The domain names no right answer ({found.right}), so nobody saw whether one is solved.")
    return notes


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns lines whose columns have equal widths; cells beyond the head are left out."""
    lines = [row[: len(head)] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            ["", *(cell.ljust(width) if name in LEFT else cell.rjust(width) for name, cell, width in columns)]
        ).rstrip()
        for columns in (zip(head, line, widths, strict=True) for line in lines)
    ]


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


def _plain(line: str) -> str:
    """Returns a line whose control characters do not reach the terminal."""
    return "".join(sign if sign.isprintable() or sign == "\t" else repr(sign)[1:-1] for sign in line)
