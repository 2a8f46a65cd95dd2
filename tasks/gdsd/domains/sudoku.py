"""4x4 Sudoku: puzzles made or read, the prompt, and the share of empty cells filled right."""

import random
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice, pairwise, permutations
from reprlib import repr as brief
from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.gdsd.domains import answers
from tasks.gdsd.domains.base import Answer, Domain, DomainConfig, Problem, Verdict
from tasks.gdsd.domains.drawing import Cell, Grid, Mark
from tasks.gdsd.errors import DataError

SIDE, BOX = 4, 2
CELLS = SIDE * SIDE
DIGITS, EMPTY = "1234", "."
PATIENCE = 50_000  # draws without a new puzzle after which there are none left; at 12 empty cells 1 in 100 is new

# What may stand between the cells of a grid: ends of lines alone, where a space is an empty cell; white space, commas,
# brackets, quotes and borders; and rules of `-` or `=`, where these are no empty cells.
BETWEEN = r"\s|+,;/&\\\[\](){}\"'`$\u2500-\u257f"
LINES, SEPARATORS, RULES = (re.compile(f"[{signs}]+") for signs in (r"\r\n", BETWEEN, rf"{BETWEEN}=-"))
BLANK = re.compile(r"[ 0_*?xX-]")  # an empty cell in a data set
NUMBER = re.compile(r"[0-9]+")
COUNTS = "1234", "0123"  # the numbers of rows and columns
STROKES = "-=\u2500\u2501\u2550"
DRAWN = f" \t\r|:+{''.join(map(chr, range(0x2500, 0x2580)))}{STROKES}"  # what a rule is made of
LABEL = re.compile(  # in small letters
    r"""
    [rlc] (?<=\b.) (?:ow|ine|ol|olumn)? [ _#-]{0,2} (?: [0-4](?:c[0-4])?\b | \([0-4]\) )  # row 1, r1, col (1), r1c1
    | [0-4] (?:
        (?:st|nd|rd|th)\b  # 1st
        | [ -]? (?:x|\u00d7|\\times|by) [ -]? [1-4]  # 4x4
        | 6 [ -]? (?:digit|cell|character)  # the 16 digits
    )
    | ^[ \t*]* [0-4] [.):] \*{0,2}[ \t]  # 1. or **1.** before a line
    | (?: \([0-4],[ ]?[0-4]\) | \[[0-4](?:,[ ]?|\]\[)[0-4]\] | "[0-4]" | [a-d](?<=\b.)[0-4] )
      (?= [ ]? (?:[=:\u2192]|->) )  # (1, 1) =, [0][0] =, "1": and A1 =
    """,
    re.MULTILINE | re.VERBOSE,
)


INSTRUCTION = """\
Solve this 4x4 Sudoku. It is written as 16 characters, row by row, with a dot for an empty cell. Fill every empty cell \
with a digit from 1 to 4, so that each row, each column and each of the four 2x2 boxes holds every digit once. Leave \
the given digits as they are.

Think inside <reasoning> and </reasoning>, then write the 16 digits of the filled grid, row by row, inside <answer> \
and </answer>.
"""


class SudokuConfig(DomainConfig):
    """4x4 Sudoku, generated or read."""

    name: Literal["sudoku"] = "sudoku"
    min_empty: int = Field(4, ge=1, le=12, description="fewest empty cells of a generated puzzle")
    max_empty: int = Field(8, ge=1, le=12, description="most empty cells; 12 is the most with one solution")
    format: Literal["bare", "tagged"] = Field(
        "bare",
        description="bare: the puzzle and `=`, answered by the grid alone; tagged: an instruction in words, answered "
        "inside <answer> tags",
    )
    shots: int = Field(0, ge=0, le=8, description="solved examples in the prompt; none is among the generated puzzles")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_empty > self.max_empty:
            raise ValueError(
                f"min_empty {self.min_empty} exceeds max_empty {self.max_empty}; lower it or raise max_empty"
            )
        return self


