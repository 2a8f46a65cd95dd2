"""Sudoku: the grids, the puzzles, and a verifier that nothing an answer contains can upset."""

import itertools
from itertools import islice

import pytest

from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.base import Verdict
from tasks.gdsd.domains.sudoku import Sudoku, SudokuConfig, all_solutions, solutions
from tasks.gdsd.errors import ConfigError, DataError

SOLUTION = "1234341221434321"
PUZZLE = "1.34341.2143.321"
FULLWIDTH = "".join(chr(0xFF10 + int(digit)) for digit in SOLUTION)  # int() and str.isdigit() take these for digits
DOMAIN = Sudoku()
TAGGED = Sudoku(SudokuConfig(format="tagged"))


def problems(count: int, seed: int = 0, least: int = 6, most: int = 10, shots: int = 0) -> list[tuple[str, str]]:
    domain = Sudoku(SudokuConfig(min_empty=least, max_empty=most, shots=shots))
    return list(islice(domain.problems(seed), count))


def judged(cells: float, formed: float, solved: bool) -> Verdict:
    return Verdict(parts={"cells": cells, "format": formed}, solved=solved)


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
        ("12343412........", SOLUTION, "solutions, not one"),
        ("11" + "." * 14, SOLUTION, "has 0 solutions"),
        (PUZZLE, "1243342121344312", "has the solution '1234341221434321', not '1243342121344312'"),
    ):
        fault = DOMAIN.fault(problem, reference)
        assert fault is not None and message in fault and repr(problem) in fault
    assert all(DOMAIN.fault(*sound) is None for sound in ((PUZZLE, SOLUTION), *problems(3)))


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
    assert DomainChoice(SudokuConfig()).weights == {"cells": 1.0, "format": 0.0}


def test_solved_needs_the_clues_intact() -> None:
    """If it fails, a policy can score as solving a puzzle that it changed."""
    for cell in (0, 2, 15):
        changed = SOLUTION[:cell] + ("1" if SOLUTION[cell] != "1" else "2") + SOLUTION[cell + 1 :]
        assert DOMAIN.verify(PUZZLE, SOLUTION, changed) == judged(1.0, 1.0, solved=False)
        assert TAGGED.verify(PUZZLE, SOLUTION, f"<answer>{changed}</answer>") == judged(1.0, 0.0, solved=False)


LONG = [SOLUTION + "1", SOLUTION + "\n", " " + SOLUTION, "1" * 1_000_000]
ODD = ["\0" * 16, FULLWIDTH, "\N{SUPERSCRIPT TWO}" * 16, "\ud800" * 16, "." * 16]


@pytest.mark.parametrize("answer", ["", *LONG, *ODD], ids=lambda answer: ascii(answer[:8]) + str(len(answer)))
def test_hostile_answers_fill_no_cell_right(answer: str) -> None:
    """If it fails, one odd answer stops a round, or passes as right."""
    assert DOMAIN.verify("." * 16, SOLUTION, answer) == judged(0.0, 0.0, solved=False)
    assert TAGGED.verify("." * 16, SOLUTION, answer) == judged(0.0, 0.0, solved=False)
    inside = TAGGED.verify("." * 16, SOLUTION, f"<reasoning></reasoning><answer>{answer}</answer>")
    stripped = DOMAIN.verify("." * 16, SOLUTION, answer.strip())  # white space around a tagged answer is no part of it
    assert inside == judged(stripped.parts["cells"] or 0.0, 1.0, solved=stripped.solved is True)


# In words, and with examples


def test_a_tagged_answer_counts_what_stands_in_the_tags() -> None:
    """If it fails, the format of the prompt is not the one that is judged."""
    for answer, cells, formed, solved in (
        (f"<reasoning>row 1</reasoning>\n <answer>\n{SOLUTION}\n</answer>\n", 1.0, 1.0, True),
        (f"It is <answer>{SOLUTION}</answer>.", 1.0, 0.0, True),
        ("<answer>1234341121434321</answer>", 2 / 3, 0.0, False),
        (SOLUTION, 0.0, 0.0, False),
        (f"<answer>{SOLUTION}</answer><answer>?</answer>", 0.0, 0.0, False),
    ):
        assert TAGGED.verify(PUZZLE, SOLUTION, answer) == judged(pytest.approx(cells), formed, solved), answer


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


def test_rows_of_a_data_set_are_read() -> None:
    """If it fails, a set with 0 for empty cells cannot be trained on, or numbers without leading zeros are puzzles."""
    for sign in (".", "0", "_"):
        assert DOMAIN.read({"puzzle": PUZZLE.replace(".", sign), "solution": SOLUTION}) == (PUZZLE, SOLUTION)
    for row in ({"puzzle": 12, "solution": SOLUTION}, {"puzzle": PUZZLE, "solution": None}):
        with pytest.raises(DataError, match="must be texts of 16 characters, not"):
            DOMAIN.read(row)


# The configuration


def test_what_asks_for_nothing_is_refused() -> None:
    """If it fails, a run stops in the random number generator, or trains on a reward that is always 0."""
    with pytest.raises(ConfigError, match=r" domain: min_empty 6 exceeds max_empty 5"):
        PromptConfig.model_validate_json('{"domain": {"name": "sudoku", "min_empty": 6}}')
    with pytest.raises(ValueError, match="weights are all 0"):
        DomainChoice(SudokuConfig(weights={"cells": 0.0}))
    assert DomainChoice(SudokuConfig(weights={"format": 0.5})).weights == {"cells": 0.0, "format": 0.5}
