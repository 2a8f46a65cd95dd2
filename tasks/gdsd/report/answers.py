"""Answers of base and trained policy to the same problems, and the order in which their tokens were unmasked."""

import html
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.report import drawn
from tasks.gdsd.report.style import table_html
from tasks.gdsd.tables import PART

ROOM = 600  # characters of a text in the page; samples.parquet has all
TOKENS = 256  # of a completion whose order is drawn, likewise
NUMBERED = 64  # tokens up to which each shows its step
FRAMES = 16  # steps of a completion that are drawn one by one
LEGEND = (
    "<p>A token's colour is the stronger, the earlier the sampler unmasked it; where there are few, it has the step's "
    "number. samples.parquet has every answer.</p>"
)


class Side(NamedTuple):
    """What one policy answered."""

    completion: str
    tokens: list[str]
    unmasked_at: list[int]
    solved: bool | None
    reward: float | None
    remark: str | None
    parts: dict[str, float | None]  # of the reward


class Pair(NamedTuple):
    """A problem, and what each policy answered."""

    problem: str
    reference: str
    base: Side
    trained: Side


def section(samples: pa.Table, domain: DomainChoice) -> str:
    """Returns how verdicts changed, and answers of each kind, the most changed ones first."""
    pairs = [
        Pair(row["problem"], row["reference"], _side(row, "base"), _side(row, "trained")) for row in samples.to_pylist()
    ]
    fixed, broken = _of(pairs, False, True), _of(pairs, True, False)
    right, wrong = _of(pairs, True, True), _of(pairs, False, False)
    unjudged = [pair for pair in pairs if None in (pair.base.solved, pair.trained.solved)]
    counts = table_html(
        "How many answers were right before training and after it",
        ["answers", "wrong after", "right after"],
        [["wrong before", str(len(wrong)), str(len(fixed))], ["right before", str(len(broken)), str(len(right))]],
    )
    kinds = [
        ("Fixed", "wrong before, right after", fixed, fixed[:3]),
        ("Broken", "right before, wrong after", broken, broken[:3]),
        ("Right both times", "the best", right, right[:1]),
        ("Wrong both times", "the most changed and the worst", wrong, _ends(wrong)),
        ("Not known to be right or wrong", "before or after", unjudged, unjudged[:1]),
    ]
    shown = [
        f"<h3>{title} <span class='muted'>({len(found)}; {what})</span></h3>"
        + "".join(_card(pair, domain) for pair in picked)
        for title, what, found, picked in kinds
        if found
    ]
    cards = "".join(shown)
    return counts + LEGEND + (drawn.LEGEND if drawn.GRID in cards else "") + cards


def _side(row: dict[str, object], who: str) -> Side:
    """Reads one policy's answer from a row of `tables.COMPARISON`."""
    before = f"{who}_{PART}"
    parts = {name.removeprefix(before): value for name, value in row.items() if name.startswith(before)}
    return Side._make([*(row[f"{who}_{name}"] for name in Side._fields if name != "parts"), parts])


def _of(pairs: Sequence[Pair], before: bool, after: bool) -> list[Pair]:
    """Returns the answers of which both are known to be so, those whose reward changed most first, then the best."""
    found = [pair for pair in pairs if (pair.base.solved, pair.trained.solved) == (before, after)]
    return sorted(found, key=lambda pair: (-abs(_worth(pair.trained) - _worth(pair.base)), -_worth(pair.trained)))


def _ends(pairs: Sequence[Pair]) -> list[Pair]:
    """The first answer, and the worst of the others."""
    return [*pairs[:1], *([min(pairs[1:], key=lambda pair: _worth(pair.trained))] if len(pairs) > 1 else [])]


def _worth(side: Side) -> float:
    """Returns what orders answers: those without a reward stand among those that are worth nothing."""
    return 0.0 if side.reward is None else side.reward


