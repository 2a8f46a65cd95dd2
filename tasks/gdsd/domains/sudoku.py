"""4x4 Sudoku: puzzles with exactly one solution, the prompt, and the share of empty cells filled right."""

import random
from collections.abc import Iterator
from functools import cache
from itertools import permutations

from tasks.gdsd.config import PromptConfig
from tasks.gdsd.domains.base import Verdict
from tasks.gdsd.errors import DataError

SIDE, BOX = 4, 2
CELLS = SIDE * SIDE
EMPTY = "."
PATIENCE = 50_000  # draws without a new puzzle after which there are none left; at 12 empty cells 1 in 100 is new


class Sudoku:
    """4x4 Sudoku on 16 characters, row by row, with `.` for an empty cell.

    The prompt is the puzzle and `=`; the right answer is the filled grid, also 16 characters. The reward is the share
    of the empty cells filled right; solved means that the answer is the solution, clues included.
    """

    def problems(self, config: PromptConfig) -> Iterator[tuple[str, str]]:
        """Yields distinct puzzles with exactly one solution, and the solution.

        Raises:
            DataError: no new puzzle turns up.
        """
        source = random.Random(f"sudoku:{config.seed}")
        seen: set[str] = set()
        misses = 0
        while misses < PATIENCE:
            misses += 1
            solution = source.choice(all_solutions())
            empty = set(source.sample(range(CELLS), source.randint(config.min_empty, config.max_empty)))
            puzzle = "".join(EMPTY if cell in empty else digit for cell, digit in enumerate(solution))
            if puzzle not in seen and len(solutions(puzzle)) == 1:
                seen.add(puzzle)
                misses = 0
                yield puzzle, solution
        raise DataError(
            f"there are hardly more than {len(seen)} puzzles with {config.min_empty} to {config.max_empty} empty cells "
            f"and one solution ({PATIENCE} draws gave no new one); ask for fewer problems, or for others by "
            "prompts.min_empty and max_empty"
        )

    def phrase(self, problem: str) -> str:
        """Returns the puzzle and `=`, which anchors the positions of an answer."""
        return f"{problem}="

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
        """Judges an answer; one that is not 16 characters long fills no cell right."""
        empty = [cell for cell, clue in enumerate(problem) if clue == EMPTY]
        right = sum(answer[cell] == reference[cell] for cell in empty) if len(answer) == CELLS else 0
        return Verdict(reward=right / len(empty), solved=answer == reference)


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
    """Whether whole rows repeat no digit in a column, nor in a box that they fill."""
    columns = [grid[column::SIDE] for column in range(SIDE)]
    boxes = [
        grid[top + left : top + left + BOX] + grid[top + SIDE + left : top + SIDE + left + BOX]
        for top in range(0, len(grid) - SIDE, BOX * SIDE)
        for left in range(0, SIDE, BOX)
    ]
    return all(len(set(unit)) == len(unit) for unit in (*columns, *boxes))


def solutions(puzzle: str) -> list[str]:
    """Returns every solution of a puzzle."""
    clues = [(cell, digit) for cell, digit in enumerate(puzzle) if digit != EMPTY]
    return [grid for grid in all_solutions() if all(grid[cell] == digit for cell, digit in clues)]
