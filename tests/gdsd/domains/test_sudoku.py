"""Sudoku: the grids, the puzzles, and a verifier that nothing an answer contains can upset."""

import itertools
import json
import random
import re
import reprlib
from itertools import islice
from pathlib import Path

import pytest

from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.alphabet import ALPHABET
from tasks.gdsd.domains.base import Verdict
from tasks.gdsd.domains.sudoku import Sudoku, SudokuConfig, all_solutions, solutions
from tasks.gdsd.errors import ConfigError, DataError
from tasks.gdsd.prompts.problems import check_problems, make_prompts
from tasks.gdsd.prompts.quality import check_prompts

SOLUTION = "1234341221434321"
PUZZLE = "1.34341.2143.321"
# The corners of two rectangles can be exchanged, as in 124 of the 500 test puzzles of d1.
SEVERAL, OTHER = "12343412........", "1234341241232341"
FULLWIDTH = "".join(chr(0xFF10 + int(digit)) for digit in SOLUTION)  # int() and str.isdigit() take these for digits
DOMAIN = Sudoku()
TAGGED = Sudoku(SudokuConfig(format="tagged"))


def problems(count: int, seed: int = 0, least: int = 6, most: int = 10, shots: int = 0) -> list[tuple[str, str]]:
    domain = Sudoku(SudokuConfig(min_empty=least, max_empty=most, shots=shots))
    return list(islice(domain.problems(seed), count))


def judged(cells: float, formed: float, solved: bool, clues: float = 1.0) -> Verdict:
    return Verdict(parts={"cells": cells, "clues": clues, "format": formed}, solved=solved)


