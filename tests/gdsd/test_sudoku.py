"""Sudoku: the grids, the puzzles, and a verifier that nothing an answer contains can upset."""

import itertools
from itertools import islice

import pytest

from tasks.gdsd.config import PromptConfig
from tasks.gdsd.domains import DOMAINS
from tasks.gdsd.domains.base import Verdict
from tasks.gdsd.domains.sudoku import Sudoku, all_solutions, solutions

SOLUTION = "1234341221434321"
PUZZLE = "1.34341.2143.321"
FULLWIDTH = "".join(chr(0xFF10 + int(digit)) for digit in SOLUTION)  # int() and str.isdigit() take these for digits
DOMAIN = Sudoku()


def problems(count: int, seed: int = 0, least: int = 6, most: int = 10) -> list[tuple[str, str]]:
    return list(islice(DOMAIN.problems(PromptConfig(seed=seed, min_empty=least, max_empty=most)), count))


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
    assert solutions(PUZZLE) == [SOLUTION]
    assert solutions(SOLUTION) == [SOLUTION]
    assert solutions("." * 16) == list(all_solutions())
    assert solutions("11" + "." * 14) == []
    # Rows 1 and 2 given, nothing else: 4x4 grids always leave several ways to complete them.
    several = solutions("12343412........")
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


def test_a_stream_is_distinct_to_its_end() -> None:
    """If it fails, small spaces of puzzles repeat themselves. One empty cell: 288 grids times 16 cells; 200 of them."""
    made = problems(200, least=1, most=1)
    assert len(set(made)) == 200


@pytest.mark.parametrize(
    "problem, reference, message",
    [
        (PUZZLE[:-1], SOLUTION, "is not 16 characters"),
        (PUZZLE + ".", SOLUTION, "is not 16 characters"),
        ("", SOLUTION, "is not 16 characters"),
        (PUZZLE.replace("1", "5"), SOLUTION, "is not 16 characters of 1, 2, 3, 4"),
        (PUZZLE.replace(".", "0"), SOLUTION, "is not 16 characters of 1, 2, 3, 4"),
        (PUZZLE.replace("1", FULLWIDTH[0]), SOLUTION, "is not 16 characters of 1, 2, 3, 4"),
        (SOLUTION, SOLUTION, "has no empty cell"),
        ("12343412........", SOLUTION, "solutions, not one"),
        ("11" + "." * 14, SOLUTION, "has 0 solutions"),
        (PUZZLE, "1243342121344312", "has the solution '1234341221434321', not '1243342121344312'"),
        (PUZZLE, "", "has the solution"),
    ],
)
def test_faults_are_named(problem: str, reference: str, message: str) -> None:
    """If it fails, a prompt file with an impossible puzzle trains the policy on a reward that it cannot reach."""
    fault = DOMAIN.fault(problem, reference)
    assert fault is not None and message in fault and repr(problem) in fault


def test_sound_problems_have_no_fault() -> None:
    """If it fails, good prompt files are refused."""
    assert DOMAIN.fault(PUZZLE, SOLUTION) is None
    assert all(DOMAIN.fault(puzzle, solution) is None for puzzle, solution in problems(50))


def test_the_reward_is_the_share_of_empty_cells() -> None:
    """If it fails, the policy is trained towards something else than filling cells right.

    The puzzle's empty cells are 1, 7 and 12, with 2, 2 and 4 in the solution.
    """
    for cells, reward in (("224", 1.0), ("221", 2 / 3), ("111", 0.0), ("21.", 1 / 3)):
        answer = list(SOLUTION)
        for cell, digit in zip((1, 7, 12), cells, strict=True):
            answer[cell] = digit
        verdict = DOMAIN.verify(PUZZLE, SOLUTION, "".join(answer))
        assert verdict.reward == pytest.approx(reward)
        assert verdict.solved is (reward == 1.0)


def test_solved_needs_the_clues_intact() -> None:
    """If it fails, a policy can score as solving a puzzle that it changed."""
    for cell in (0, 2, 15):
        changed = SOLUTION[:cell] + ("1" if SOLUTION[cell] != "1" else "2") + SOLUTION[cell + 1 :]
        assert DOMAIN.verify(PUZZLE, SOLUTION, changed) == Verdict(reward=1.0, solved=False)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        SOLUTION[:-1],
        SOLUTION + "1",
        SOLUTION + "\n",
        " " + SOLUTION,
        "\0" * 16,
        FULLWIDTH,
        "\N{SUPERSCRIPT TWO}" * 16,
        "\N{COMBINING ACUTE ACCENT}" * 16,
        "\ud800" * 16,
        "." * 16,
        "1" * 1_000_000,
        "{}" * 8,
        "%s" * 8,
    ],
    ids=lambda answer: ascii(answer[:8]) + str(len(answer)),
)
def test_hostile_answers_fill_no_cell_right(answer: str) -> None:
    """If it fails, one odd answer stops a round, or passes as right."""
    assert DOMAIN.verify("." * 16, SOLUTION, answer) == Verdict(reward=0.0, solved=False)


def test_the_prompt_holds_the_puzzle() -> None:
    """If it fails, the policy does not see the clues, or two puzzles look alike to it."""
    assert PUZZLE in DOMAIN.phrase(PUZZLE)
    assert DOMAINS["sudoku"].phrase(PUZZLE) == DOMAIN.phrase(PUZZLE)
