"""4x4 Sudoku: puzzles with exactly one solution, the prompt, and the share of empty cells filled right."""

import random
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice, permutations
from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.gdsd.domains import answers
from tasks.gdsd.domains.base import Answer, Domain, DomainConfig, Problem, Verdict
from tasks.gdsd.errors import DataError

SIDE, BOX = 4, 2
CELLS = SIDE * SIDE
EMPTY = "."
PATIENCE = 50_000  # draws without a new puzzle after which there are none left; at 12 empty cells 1 in 100 is new


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
    min_empty: int = Field(3, ge=1, le=12, description="fewest empty cells of a generated puzzle")
    max_empty: int = Field(5, ge=1, le=12, description="most empty cells; 12 is the most with one solution")
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

    Part `cells` is the share of the empty cells filled right, as in d1 (arXiv 2504.12216); solved means that the answer
    is the solution, clues included. Part `format` says whether the answer has the form that the prompt asks for.
    """

    parts = {"cells": 1.0, "format": 0.0}
    columns = ("puzzle", "solution")
    example = Answer("1.34341.2143.321", "1234341221434321", "1234341221434321")
    generates = True
    problem_pattern = r"^[1-4.]{16}$"
    reference_pattern = r"^[1-4]{16}$"
    problem_form = "16 characters, row by row: 1, 2, 3, 4, or . for an empty cell"
    reference_form = "16 characters, row by row: 1, 2, 3 or 4"

    def __init__(self, config: SudokuConfig = SudokuConfig()) -> None:
        self.config = config
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
        """Takes `0` and `_` for an empty cell too.

        Raises:
            DataError: a cell of the row is no text.
        """
        puzzle, solution = row["puzzle"], row["solution"]
        if not isinstance(puzzle, str) or not isinstance(solution, str):
            raise DataError(
                f"puzzle and solution must be texts of 16 characters, not {puzzle!r:.60} and {solution!r:.60}"
            )
        return Problem(puzzle.replace("0", EMPTY).replace("_", EMPTY), solution)

    def phrase(self, problem: str) -> str:
        """Returns the puzzle behind the examples; its `=` anchors the positions of a bare answer."""
        if self.config.format == "bare":
            return "".join(f"{shot.problem}={shot.reference}|" for shot in self.shots) + f"{problem}="
        shown = [f"\nPuzzle: {shot.problem}\n<answer>{shot.reference}</answer>\n" for shot in self.shots]
        return f"{INSTRUCTION}{''.join(shown)}\nPuzzle: {problem}"

    def fault(self, problem: str, reference: str) -> str | None:
        """Says what is wrong with a puzzle from a file, or None."""
        if len(problem) != CELLS or set(problem) - set("1234" + EMPTY):
            return f"{problem!r} is not 16 characters of 1, 2, 3, 4 and '.'"
        if EMPTY not in problem:
            return f"{problem!r} has no empty cell"
        found = solutions(problem)
        if len(found) != 1:
            return f"{problem!r} has {len(found)} solutions, not one"
        return None if reference == found[0] else f"{problem!r} has the solution {found[0]!r}, not {reference!r}"

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        """Verifies an answer; one that is not 16 characters long fills no cell right."""
        tagged = self.config.format == "tagged"
        grid = (answers.tagged(answer) or "") if tagged else answer
        whole = len(grid) == CELLS
        empty = [cell for cell, clue in enumerate(problem) if clue == EMPTY]
        right = sum(grid[cell] == reference[cell] for cell in empty) if whole else 0
        formed = answers.well_formed(answer) if tagged else whole and not grid.strip("1234")
        return Verdict(parts={"cells": right / len(empty), "format": float(formed)}, solved=grid == reference)

    def shingles(self, problem: str) -> frozenset[str]:
        """Two puzzles are alike only if they are the same: all grids are relabellings of a few."""
        return frozenset([problem])


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
