"""What Sudoku says for the report: which cells are given, right, wrong and missing, and where they stand."""

import pytest
from pydantic import ValidationError

from tasks.gdsd.domains.drawing import SIDE, Cell, Grid
from tests.gdsd.domains.test_sudoku import DOMAIN, OTHER, PUZZLE, SEVERAL, SOLUTION, TAGGED, WRITTEN

LETTERS = {"given": "g", "right": "r", "wrong": "w", "missing": "m"}


def marks(grid: Grid | None) -> list[str]:
    """The marks of a grid by their first letters, a text for each row."""
    assert grid is not None and grid.box == 2
    return ["".join(LETTERS[cell.mark] for cell in row) for row in grid.rows]


def stands(grid: Grid | None) -> list[int | None]:
    assert grid is not None
    return [cell.place for row in grid.rows for cell in row]


def test_a_grid_tells_given_right_wrong_and_missing_cells() -> None:
    """If it fails, the report calls a wrong cell right, or hides that a clue has changed. 1, 7 and 12 are empty."""
    given = ["grgg", "gggr", "gggg", "rggg"]
    for problem, answer, drawn in (
        (PUZZLE, None, given),  # the reference
        (PUZZLE, SOLUTION, given),
        (PUZZLE, "1134341221434321", ["gwgg", "gggr", "gggg", "rggg"]),
        (PUZZLE, "2234341221434321", ["wrgg", "gggr", "gggg", "rggg"]),  # the first clue has changed
        (PUZZLE, "1.34341?2143 321", ["gmgg", "gggm", "gggg", "mggg"]),
        (SEVERAL, OTHER, ["gggg", "gggg", "rrrr", "rrrr"]),  # another solution than the reference
        (SEVERAL, f"{OTHER[:-1]}2", ["gggg", "gggg", "wrwr", "wrww"]),  # no solution: compared with the reference
    ):
        assert marks(DOMAIN.draw(problem, SOLUTION, answer)) == drawn, answer
        if answer is not None and " " not in answer:
            assert marks(TAGGED.draw(problem, SOLUTION, f"<answer>{answer}</answer>")) == drawn, answer


def test_too_few_and_too_many_cells_are_drawn_where_they_have_a_place() -> None:
    """If it fails, an answer of another length stops the report, or its cells stand where the verdict has no cell."""
    for answer, drawn, note in (
        (SOLUTION[:6], ["grgg", "ggmm", "mmmm", "mmmm"], ""),
        (f"{SOLUTION}123", ["grgg", "gggr", "gggg", "rggg"], "3 cells too many"),
    ):
        grid = TAGGED.draw(PUZZLE, SOLUTION, f"<answer>{answer}</answer>")
        assert marks(grid) == drawn and grid is not None and grid.note == note
        assert DOMAIN.draw(PUZZLE, SOLUTION, answer) is None
    assert TAGGED.draw(PUZZLE, SOLUTION, SOLUTION) is None, "without tags there is nothing to draw"


@pytest.mark.parametrize("written", WRITTEN.values(), ids=list(WRITTEN))
def test_cells_are_found_where_they_stand(written: str) -> None:
    """If it fails, a cell of the report has the step of another token."""
    for domain, answer in (
        (DOMAIN, written),
        (TAGGED, f"<reasoning>Row 1 is 1234.</reasoning>\n<answer>\n{written}\n</answer>\n"),
    ):
        found = stands(domain.draw(PUZZLE, SOLUTION, answer))
        assert "".join(answer[place] for place in found if place is not None) == SOLUTION


def test_cells_that_stand_in_two_places_have_none() -> None:
    """If it fails, a cell has the step of another token than the one whose digit was judged."""
    thought = f"<reasoning>{SOLUTION}</reasoning><answer>{SOLUTION}</answer>"
    assert stands(TAGGED.draw(PUZZLE, SOLUTION, thought)) == list(range(47, 63)), "the ones in the tags"
    again = f"```\n{SOLUTION}\n```\nor {SOLUTION}"
    indented = "It is\n  ```\n  1234\n  3412\n  2143\n  4321\n  ```"
    for answer in (again, indented):
        for domain, form in ((DOMAIN, "{}"), (TAGGED, "<answer>{}</answer>")):
            grid = domain.draw(PUZZLE, SOLUTION, form.format(answer))
            assert marks(grid)[0] == "grgg" and stands(grid) == [None] * 16


def test_a_flood_is_drawn_in_linear_time() -> None:
    """If it fails, one hostile answer keeps the report of a run for hours; quadratic, this takes hours too."""
    grid = TAGGED.draw(PUZZLE, SOLUTION, f"<answer>{'1' * 300_000}</answer>")
    assert grid is not None and grid.note == "299984 cells too many"


def test_what_cannot_be_drawn_is_refused_with_the_limit() -> None:
    """If it fails, a domain of one's own fills the report with a cell, or puts markup where a mark belongs."""
    cell = Cell(text="1", mark="right")
    Grid(rows=[[cell] * SIDE] * SIDE)
    for rows in ([], [[cell] * (SIDE + 1)], [[cell]] * (SIDE + 1)):
        with pytest.raises(ValidationError, match=r"32|at least 1"):
            Grid(rows=rows)
    for wrong in ({"text": "1" * 17}, {"text": "\ud800"}, {"mark": "'><b>"}, {"place": -1}, {"colour": "red"}):
        with pytest.raises(ValidationError):
            Cell.model_validate({"text": "1", "mark": "right"} | wrong)
