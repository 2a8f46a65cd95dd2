"""Grids in the report: marks that need no colour, the step of each cell, and nothing that a browser would run."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.gdsd import report
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.code import CodeConfig
from tasks.gdsd.domains.countdown import CountdownConfig
from tasks.gdsd.domains.custom import CustomConfig
from tasks.gdsd.domains.gsm8k import Gsm8kConfig
from tasks.gdsd.domains.math import MathConfig
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.report import drawn
from tasks.gdsd.report.answers import section
from tests.gdsd.report.records import HOSTILE, answers

PUZZLE, SOLUTION = "1.34341.2143.321", "1234341221434321"
SUDOKU, TAGGED = DomainChoice(SudokuConfig()), DomainChoice(SudokuConfig(format="tagged"))
CELL = re.compile(r"<td class='(\w+)(.*?)' title='(.*?)'><bdi>(.*?)</bdi><i[^>]*>(.*?)</i><span.*?</span>(.*?)</td>")
DRAWING = '''"""A domain that draws what it is told to."""

from tasks.gdsd.domains.drawing import Cell, Grid
from tasks.gdsd.domains.sudoku import Sudoku


class Drawing(Sudoku):
    """Draws an answer as one cell, a mistake or something else."""

    def __init__(self, how: str = "cell") -> None:
        super().__init__()
        self.how = how

    def draw(self, problem: str, reference: str, answer: str | None) -> Grid | None:
        """Draws an answer."""
        if answer is None:
            return None
        if self.how == "exit":
            raise SystemExit("<b>no</b>")
        if self.how == "markup":
            return "<b>1</b>"
        return Grid(rows=[[Cell(text=answer[:16], mark="wrong", place=0)]], note=answer[:200])
'''


def test_a_cell_has_its_mark_in_a_sign_and_its_step() -> None:
    """If it fails, a reader who sees no colours, or listens to the page, does not know which cells are wrong."""
    answer = f"12{SOLUTION[2:12]}.321"  # cell 12 is left empty
    answer = f"{answer[:7]}1{answer[8:]}"  # and 7 is wrong
    steps = [5, 0, 3, 2, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 4, 1]
    found = CELL.findall(drawn.draw(SUDOKU, PUZZLE, SOLUTION, answer, list(answer), steps))
    assert len(found) == 16
    assert found[0] == ("given", " t6", "given, step 6", "1", "", "<sub>6</sub>")  # 9 - 10 * 5 // 16
    assert found[1] == ("right", " t9 over", "right, step 1", "2", "✓", "<sub>1</sub>")
    assert found[7] == ("wrong", " t2 down over", "wrong, step 13", "1", "✗", "<sub>13</sub>")
    assert found[12] == ("missing", " t5 down", "missing, step 8", ".", "∅", "<sub>8</sub>")
    assert CELL.findall(drawn.draw(SUDOKU, PUZZLE, SOLUTION, None))[1] == ("right", " over", "right", "2", "✓", "")


@pytest.mark.parametrize(
    ("tokens", "steps"),
    [
        (["<answer>", "12", "34", "341", "2", "2143", "4321", "</answer>", "<end>"], "1122333455556666"),
        (["<", "answer>1", "23", "4341", "2214", "343", "21</answer>"], "1223333444455566"),
        (["<answer>", SOLUTION, "</ans", "wer>"], "1" * 16),
        (["<answer>", SOLUTION[:8], "\ufffd", SOLUTION[8:], "</answer>"], ""),  # a token is part of a character
        (["<answer>", SOLUTION[:8]], ""),
        ([], ""),
    ],
)
def test_a_cell_has_the_step_of_the_token_in_which_it_stands(tokens: list[str], steps: str) -> None:
    """If it fails, the order in a grid is not the sampler's, where a token is more or less than a cell."""
    answer = f"<answer>{SOLUTION}</answer>"
    table = drawn.draw(TAGGED, PUZZLE, SOLUTION, answer, tokens, list(range(len(tokens))))
    assert re.findall(r"<sub>(\d+)</sub>", table) == [str(int(step) + 1) for step in steps]
    assert table.count("<td ") == 16, "with or without their order"


def test_only_a_report_with_grids_explains_them() -> None:
    """If it fails, the page of another domain speaks of grids that it has not, or the marks are not explained."""
    for domain in (
        SUDOKU,
        DomainChoice(CountdownConfig()),
        DomainChoice(Gsm8kConfig()),
        DomainChoice(MathConfig()),
        DomainChoice(CodeConfig()),
    ):
        given = answers(["a", "b"], [0.0, 1.0])
        rows = [row | {"problem": PUZZLE, "reference": SOLUTION} for row in given.to_pylist()]
        table = report.pair_samples(*[given.from_pylist(rows, given.schema)] * 2)
        page = section(table, domain)
        assert (drawn.LEGEND in page) == ("<td class='given" in page) == (domain is SUDOKU), domain.name


def test_a_remark_stands_below_its_answer_as_text() -> None:
    """If it fails, a reader does not see which test failed, or what a program wrote runs in the browser."""
    given = answers(["first", "second"], [0.0, 1.0])
    rows = [row | {"remark": f"{row['completion']} {HOSTILE}"} for row in given.to_pylist()]
    table = report.pair_samples(given, given.from_pylist(rows, given.schema))
    page = section(table, SUDOKU)
    assert re.findall(r"<pre class='text remark' dir='auto'>(\w+) &lt;script&gt;", page) == ["second", "first"]
    assert "<script" not in page and "<img" not in page


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], DomainChoice]]:
    """A domain of one's own, by how it draws."""
    (tmp_path / "drawing_domain.py").write_text(DRAWING)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda how: DomainChoice(CustomConfig(path="drawing_domain:Drawing", options={"how": how}))
    sys.modules.pop("drawing_domain", None)


def test_a_domain_of_ones_own_draws_and_is_escaped(custom: Callable[[str], DomainChoice]) -> None:
    """If it fails, a domain outside the project cannot draw, or an answer runs code by way of its drawing."""
    table = drawn.draw(custom("cell"), PUZZLE, SOLUTION, HOSTILE, list(HOSTILE), [3] * len(HOSTILE))
    assert CELL.findall(table) == [
        ("wrong", " t2", "wrong, step 4", "&lt;script&gt;alert(&#x27;x", "✗", "<sub>4</sub>")
    ]
    assert "<script" not in table and "<img" not in table and "&lt;img" in table
    assert drawn.draw(custom("cell"), PUZZLE, SOLUTION, None) == ""


@pytest.mark.parametrize(
    ("how", "said"),
    [("exit", "SystemExit: &lt;b&gt;no&lt;/b&gt;"), ("markup", "TypeError: draw must return a Grid")],
)
def test_a_mistake_in_a_drawing_is_said_in_its_place(
    custom: Callable[[str], DomainChoice], how: str, said: str
) -> None:
    """If it fails, a run of hours ends in its last stage without a report, or the reason is nowhere."""
    table = drawn.draw(custom(how), PUZZLE, SOLUTION, "0")
    assert f"The domain could not draw it: {said}" in table and "<b>" not in table