class Sudoku(Domain):
    """4x4 Sudoku on 16 characters, row by row, with `.` for an empty cell.

    Solved means that the answer is a filled grid that keeps the clues: of a puzzle with several solutions, any. Part
    `cells` is 1 then, else the share of the empty cells filled as in the reference, as in d1 (arXiv 2504.12216). Part
    `clues` is the share of the clues that the answer keeps, at which `cells` does not look. Part `format` says whether
    the answer has the form that the prompt asks for.
    """

    parts = {"cells": 1.0, "clues": 0.0, "format": 0.0}
    columns = ("puzzle", "solution")
    example = Answer("1.34341.2143.321", "1234341221434321", "1234341221434321")
    generates = True
    problem_pattern = r"^[1-4.]{16}$"
    reference_pattern = r"^[1-4]{16}$"
    problem_form = "16 characters, row by row: 1, 2, 3, 4, or . for an empty cell"
    reference_form = "16 characters, row by row: 1, 2, 3 or 4"

    def __init__(self, config: SudokuConfig = SudokuConfig()) -> None:
        self.config = config
        self.fills_length = config.format == "bare"  # a grid alone needs no end
        self.shots = list(islice(self._draw(f"sudoku:shots:{config.shots}", frozenset()), config.shots))

    def problems(self, seed: int) -> Iterator[Problem]:
        """Yields distinct puzzles with exactly one solution, and the solution; none of the prompt's examples.

        Raises:
            DataError: no new puzzle turns up.
        """
        return self._draw(f"sudoku:{seed}", frozenset(shot.problem for shot in self.shots))

    def _draw(self, seed: str, shown: frozenset[str]) -> Iterator[Problem]:
        source = random.Random(seed)
        seen = set(shown)
        misses = 0
        while misses < PATIENCE:
            misses += 1
            solution = source.choice(all_solutions())
            empty = set(source.sample(range(CELLS), source.randint(self.config.min_empty, self.config.max_empty)))
            puzzle = "".join(EMPTY if cell in empty else digit for cell, digit in enumerate(solution))
            if puzzle not in seen and len(solutions(puzzle)) == 1:
                seen.add(puzzle)
                misses = 0
                yield Problem(puzzle, solution)
        raise DataError(
            f"there are hardly more than {len(seen)} puzzles with {self.config.min_empty} to {self.config.max_empty} "
            f"empty cells and one solution ({PATIENCE} draws gave no new one); ask for fewer problems, or for others "
            "by prompts.domain.min_empty and max_empty"
        )

    def read(self, row: Mapping[str, object]) -> Problem:
        """Takes grids as files have them, see `read_grid`.

        Raises:
            DataError: the puzzle or the solution is no grid.
        """
        return Problem(
            read_grid("puzzle", row["puzzle"], DIGITS + EMPTY), read_grid("solution", row["solution"], DIGITS)
        )

    def phrase(self, problem: str) -> str:
        """Returns the puzzle behind the examples; its `=` anchors the positions of a bare answer."""
        if self.config.format == "bare":
            return "".join(f"{shot.problem}={shot.reference}|" for shot in self.shots) + f"{problem}="
        shown = [f"\nPuzzle: {shot.problem}\n<answer>{shot.reference}</answer>\n" for shot in self.shots]
        return f"{INSTRUCTION}{''.join(shown)}\nPuzzle: {problem}"

    def fault(self, problem: str, reference: str) -> str | None:
        """Says what is wrong with a puzzle from a file, or None; one with several solutions is sound."""
        if len(problem) != CELLS or set(problem) - set(DIGITS + EMPTY):
            return f"{problem!r:.60} is not 16 characters of 1, 2, 3, 4 and '.'"
        if EMPTY not in problem:
            return f"{problem!r} has no empty cell"
        if not (found := solutions(problem)):
            return f"{problem!r} has no solution"
        if reference not in found:
            return f"{problem!r} is solved by {found[0]!r}, not by {reference!r:.60}"
        return None

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        """Verifies an answer.

        A tagged grid may have too few or too many cells: each one that it lacks counts as an empty cell filled wrong,
        and so does each one too many. A bare grid then fills no cell right, and keeps no clue.
        """
        tagged = self.config.format == "tagged"
        grid = self._grid(answer)
        placed = tagged or len(grid) == CELLS  # or nobody knows which cell is which
        if solved := _solves(problem, grid):
            share = 1.0
        elif placed:
            asked = [cell for cell, clue in enumerate(problem) if clue == EMPTY or cell >= len(grid)]
            right = sum(grid[cell : cell + 1] == reference[cell] for cell in asked)
            share = right / (len(asked) + max(0, len(grid) - CELLS))
        else:
            share = 0.0
        formed = answers.well_formed(answer) if tagged else len(answer) == CELLS and not answer.strip(DIGITS)
        parts = {"cells": share, "clues": _kept(problem, grid) if placed else 0.0, "format": float(formed)}
        return Verdict(parts=parts, solved=solved)

    def solution(self, problem: str, reference: str) -> str:
        """Returns the grid of the reference, in the form that the prompt asks for."""
        return answers.answered(reference) if self.config.format == "tagged" else reference

    def draw(self, problem: str, reference: str, answer: str | None) -> Grid | None:
        """Draws the reference, or the cells of an answer; None where there are none, or not 16 in a bare answer.

        Of a solved puzzle all cells are right, also where the reference is another solution.
        """
        tagged = self.config.format == "tagged"
        grid = reference if answer is None else self._grid(answer)
        if not grid or (len(grid) != CELLS and not tagged):
            return None
        stands = [] if answer is None else _stands(answer, tagged, grid)
        wanted = grid if _solves(problem, grid) else reference
        drawn = [
            Cell(
                text=grid[cell : cell + 1],
                mark=_mark(clue, grid[cell : cell + 1], wanted[cell]),
                place=stands[cell] if cell < len(stands) else None,
            )
            for cell, clue in enumerate(problem)
        ]
        rows = [drawn[first : first + SIDE] for first in range(0, CELLS, SIDE)]
        return Grid(rows=rows, box=BOX, note=f"{len(grid) - CELLS} cells too many" if len(grid) > CELLS else "")

    def _grid(self, answer: str) -> str:
        """The cells of an answer, in the form that the prompt asks for."""
        if self.config.format == "tagged":
            return cells(answers.tagged(answer) or "")
        return answer if len(answer) == CELLS else cells(answer)

    def shingles(self, problem: str) -> frozenset[str]:
        """Two puzzles are alike only if they are the same: all grids are relabellings of a few."""
        return frozenset([problem])