def valid(grid: str) -> bool:
    """Every row, column and box holds 1 to 4."""
    cells = [(row, column) for row in range(4) for column in range(4)]
    units = [[(i, j) for j in range(4)] for i in range(4)] + [[(j, i) for j in range(4)] for i in range(4)]
    units += [
        [cell for cell in cells if (cell[0] // 2, cell[1] // 2) == box] for box in itertools.product(range(2), repeat=2)
    ]
    return all({grid[4 * row + column] for row, column in unit} == set("1234") for unit in units)


def test_there_are_288_grids() -> None:
    """If it fails, right answers are refused or wrong ones accepted. 288 is the known number of 4x4 Sudoku grids."""
    grids = all_solutions()
    assert len(grids) == len(set(grids)) == 288
    assert all(map(valid, grids))
    assert list(grids) == sorted(grids)


def test_solutions_of_a_puzzle() -> None:
    """If it fails, puzzles with several answers are set, of which only one scores."""
    assert solutions(PUZZLE) == solutions(SOLUTION) == [SOLUTION]
    assert solutions("." * 16) == list(all_solutions())
    assert solutions("11" + "." * 14) == []
    several = solutions("12343412........")  # two rows leave several ways to go on
    assert len(several) > 1 and SOLUTION in several and all(grid.startswith("12343412") for grid in several)


def test_every_puzzle_has_one_solution_and_the_wanted_empty_cells() -> None:
    """If it fails, a right answer can score zero, as with 124 of the 500 test puzzles of the published code."""
    made = problems(150, least=3, most=12)
    assert all(solutions(puzzle) == [solution] for puzzle, solution in made)
    counts = {puzzle.count(".") for puzzle, _ in made}
    assert min(counts) >= 3 and max(counts) <= 12 and len(counts) > 5
    assert {puzzle.count(".") for puzzle, _ in problems(20, least=7, most=7)} == {7}


def test_puzzles_are_distinct_and_follow_from_the_seed() -> None:
    """If it fails, a test problem can be among the training problems, or a rerun has other problems."""
    made = problems(300)
    assert len({puzzle for puzzle, _ in made}) == 300
    assert made == problems(300)
    assert made != problems(300, seed=1)
    assert len(set(problems(200, least=1, most=1))) == 200, "of 288 grids times 16 cells"


def test_faults_are_named() -> None:
    """If it fails, a prompt file with an impossible puzzle trains the policy on a reward that it cannot reach."""
    form = "is not 16 characters of 1, 2, 3, 4"
    for problem, reference, message in (
        (PUZZLE[:-1], SOLUTION, "is not 16 characters"),
        (PUZZLE.replace("1", "5"), SOLUTION, form),
        (PUZZLE.replace("1", FULLWIDTH[0]), SOLUTION, form),
        (SOLUTION, SOLUTION, "has no empty cell"),
        ("11" + "." * 14, SOLUTION, "has no solution"),
        (PUZZLE, "1243342121344312", "is solved by '1234341221434321', not by '1243342121344312'"),
        (SEVERAL, "1234341221434312", "is solved by '1234341221434321', not by '1234341221434312'"),
        ("." * 14 + "12", SOLUTION, "not by '1234341221434321'"),
    ):
        fault = DOMAIN.fault(problem, reference)
        assert fault is not None and message in fault and repr(problem) in fault
    sound = [(PUZZLE, SOLUTION), (SEVERAL, SOLUTION), (SEVERAL, OTHER), *problems(3)]
    assert not any(DOMAIN.fault(*problem) for problem in sound)


def test_the_reward_is_the_share_of_empty_cells() -> None:
    """If it fails, the policy is trained towards something else than filling cells right.

    The puzzle's empty cells are 1, 7 and 12, with 2, 2 and 4 in the solution.
    """
    for cells, reward in (("224", 1.0), ("221", 2 / 3), ("111", 0.0), ("21.", 1 / 3)):
        answer = list(SOLUTION)
        for cell, digit in zip((1, 7, 12), cells, strict=True):
            answer[cell] = digit
        verdict = DOMAIN.verify(PUZZLE, SOLUTION, "".join(answer))
        assert verdict.parts["cells"] == pytest.approx(reward)
        assert verdict.parts["format"] == ("." not in cells)
        assert verdict.solved is (reward == 1.0)
    assert DomainChoice(SudokuConfig()).weights == {"cells": 1.0, "clues": 0.0, "format": 0.0}


def test_any_filled_grid_that_keeps_the_clues_is_solved() -> None:
    """If it fails, a right answer to a puzzle with several solutions counts as a wrong one.

    The puzzle lacks its lower half; of the reference's 8 cells there, `wrong` has the first 7.
    """
    wrong = SOLUTION[:-1] + "2"
    assert valid(OTHER) and OTHER != SOLUTION
    for domain, form in ((DOMAIN, "{}"), (TAGGED, "<answer>{}</answer>")):
        formed = float(domain is DOMAIN)
        for grid in (SOLUTION, OTHER):
            assert domain.verify(SEVERAL, SOLUTION, form.format(grid)) == judged(1.0, formed, solved=True)
        assert domain.verify(SEVERAL, SOLUTION, form.format(wrong)) == judged(7 / 8, formed, solved=False)


def test_solved_needs_the_clues_intact() -> None:
    """If it fails, a policy can score as solving a puzzle that it changed."""
    for cell in (0, 2, 15):
        changed = SOLUTION[:cell] + ("1" if SOLUTION[cell] != "1" else "2") + SOLUTION[cell + 1 :]
        assert DOMAIN.verify(PUZZLE, SOLUTION, changed) == judged(1.0, 1.0, solved=False, clues=12 / 13)
        tagged = TAGGED.verify(PUZZLE, SOLUTION, f"<answer>{changed}</answer>")
        assert tagged == judged(1.0, 0.0, solved=False, clues=12 / 13)


def test_the_share_of_the_clues_is_that_of_the_given_cells() -> None:
    """If it fails, nobody sees that training changes the clues. 13 of 16 are given; 1, 7 and 12 are empty."""
    for answer, bare, tagged in (
        (SOLUTION, 1.0, 1.0),
        (PUZZLE, 1.0, 1.0),  # whatever stands in the empty cells
        ("1" * 16, 4 / 13, 4 / 13),  # cells 0, 6, 9 and 15
        (SOLUTION[:12], 0.0, 10 / 13),  # as with `cells`, a bare answer has to have 16
        (f"{SOLUTION}1", 0.0, 1.0),
        (f"4{SOLUTION}", 0.0, 1 / 13),  # all are one place late, and only cell 8 has a 2 there as well
        ("", 0.0, 0.0),
    ):
        assert DOMAIN.verify(PUZZLE, SOLUTION, answer).parts["clues"] == bare
        assert TAGGED.verify(PUZZLE, SOLUTION, f"<answer>{answer}</answer>").parts["clues"] == tagged


ROWS = ["1 2 3 4", "3 4 1 2", "2 1 4 3", "4 3 2 1"]
RULE = "|---|---|---|---|---|"
NUMBERED = "\n".join(f"| {row} | {' | '.join(cells.split())} |" for row, cells in enumerate(ROWS, 1))
WRITTEN = {
    "lines": "1234\n3412\r\n2143\n4321\n",
    "spaces": "\n".join(ROWS),
    "space around": f" {SOLUTION}\n",
    "commas": ",".join(SOLUTION),
    "slashes": "1234/3412/2143/4321",
    "a fence": "```text\n" + "\n".join(ROWS) + "\n```",
    "a fence behind words": "Rows 1 and 2 were easy:\n```\n1234\n3412\n2143\n4321\n```",
    "lists": "[[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]]",
    "JSON": '{"row1": [1,2,3,4], "row2": [3,4,1,2], "row3": [2,1,4,3], "row4": [4,3,2,1]}',
    "boxes": "+---+---+\n|1 2|3 4|\n|3 4|1 2|\n+---+---+\n|2 1|4 3|\n|4 3|2 1|\n+---+---+",
    "line drawing": "\u250c\u2500\u2510\n" + "\n".join(f"\u2502{row}\u2502" for row in ROWS),
    "Markdown": "| A | B | C | D |\n|:-:|:-:|:-:|:-:|\n" + "\n".join(f"| {' | '.join(row.split())} |" for row in ROWS),
    "named rows": "\n".join(f"| **Row {row}** | {' | '.join(cells.split())} |" for row, cells in enumerate(ROWS, 1)),
    "labels": "\n".join(f"Row {row}: {cells}" for row, cells in enumerate(ROWS, 1)),
    "numbered lines": "\n".join(f"{row}. {cells}" for row, cells in enumerate(ROWS, 1)),
    "LaTeX": r"\begin{array}{|c|c|} \hline 12 & 34 \\ 34 & 12 \\ 21 & 43 \\ 43 & 21 \end{array}",
    "a box": rf"\boxed{{{SOLUTION}}}",
    "bold": f"**{SOLUTION}**.",
    "words": f"The filled 4x4 grid is {SOLUTION}.",
    "more words": f"The 16 digits of the 4-by-4 grid, or 4 by 4, are {SOLUTION}.",
    "rows from 0": "\n".join(f"row {row}: {cells}" for row, cells in enumerate(ROWS)),
    "rows in parentheses": "\n".join(f"Row ({row}): {cells}" for row, cells in enumerate(ROWS, 1)),
    "lines with a colon": "\n".join(f"{row}: {cells}" for row, cells in enumerate(ROWS, 1)),
    "places": ", ".join(f"r{cell // 4 + 1}c{cell % 4 + 1} = {digit}" for cell, digit in enumerate(SOLUTION)),
    "places in parentheses": "\n".join(f"({cell // 4 + 1}, {cell % 4 + 1}): {SOLUTION[cell]}" for cell in range(16)),
    "indices": "\n".join(f"grid[{cell // 4}][{cell % 4}] = {SOLUTION[cell]}" for cell in range(16)),
    "a chess board's places": "\n".join(f"{'ABCD'[cell // 4]}{cell % 4 + 1} = {SOLUTION[cell]}" for cell in range(16)),
    "cells in brackets": "".join(f"[{digit}]" for digit in SOLUTION),
    "JSON with numbers for keys": '{"1": [1,2,3,4], "2": [3,4,1,2], "3": [2,1,4,3], "4": [4,3,2,1]}',
    "bold numbers of lines": "\n".join(f"  **{row}.** {cells}" for row, cells in enumerate(ROWS, 1)),
    "numbers of rows and columns": f"| | 1 | 2 | 3 | 4 |\n{RULE}\n{NUMBERED}",
    "numbers from 0": f"|   | **0** | 1 | 2 | 3 |\n{RULE}\n"
    + "\n".join(f"| **{row}** | {' | '.join(cells.split())} |" for row, cells in enumerate(ROWS)),
    "numbers of rows": f"| Row | A | B | C | D |\n{RULE}\n{NUMBERED}",
    "numbers of rows without names": f"| | | | | |\n{RULE}\n{NUMBERED}",
    "numbers of columns": "| 1 | 2 | 3 | 4 |\n|---|---|---|---|\n"
    + "\n".join(f"| {' | '.join(row.split())} |" for row in ROWS),
    "numbers of columns and letters of rows": "    1 2 3 4\n  +---------+\n"
    + "\n".join(f"{letter} | {row} |" for letter, row in zip("ABCD", ROWS, strict=True))
    + "\n  +---------+",
    "a data frame": "   0  1  2  3\n" + "\n".join(f"{row}  {cells}" for row, cells in enumerate(ROWS)),
    "numbers set apart": "\n".join(f"{row} | {cells}" for row, cells in enumerate(ROWS, 1)),
    "numbers in parentheses": "\n".join(f"({row}) {cells}" for row, cells in enumerate(ROWS, 1)),
    "bullets and bold cells": "\n".join(f"* **{row[0]}**{row[1:]}" for row in ROWS),
    "double lines": "\u2554\u2550\u2557\n" + "\n".join(f"\u2551{row[:3]}\u2551{row[4:]}\u2551" for row in ROWS),
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=list(WRITTEN))
def test_a_right_grid_is_solved_however_it_is_written(written: str) -> None:
    """If it fails, a right answer scores 0 for its layout; one with a wrong digit must not gain by it either."""
    changed = written[::-1].replace("1", "2", 1)[::-1]  # the last cell, a clue
    for text, solved in ((written, True), (changed, False)):
        wanted = judged(1.0, 0.0, solved=solved, clues=1.0 if solved else 12 / 13)
        assert DOMAIN.verify(PUZZLE, SOLUTION, text) == wanted
        assert TAGGED.verify(PUZZLE, SOLUTION, f"<answer>\n{text}\n</answer>") == wanted


@pytest.mark.parametrize(
    ("written", "share"),
    [
        (SOLUTION[:-1], 3 / 4),  # 3 empty cells are right, and a clue is missing
        (SOLUTION[:12], 2 / 6),  # an empty cell and three clues are missing
        ("123 434\n1221", 2 / 8),  # an empty cell and five clues are missing
        (SOLUTION + "1", 3 / 4),
        (f"{SOLUTION} or {SOLUTION}", 3 / 19),
        (SOLUTION * 1000, 3 / (3 + 16 * 999)),
        ("2" * 400, 2 / (3 + 384)),
        (PUZZLE, 0.0),  # 16 signs are the cells, also those that are left empty
        ("1.34\n341.\n2143\n.321", 0.0),
        ("1234 341? 2143 ?321", 1 / 3),
        ("Impossible.", 0.0),
        ("\n".join(["1 2 3 4", *ROWS]), 1 / 7),  # a row too many, and no names of columns
        ("\n----\n".join(["1234", *ROWS]), 1 / 7),  # likewise, with a rule below each
        ("\n".join(["3 4 1 2", "-------", *ROWS]), 0.0),
        ("\n".join(f"{row} {cells}" for row, cells in enumerate(ROWS, 1)), 0.0),  # five columns
        ("\n".join(f"| {row} | {cells} |" for row, cells in enumerate(reversed(ROWS), 1)), 0.0),  # the lines' order
        (
            f"| 1 | 2 | 3 | 4 | 5 |\n{RULE}\n{NUMBERED}",
            3 / 12,
        ),  # the first 16 of 25 digits have the right ones by chance
    ],
)
def test_too_few_and_too_many_cells_never_count_in_full(written: str, share: float) -> None:
    """If it fails, a policy gains by a flood of digits, or has nothing to climb while it cannot count to 16."""
    verdict = TAGGED.verify(PUZZLE, SOLUTION, f"<answer>{written}</answer>")
    assert verdict.parts["cells"] == pytest.approx(share) and verdict.solved is False
    whole = len("".join(written.split())) == 16
    bare = verdict.parts | {"format": 0.0} if whole else dict.fromkeys(verdict.parts, 0.0)
    assert DOMAIN.verify(PUZZLE, SOLUTION, written) == Verdict(parts=bare, solved=False)


def test_a_bare_answer_of_16_characters_is_compared_place_by_place() -> None:
    """If it fails, the default run trains on other rewards than the ones it was measured with."""
    source = random.Random(0)
    for puzzle, solution in problems(200, least=3, most=5):
        answer = list(solution)
        for cell in source.sample(range(16), source.randint(0, 6)):
            answer[cell] = source.choice(ALPHABET + "1234" * 10)
        empty = [cell for cell in range(16) if puzzle[cell] == "."]
        share = sum(answer[cell] == solution[cell] for cell in empty) / len(empty)
        clues = sum(answer[cell] == solution[cell] for cell in range(16) if cell not in empty) / (16 - len(empty))
        formed, solved = float(set(answer) <= set("1234")), answer == list(solution)
        assert DOMAIN.verify(puzzle, solution, "".join(answer)) == judged(share, formed, solved, clues)
        assert DOMAIN.verify(puzzle, solution, "".join(answer[:-1])).parts["cells"] == 0


LONG = [SOLUTION + "1", "1" * 1_000_000]
ODD = ["\0" * 16, FULLWIDTH, "\N{SUPERSCRIPT TWO}" * 16, "\ud800" * 16, "." * 16]


@pytest.mark.parametrize("answer", ["", *LONG, *ODD], ids=lambda answer: ascii(answer[:8]) + str(len(answer)))
def test_hostile_answers_fill_no_cell_right(answer: str) -> None:
    """If it fails, one odd answer stops a round, or passes as right."""
    assert DOMAIN.verify("." * 16, SOLUTION, answer) == judged(0.0, 0.0, solved=False, clues=float(len(answer) == 16))
    assert TAGGED.verify("." * 16, SOLUTION, answer) == judged(0.0, 0.0, solved=False)  # there is no clue to change
    inside = TAGGED.verify(PUZZLE, SOLUTION, f"<reasoning></reasoning><answer>{answer}</answer>")
    digits = sum(sign in "0123456789" for sign in answer)  # of ASCII
    assert inside.parts["format"] == 1.0 and inside.solved is False
    assert inside.parts["cells"] == pytest.approx(3 / 4 if digits == 17 else 0.0)


# In words, and with examples


def test_a_tagged_answer_counts_what_stands_in_the_tags() -> None:
    """If it fails, the format of the prompt is not the one that is judged."""
    for answer, cells, formed, solved, clues in (
        (f"<reasoning>row 1</reasoning>\n <answer>\n{SOLUTION}\n</answer>\n", 1.0, 1.0, True, 1.0),
        (f"It is <answer>{SOLUTION}</answer>.", 1.0, 0.0, True, 1.0),
        ("<answer>1234341121434321</answer>", 2 / 3, 0.0, False, 1.0),
        (SOLUTION, 0.0, 0.0, False, 0.0),
        (f"<answer>{SOLUTION}</answer><answer>?</answer>", 0.0, 0.0, False, 0.0),
    ):
        assert TAGGED.verify(PUZZLE, SOLUTION, answer) == judged(cells, formed, solved, clues), answer


@pytest.mark.parametrize("format", ["bare", "tagged"])
def test_examples_are_solved_and_not_among_the_problems(format: str) -> None:
    """If it fails, the prompt shows the answer to a problem, or a wrong example."""
    config = SudokuConfig.model_validate({"format": format, "shots": 3, "min_empty": 1, "max_empty": 1})
    domain = Sudoku(config)
    assert len(domain.shots) == len(set(domain.shots)) == 3
    assert all(solutions(puzzle) == [solution] for puzzle, solution in domain.shots)
    prompt = domain.phrase(PUZZLE)
    assert ("<answer>" in prompt) is (format == "tagged")
    assert all(prompt.index(shot.problem) < prompt.index(shot.reference) for shot in domain.shots)
    assert prompt.rindex(PUZZLE) > max(prompt.rindex(shot.reference) for shot in domain.shots)
    assert not {puzzle for puzzle, _ in islice(domain.problems(0), 3000)} & {shot.problem for shot in domain.shots}
    assert not set(problems(200, shots=2)) - set(problems(202)), "the others stay as they are"


# From data sets


GRIDS: dict[str, object] = {
    **{f"{sign} for an empty cell": PUZZLE.replace(".", sign) for sign in ".0_*?x- "},
    "space around": f" {PUZZLE} ",
    "lines": "1.34\n341.\n2143\n.321\n",
    "lines with spaces for empty cells": "1 34\n341 \n2143\n 321",
    "spaces": "1 0 3 4\n3 4 1 0\n2 1 4 3\n0 3 2 1",
    "commas": "1,.,3,4,3,4,1,.,2,1,4,3,.,3,2,1",
    "borders": "1 . | 3 4\n3 4 | 1 .\n----+----\n2 1 | 4 3\n. 3 | 2 1",
    "a list as text": "[[1, 0, 3, 4], [3, 4, 1, 0], [2, 1, 4, 3], [0, 3, 2, 1]]",
    "lists": [[1, 0, 3, 4], [3, 4, 1, 0], [2, 1, 4, 3], [None, 3, 2, 1]],
    "a list of floats": [1.0, 0.0, 3.0, 4.0, 3.0, 4.0, 1.0, 0.0, 2.0, 1.0, 4.0, 3.0, 0.0, 3.0, 2.0, 1.0],
    "a list of texts": ["" if cell == "." else cell for cell in PUZZLE],
    "a list of rows": ["1.34", "341.", "2143", ".321"],
    "a number": 1034341021430321,
    "a float": 1034341021430321.0,
    "a float as text": "1034341021430321.0",
}


@pytest.mark.parametrize("written", GRIDS.values(), ids=list(GRIDS))
def test_grids_of_a_data_set_are_read(written: object) -> None:
    """If it fails, a published set of puzzles has to be rewritten before it can be trained on."""
    assert DOMAIN.read({"puzzle": written, "solution": SOLUTION}) == (PUZZLE, SOLUTION)
    filled = 1234341221434321 if isinstance(written, int | float) else "1234\n3412\n2143\n4321"
    assert DOMAIN.read({"puzzle": written, "solution": filled}) == (PUZZLE, SOLUTION)


@pytest.mark.parametrize("written", [34341021430321, 34341021430321.0, "34341021430321", "34341021430321.0"])
def test_lost_zeros_come_back(written: object) -> None:
    """If it fails, a column that was once read as numbers loses the puzzles that begin with an empty cell."""
    read = DOMAIN.read({"puzzle": written, "solution": SOLUTION})
    assert read == ("..34341.2143.321", SOLUTION) and DOMAIN.fault(*read) is None
    # A number that lost something else does not agree with the solution.
    assert "is solved by" in str(DOMAIN.fault(*DOMAIN.read({"puzzle": 12, "solution": SOLUTION})))


ODD_GRIDS = [True, None, "", -5, 1.5, float("nan"), 10**20, "5" * 16, FULLWIDTH, PUZZLE[:-1], PUZZLE + "1", [[]], b"1"]
DEEP: list[object] = []  # deeper than Python calls functions
for _ in range(10_000):
    DEEP = [DEEP]


@pytest.mark.parametrize("written", [*ODD_GRIDS, "1" * 10**6, DEEP], ids=lambda written: reprlib.repr(written))
def test_what_is_no_grid_is_refused(written: object) -> None:
    """If it fails, a broken cell becomes a puzzle, or its message does not say what is allowed."""
    for row, message in (
        ({"puzzle": written, "solution": SOLUTION}, "puzzle must have 16 cells, row by row: digits from 1 to 4, and ."),
        ({"puzzle": PUZZLE, "solution": written}, "solution must have 16 cells, row by row: digits from 1 to 4; not"),
        ({"puzzle": PUZZLE, "solution": PUZZLE}, "solution must have 16 cells"),
    ):
        with pytest.raises(DataError, match=re.escape(message)) as caught:
            DOMAIN.read(row)
        assert len(str(caught.value)) < 300


def loaded(tmp_path: Path, rows: str, unusable: str) -> list[tuple[str, str]]:
    """The test problems of a file in the form of the test set of d1."""
    file = tmp_path / "4x4_test_sudoku.csv"
    file.write_text("Puzzle,Solution\n" + rows)
    columns = {"puzzle": "Puzzle", "solution": "Solution"}
    sizes = {"train_size": 4, "validation_size": 2}
    config = {"columns": columns, "test_data": {"path": str(file)}, "unusable": unusable} | sizes
    prompts = PromptConfig.model_validate_json(json.dumps(config))
    made = make_prompts(prompts)
    check_prompts(made, prompts).require()
    check_problems(prompts, made)
    return [(row["problem"], row["reference"]) for row in made["test"].to_pylist()]


def test_the_form_of_the_published_test_set_is_read(tmp_path: Path) -> None:
    """If it fails, the 500 puzzles that results are published on cannot be used: 124 have several solutions."""
    rows = f"{PUZZLE.replace('.', '0')},{SOLUTION}\n{SEVERAL.replace('.', '0')},{OTHER}\n"
    sound = [(PUZZLE, SOLUTION), (SEVERAL, OTHER)]
    assert loaded(tmp_path, rows, "refuse") == sound
    broken = f"{rows}1100000000000000,{SOLUTION}\n"
    with pytest.raises(DataError, match=r"'test-000002': '11\.{14}' has no solution\n.* prompts\.unusable: drop"):
        loaded(tmp_path, broken, "refuse")
    assert loaded(tmp_path, broken, "drop") == sound


# The configuration


def test_what_asks_for_nothing_is_refused() -> None:
    """If it fails, a run stops in the random number generator, or trains on a reward that is always 0."""
    with pytest.raises(ConfigError, match=r" domain: min_empty 9 exceeds max_empty 8"):
        PromptConfig.model_validate_json('{"domain": {"name": "sudoku", "min_empty": 9}}')
    with pytest.raises(ValueError, match="weights are all 0"):
        DomainChoice(SudokuConfig(weights={"cells": 0.0}))
    assert DomainChoice(SudokuConfig(weights={"format": 0.5})).weights == {"cells": 0.0, "clues": 0.0, "format": 0.5}
