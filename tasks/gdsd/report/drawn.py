"""Draws what a domain says of a problem or an answer: grids with their marks, and the step that unmasked each cell."""

import html
import logging
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from tasks.gdsd.domains import DomainChoice, make
from tasks.gdsd.domains.drawing import Cell, Grid
from tasks.gdsd.errors import Interrupted

logger = logging.getLogger(__name__)

SHADES = 10  # classes t0 to t9 of the style
SIGNS = {"given": "", "right": "✓", "wrong": "✗", "missing": "∅"}  # beside the colours, for who does not see these
GRID = "<div class='scroll grid'>"
LEGEND = (
    "<p>In a grid, given cells are bold; of the others ✓ is right, ✗ wrong and ∅ missing. The small number is the step "
    "that unmasked the cell.</p>"
)


def draw(
    choice: DomainChoice,
    problem: str,
    reference: str,
    answer: str | None,  # None: the reference is drawn
    tokens: Sequence[str] = (),  # of the answer
    unmasked_at: Sequence[int] = (),
) -> str:
    """Returns what the domain says of an answer as HTML; nothing where it draws none.

    A run must not end here, after hours, for a mistake in a drawing. So an error of a user's own domain is said in its
    place.
    """
    try:
        grid = make(choice).draw(problem, reference, answer)
        if grid is None:
            return ""
        if not isinstance(grid, Grid):
            raise TypeError(f"draw must return a Grid or None, not {grid!r:.60}")
        caption = "The reference, cell by cell" if answer is None else "The answer, cell by cell"
        return _table(grid, caption, _Order(answer or "", tokens, unmasked_at))
    except Interrupted:
        raise
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error!s:.200}".encode(errors="backslashreplace").decode()
        logger.warning("domain %r could not draw an answer, so the report has it as text: %s", choice.name, said)
        return f"<p class='muted'>The domain could not draw it: {html.escape(said)}</p>"


def shade(step: int, last: int) -> str:
    """Returns the class of a colour that is the stronger, the earlier a step is; `last` is the last one."""
    return f"t{SHADES - 1 - min(SHADES - 1, SHADES * step // (last + 1))}"


class _Order:
    """Which step unmasked a piece of an answer.

    It is known where the tokens, one behind the other, begin with the answer. They do not where a token is part of a
    character, or where decoding has dropped one.
    """

    def __init__(self, answer: str, tokens: Sequence[str], unmasked_at: Sequence[int]) -> None:
        known = "".join(tokens).startswith(answer)
        self._ends = list(accumulate(map(len, tokens))) if known else []
        self._unmasked_at = unmasked_at
        self.last = max(unmasked_at, default=0)

    def step(self, cell: Cell) -> int | None:
        """Returns the step that unmasked the last token of a cell."""
        if cell.place is None or not cell.text:
            return None
        first, last = (bisect_right(self._ends, place) for place in (cell.place, cell.place + len(cell.text) - 1))
        return max(self._unmasked_at[first : last + 1]) if last < len(self._ends) else None


def _table(grid: Grid, caption: str, order: _Order) -> str:
    rows = [
        f"<tr>{''.join(_cell(cell, order, _ends(grid.box, row, column)) for column, cell in enumerate(cells, 1))}</tr>"
        for row, cells in enumerate(grid.rows, 1)
    ]
    note = f"<p class='muted'>{html.escape(grid.note)}</p>" if grid.note else ""
    return f"{GRID}<table><caption class='said'>{caption}</caption>{''.join(rows)}</table></div>{note}"


def _ends(box: int, row: int, column: int) -> str:
    """The classes of a cell at the end of a box."""
    return "".join(name for name, number in ((" down", row), (" over", column)) if box and number % box == 0)


def _cell(cell: Cell, order: _Order, ends: str) -> str:
    step = order.step(cell)
    number, shaded = ("", "") if step is None else (f"<sub>{step + 1}</sub>", f" {shade(step, order.last)}")
    said = cell.mark if step is None else f"{cell.mark}, step {step + 1}"
    return (
        f"<td class='{cell.mark}{shaded}{ends}' title='{said}'><bdi>{html.escape(visible(cell.text))}</bdi>"
        f"<i aria-hidden='true'>{SIGNS[cell.mark]}</i><span class='said'> {cell.mark}</span>{number}</td>"
    )


def visible(text: str) -> str:
    """Shows what has no shape of its own."""
    return text.replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍")