def read_grid(name: str, value: object, signs: str) -> str:
    """Returns a grid of a data set as 16 characters, with `.` for an empty cell.

    It may be a text, with separators and other signs for an empty cell, or a list of cells or rows. A number has lost
    the zeros at its front, in a text too if that was written from one; they are put back, and whether they were there
    turns out when the solution is compared with the clues.

    Raises:
        DataError: it is no grid of these signs.
    """
    text = _joined(value)
    number = text.removesuffix(".0")
    if NUMBER.fullmatch(number) and not isinstance(value, list):
        text = number.zfill(CELLS)
    for between in (LINES, SEPARATORS, RULES):
        grid = BLANK.sub(EMPTY, between.sub("", text))
        if len(grid) == CELLS and not set(grid) - set(signs):
            return grid
    empty = ", and ., 0, _, *, ?, x, - or a space for an empty cell" if EMPTY in signs else ""
    raise DataError(f"{name} must have 16 cells, row by row: digits from 1 to 4{empty}; not {brief(value)}")


def _joined(value: object) -> str:
    """Returns what a data set has for a grid, or for its rows and cells, as one text."""
    rows = value if isinstance(value, list) else [value]
    return "".join(_sign(cell) for row in rows for cell in (row if isinstance(row, list) else [row]))


def _sign(cell: object) -> str:
    """Returns a text or a whole number as text, nothing as an empty cell, and what else there is as no cell at all."""
    if cell is None or cell == "":
        return EMPTY
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, int) and not isinstance(cell, bool) and 0 <= cell < 10**CELLS:
        return str(cell)
    return cell if isinstance(cell, str) else ""


def cells(answer: str) -> str:
    """Returns the cells of a grid as a policy writes it: in lines, with spaces, borders or a fence.

    They are the 16 characters between the separators, which need not be digits; where there are not 16, they are all
    digits, as in d1, but for those of labels, and for the numbers of a table's rows and columns.
    """
    text = answers.last_block(answer)
    grid = SEPARATORS.sub("", text)
    if len(grid) == CELLS:
        return grid
    text = LABEL.sub(" ", text.lower())
    digits = "".join(NUMBER.findall(text))
    return digits if len(digits) == CELLS else _numbered(text.split("\n")) or digits


