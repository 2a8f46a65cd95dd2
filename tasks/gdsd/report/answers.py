"""Answers of base and trained policy to the same problems, and the order in which their tokens were unmasked."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

from tasks.gdsd.report.style import table_html

ROOM = 600  # characters of a text in the page; samples.parquet has all
TOKENS = 256  # of a completion whose order is drawn, likewise
NUMBERED = 64  # tokens up to which each shows its step
FRAMES = 12  # steps of a completion that are drawn one by one
LEGEND = (
    "<p>Tokens are the darker, the earlier the sampler unmasked them, and bear the step's number where they are few. "
    "samples.parquet has every answer.</p>"
)
Row: TypeAlias = Mapping[str, Any]  # of `tables.COMPARISON`, whose columns differ in type


def section(samples: pa.Table) -> str:
    """Returns how verdicts changed, and answers of each kind: fixed, broken, and the best and worst of the others."""
    rows = samples.to_pylist()
    kinds = [
        ("Fixed", "wrong before, right after", of(rows, False, True), 3),
        ("Broken", "right before, wrong after", of(rows, True, False), 3),
        ("Right both times", "the best of them", of(rows, True, True), 1),
        ("Wrong both times", "the best, then the worst of them", _ends(of(rows, False, False)), 2),
        ("Without a verdict", "before or after", [row for row in rows if None in _verdicts(row)], 1),
    ]
    counts = table_html(
        ["", "wrong after", "right after"],
        [
            ["wrong before", *(str(len(of(rows, False, after))) for after in (False, True))],
            ["right before", *(str(len(of(rows, True, after))) for after in (False, True))],
        ],
    )
    parts = [f"<h3>{title} <span class='muted'>({len(found)}: {more})</span></h3>" for title, more, found, _ in kinds]
    cards = ["".join(map(_card, found[:size])) for _, _, found, size in kinds]
    shown = [part + card for part, card, (_, _, found, _) in zip(parts, cards, kinds, strict=True) if found]
    return counts + LEGEND + "".join(shown)


def of(rows: Sequence[Row], before: bool, after: bool) -> list[Row]:
    """Returns the answers with two verdicts, those whose reward changed most first, then the best."""
    found = [row for row in rows if _verdicts(row) == (before, after)]
    return sorted(found, key=lambda row: (-abs(_gain(row)), -row["trained_reward"]))


def _ends(rows: list[Row]) -> list[Row]:
    """The best answers first and last but one the worst, so that two of them are both ends."""
    ranked = sorted(rows, key=lambda row: -row["trained_reward"])
    return [ranked[0], ranked[-1], *ranked[1:-1]] if len(ranked) > 1 else ranked


def _verdicts(row: Row) -> tuple[bool | None, bool | None]:
    return row["base_solved"], row["trained_solved"]


def _gain(row: Row) -> float:
    return (row["trained_reward"] or 0.0) - (row["base_reward"] or 0.0)


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
