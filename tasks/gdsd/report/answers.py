"""Answers of base and trained policy to the same problems, and the order in which their tokens were unmasked."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from tasks.gdsd.report.style import table_html

ROOM = 600  # characters of a text in the page; samples.parquet has all
TOKENS = 256  # of a completion whose order is drawn, likewise
NUMBERED = 64  # tokens up to which each shows its step
FRAMES = 16  # steps of a completion that are drawn one by one
LEGEND = (
    "<p>A token's colour is the stronger, the earlier the sampler unmasked it; where there are few, it has the step's "
    "number. samples.parquet has every answer.</p>"
)
Row: TypeAlias = Mapping[str, Any]  # of `tables.COMPARISON`, whose columns differ in type


def section(samples: pa.Table) -> str:
    """Returns how verdicts changed, and answers of each kind, the most changed ones first."""
    rows = samples.to_pylist()
    fixed, broken = of(rows, False, True), of(rows, True, False)
    right, wrong = of(rows, True, True), of(rows, False, False)
    unjudged = [row for row in rows if None in _verdicts(row)]
    counts = table_html(
        ["answers", "wrong after", "right after"],
        [["wrong before", str(len(wrong)), str(len(fixed))], ["right before", str(len(broken)), str(len(right))]],
    )
    kinds = [
        ("Fixed", "wrong before, right after", fixed, fixed[:3]),
        ("Broken", "right before, wrong after", broken, broken[:3]),
        ("Right both times", "the best", right, right[:1]),
        ("Wrong both times", "the most changed and the worst", wrong, _ends(wrong)),
        ("Without a verdict", "before or after", unjudged, unjudged[:1]),
    ]
    shown = [
        f"<h3>{title} <span class='muted'>({len(found)}; {what})</span></h3>{''.join(map(_card, picked))}"
        for title, what, found, picked in kinds
        if found
    ]
    return counts + LEGEND + "".join(shown)


def of(rows: Sequence[Row], before: bool, after: bool) -> list[Row]:
    """Returns the answers with two verdicts, those whose reward changed most first, then the best."""
    found = [row for row in rows if _verdicts(row) == (before, after)]
    return sorted(found, key=lambda row: (-abs(row["trained_reward"] - row["base_reward"]), -row["trained_reward"]))


def _ends(rows: Sequence[Row]) -> list[Row]:
    """The first answer, and the worst of the others."""
    return [*rows[:1], *([min(rows[1:], key=lambda row: row["trained_reward"])] if len(rows) > 1 else [])]


def _verdicts(row: Row) -> tuple[bool | None, bool | None]:
    return row["base_solved"], row["trained_solved"]


def _card(row: Row) -> str:
    sides = "".join(
        f"<div><p class='side'><b>{title}</b> {_verdict(row[f'{who}_solved'], row[f'{who}_reward'])}</p>"
        f"{_text(row[f'{who}_completion'])}{strip(row[f'{who}_tokens'], row[f'{who}_unmasked_at'])}"
        f"{frames(row[f'{who}_tokens'], row[f'{who}_unmasked_at'])}</div>"
        for who, title in (("base", "before"), ("trained", "after"))
    )
    asked = "".join(
        f"<div><p class='side'><b>{name}</b></p>{_text(row[name])}</div>" for name in ("problem", "reference")
    )
    return f"<div class='card'><div class='pair'>{asked}</div><div class='pair'>{sides}</div></div>"


def _verdict(solved: bool | None, reward: float | None) -> str:
    if reward is None:
        return "<span class='muted'>not judged</span>"
    tone, word = ("good", "right") if solved else ("bad", "wrong")
    return f"<span class='{tone}'>{word}, reward {reward:.2f}</span>"


def _text(value: str) -> str:
    shown = value if len(value) <= ROOM else f"{value[:ROOM]} [...]"
    return f"<pre class='text' dir='auto'>{html.escape(shown)}</pre>"


def strip(tokens: Sequence[str], unmasked_at: Sequence[int]) -> str:
    """Draws a completion token by token, coloured by the step that unmasked each."""
    last = max(unmasked_at, default=0)
    numbered = len(tokens) <= NUMBERED
    drawn = "".join(
        f"<bdi class='t{9 - min(9, 10 * step // (last + 1))}' title='step {step + 1}'>{html.escape(_visible(token))}"
        f"{f'<sub>{step + 1}</sub>' if numbered else ''}</bdi>"
        for token, step in zip(tokens[:TOKENS], unmasked_at[:TOKENS], strict=True)
    )
    rest = f" and {len(tokens) - TOKENS} more" if len(tokens) > TOKENS else ""
    return f"<p class='strip'>{drawn}<span class='muted'>{rest}</span></p>"


def frames(tokens: Sequence[str], unmasked_at: Sequence[int]) -> str:
    """Draws what stood there after some of the steps, a line each; what was still masked is a dot."""
    shown, at = tokens[:TOKENS], unmasked_at[:TOKENS]
    steps = sorted(set(at))
    picked = steps if len(steps) <= FRAMES else [steps[(len(steps) - 1) * i // (FRAMES - 1)] for i in range(FRAMES)]
    lines = [
        f"<tr><td>{step + 1}</td><td><bdi>"
        + html.escape("".join(_visible(token) if own <= step else "·" for token, own in zip(shown, at, strict=True)))
        + "</bdi></td></tr>"
        for step in picked
    ]
    drawn = f"<div class='scroll steps'><table>{''.join(lines)}</table></div>"
    return f"<details><summary>step by step</summary>{drawn}</details>"


def _visible(token: str) -> str:
    """Shows what has no shape of its own."""
    return token.replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍") or "∅"