def _numbered(lines: list[str]) -> str:
    """Returns the cells of a grid whose columns or rows are numbered, empty where something else could be meant.

    A line 1 2 3 4 above the grid has the numbers of its columns if the rows have numbers too, or if there is a rule
    below it and not below each row. A digit before each row is its number if the columns have numbers, if it is set
    apart from the cells, or in a Markdown table.
    """
    rows = [(place, "".join(NUMBER.findall(line))) for place, line in enumerate(lines) if NUMBER.search(line)]
    if not SIDE <= len(rows) <= SIDE + 1:
        return ""
    first = rows[0][0]
    ruled = [any(map(_is_rule, lines[one + 1 : other])) for (one, _), (other, _) in pairwise(rows)]
    headed = len(rows) > SIDE
    if headed and rows.pop(0)[1] not in COUNTS:
        return ""
    numbers = "".join(digits[0] for _, digits in rows)
    if numbers in COUNTS and all(len(digits) == SIDE + 1 for _, digits in rows):
        apart = all(_set_apart(lines[place]) for place, _ in rows)
        table = any("|" in line and _is_rule(line) for line in lines[:first])
        grid = [digits[1:] for _, digits in rows] if headed or apart or table else []
    else:
        grid = [digits for _, digits in rows] if headed and ruled[0] and not all(ruled) else []
    return "".join(grid) if [*map(len, grid)] == [SIDE] * SIDE else ""


def _is_rule(line: str) -> bool:
    """Whether a line only draws a line."""
    return not line.strip(DRAWN) and any(2 * sign in line for sign in STROKES)


def _set_apart(line: str) -> bool:
    """Whether something else stands behind the first of five digits than between the others."""
    _, behind, *between, _ = re.split("[0-9]", line)
    return behind not in between


def _stands(answer: str, tagged: bool, grid: str) -> list[int]:
    """Where in an answer the cells stand that were read of it; nothing where that cannot be told."""
    if answer == grid:
        return list(range(len(grid)))
    text = (answers.tagged(answer) or "") if tagged else answer
    text = answers.last_block(text).rstrip("\n")
    begin = max(0, answer.rfind(answers.OPEN)) if tagged else 0
    if answer.count(text, begin) != 1:  # it stands there twice, or a block has lost its margin
        return []
    start = answer.index(text, begin)
    bare = LABEL.sub(lambda label: " " * len(label[0]), text.lower())
    lines = [
        [line.start() + place for place, sign in enumerate(line[0]) if NUMBER.match(sign)]
        for line in re.finditer(r".+", bare)
    ]
    for found in (
        [place for place, sign in enumerate(text) if not SEPARATORS.match(sign)],
        [place for line in lines for place in line],
        [place for line in [*filter(None, lines)][-SIDE:] for place in line[-SIDE:]],  # without the numbers of a table
    ):
        if [text[place : place + 1] for place in found] == [*grid]:
            return [start + place for place in found]
    return []


def _mark(clue: str, own: str, wanted: str) -> Mark:
    if not NUMBER.fullmatch(own):
        return "missing"
    return "given" if own == clue else "right" if own == wanted else "wrong"


@cache
def all_solutions() -> tuple[str, ...]:
    """Returns the 288 filled 4x4 grids, in lexical order."""
    rows = ["".join(row) for row in permutations("1234")]

    def extend(grid: str) -> Iterator[str]:
        if len(grid) == CELLS:
            yield grid
            return
        for row in rows:
            if _consistent(grid + row):
                yield from extend(grid + row)

    return tuple(extend(""))


@cache
def _grids() -> frozenset[str]:
    return frozenset(all_solutions())


def _solves(puzzle: str, grid: str) -> bool:
    """Whether a grid is filled by the rules and keeps the clues."""
    return grid in _grids() and all(clue in (EMPTY, own) for clue, own in zip(puzzle, grid, strict=True))


def _kept(puzzle: str, grid: str) -> float:
    """The share of the clues that a grid keeps where they stand; 1 if there are none."""
    kept = [grid[cell : cell + 1] == clue for cell, clue in enumerate(puzzle) if clue != EMPTY]
    return sum(kept) / len(kept) if kept else 1.0


def _consistent(grid: str) -> bool:
    """Whether whole rows repeat no digit in a column or a box."""
    units: dict[tuple[int, ...], list[str]] = {}
    for cell, digit in enumerate(grid):
        row, column = divmod(cell, SIDE)
        units.setdefault((column,), []).append(digit)
        units.setdefault((row // BOX, column // BOX), []).append(digit)
    return all(len(set(unit)) == len(unit) for unit in units.values())


def solutions(puzzle: str) -> list[str]:
    """Returns every solution of a puzzle."""
    clues = [(cell, digit) for cell, digit in enumerate(puzzle) if digit != EMPTY]
    return [grid for grid in all_solutions() if all(grid[cell] == digit for cell, digit in clues)]
