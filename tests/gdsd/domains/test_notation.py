"""The plain form of texts, and the text of a cell."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.gdsd.domains.notation import plain, text_of, unlabelled
from tasks.gdsd.errors import DataError


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("\N{MINUS SIGN}5", "-5"),
        ("\N{EN DASH}5", "-5"),
        ("x\N{SUPERSCRIPT ONE}\N{SUPERSCRIPT TWO}", "x^{12}"),
        ("\N{VULGAR FRACTION ONE HALF}", r"\frac{1}{2}"),
        ("\N{SQUARE ROOT}2\N{GREEK SMALL LETTER PI}r", r"\sqrt2\pi r"),
        ("2\N{MULTIPLICATION SIGN}3", r"2\times 3".replace(" ", "")),
        ("90\N{DEGREE SIGN}", r"90^\circ"),
        ("\N{MATHEMATICAL ITALIC SMALL X}\N{NO-BREAK SPACE}\N{ZERO WIDTH SPACE}= 5\n", "x = 5"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}36", "\N{RIGHT-TO-LEFT OVERRIDE}36"),
        ("\N{FULLWIDTH DIGIT ONE}", "\N{FULLWIDTH DIGIT ONE}"),
        (r"\left( 1,\ \dfrac{1}{2} \right)", r"( 1, \frac{1}{2} )"),
        (r"\nicefrac{1}{2}", r"\frac{1}{2}"),
        (r"\left|x\right|", r"\lvert x\rvert "),
        (r"**$\boxed{5.}$**.", "5"),
        (r"\( 5 \).", "5"),
        (r"\textbf{5}", "5"),
        (r"5\text{.}", "5"),
        ("5..", "5.."),
        ("5!", "5!"),
        ("$5", r"\$5"),
        ("$5$ cm", r"5\text{ cm}"),
        ("1{,}234", "1234"),
        (r"12\,345\,678", "12345678"),
        ("17 18", "17 18"),
        (r"\begin{matrix}1\\[2pt]R\end{matrix}", r"\begin{matrix}1\\ R\end{matrix}"),
        ("**Answer:** **5**", "5"),
        (r"\text{Answer: 5 cm}", r"\text{5 cm}"),
        ("Answer 5", "Answer 5"),
        ("Answer:", "Answer:"),
        ("=> 5", "=> 5"),
        ("~5", r"\approx5"),
        ("5~cm", "5 cm"),
        (r"\text{\$}5", r"\$5"),
        ("$$", ""),
    ],
)
def test_the_plain_form(text: str, wanted: str) -> None:
    """If it fails, a text says another thing after it was normalised, or two ways to write one thing stay two."""
    assert plain(text) == wanted.strip()


def test_spaces_before_a_label_take_linear_time() -> None:
    """If it fails, an answer of spaces holds up the scorer: a pattern that goes back would take years."""
    for text in ("**" + " " * 10**5 + "5", "answer" + " " * 10**5 + "5", "**the answer is" + " " * 10**5 + "=" * 9):
        assert unlabelled(text) in (text, "=" * 9, "**" + "=" * 8)


@given(st.one_of(st.text(), st.lists(st.sampled_from([*"$.,;*{}`\\ 5x", r"\boxed{", r"\text{"])).map("".join)))
def test_any_text_has_a_plain_form(text: str) -> None:
    """If it fails, one odd answer stops a round."""
    assert isinstance(plain(text), str)


def test_numbers_of_a_column_are_written_in_decimals() -> None:
    """If it fails, a reference 1e-07 is read as e - 7, or a true in the file becomes a reference."""
    cells = [1e-07, 1e20, 3.0, 1.5, -0.0, 0.1, 7, 10**40, Decimal("1E-7"), " 5 "]
    written = ["0.0000001", "1" + "0" * 20, "3", "1.5", "0", "0.1", "7", "1" + "0" * 40, "0.0000001", " 5 "]
    assert [text_of(cell, "answer") for cell in cells] == written
    for cell in (True, None, float("nan"), float("inf"), [5], {"a": 5}, b"5"):
        with pytest.raises(DataError, match="answer must be a text or a finite number"):
            text_of(cell, "answer")