def _card(pair: Pair, domain: DomainChoice) -> str:
    sides = "".join(
        f"<div><p class='side'><b>{title}</b> {_verdict(side)}</p>"
        f"{_parts(side)}{_text(side.completion)}{_remark(side)}{_drawn(pair, side, domain)}"
        f"{strip(side.tokens, side.unmasked_at)}{frames(side.tokens, side.unmasked_at)}</div>"
        for title, side in (("before", pair.base), ("after", pair.trained))
    )
    solution = drawn.draw(domain, pair.problem, pair.reference, None)
    asked = "".join(
        f"<div><p class='side'><b>{name}</b></p>{_text(text)}{more}</div>"
        for name, text, more in (("problem", pair.problem, ""), ("reference", pair.reference, solution))
    )
    return f"<div class='card'><div class='pair'>{asked}</div><div class='pair'>{sides}</div></div>"


def _verdict(side: Side) -> str:
    reward = "no reward" if side.reward is None else f"reward {side.reward:.2f}"
    if side.solved is None:
        return (
            f"<span class='muted'>{'not judged' if side.reward is None else f'not known to be right, {reward}'}</span>"
        )
    tone, word = ("good", "right") if side.solved else ("bad", "wrong")
    return f"<span class='{tone}'>{word}, {reward}</span>"


def _parts(side: Side) -> str:
    """Says what the reward was made of, where it has several parts."""
    if len(side.parts) < 2:
        return ""
    said = (f"{name} {'not judged' if value is None else f'{value:.2f}'}" for name, value in side.parts.items())
    return f"<p class='muted'>{html.escape(', '.join(said))}</p>"


def _remark(side: Side) -> str:
    return f"<pre class='text remark' dir='auto'>{html.escape(side.remark)}</pre>" if side.remark else ""


def _drawn(pair: Pair, side: Side, domain: DomainChoice) -> str:
    return drawn.draw(domain, pair.problem, pair.reference, side.completion, side.tokens, side.unmasked_at)


def _text(value: str) -> str:
    shown = value if len(value) <= ROOM else f"{value[:ROOM]} [...]"
    return f"<pre class='text' dir='auto'>{html.escape(shown)}</pre>"


def strip(tokens: Sequence[str], unmasked_at: Sequence[int]) -> str:
    """Draws a completion token by token, coloured by the step that unmasked each."""
    last = max(unmasked_at, default=0)
    numbered = len(tokens) <= NUMBERED
    pieces = "".join(
        f"<bdi class='{drawn.shade(step, last)}' title='step {step + 1}'>{html.escape(_visible(token))}"
        f"{f'<sub>{step + 1}</sub>' if numbered else ''}</bdi>"
        for token, step in zip(tokens[:TOKENS], unmasked_at[:TOKENS], strict=True)
    )
    rest = f" and {len(tokens) - TOKENS} more" if len(tokens) > TOKENS else ""
    return f"<p class='strip'>{pieces}<span class='muted'>{rest}</span></p>"


def frames(tokens: Sequence[str], unmasked_at: Sequence[int]) -> str:
    """Draws what stood there after some of the steps, a line each; what was still masked is a dot."""
    shown, at = tokens[:TOKENS], unmasked_at[:TOKENS]
    steps = sorted(set(at))
    picked = steps if len(steps) <= FRAMES else [steps[(len(steps) - 1) * i // (FRAMES - 1)] for i in range(FRAMES)]
    lines = [
        f"<tr><th scope='row'>{step + 1}</th><td><bdi>"
        + html.escape("".join(_visible(token) if own <= step else "·" for token, own in zip(shown, at, strict=True)))
        + "</bdi></td></tr>"
        for step in picked
    ]
    caption = "<caption class='said'>What stood there after a step</caption>"
    table = f"<div class='scroll steps'><table>{caption}{''.join(lines)}</table></div>"
    return f"<details><summary>step by step</summary>{table}</details>"


def _visible(token: str) -> str:
    """Shows what has no shape of its own."""
    return drawn.visible(token) or "∅"
