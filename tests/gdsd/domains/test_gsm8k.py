"""GSM8K: rows of the data set, the prompt, and numbers compared exactly."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.gdsd.domains.base import Problem
from tasks.gdsd.domains.gsm8k import Gsm8k, number
from tasks.gdsd.errors import DataError

DOMAIN = Gsm8k()
ROW = {
    "question": "Ann has 3 boxes of 12 eggs. How many eggs? ",
    "answer": "There are 3*12=<<3*12=36>>36 eggs.\n#### 36",
}


def test_numbers() -> None:
    """If it fails, right answers are refused because of how they are written, or compared as floats."""
    for text in ("18", "18.0", "+18", "$18", "018", r"\$18", r"18\%", " 18. "):
        assert number(text) == 18, text
    for text in (
        "$18$",
        "**18**",
        "*18*",
        "18\\",
        r"\textcolor{red}{18}",
        "18$",
        r"\boxed{18}",
        r"$\boxed{18}$.",
        r"\(18\)",
        "36/2",
        r"\frac{36}{2}",
        r"\text{18}",
    ):
        assert number(text) == 18, text
    for text in ("= 18", "x = 18", "C: 18", "Answer: 18", "**Answer:** $18", "The answer is 18.", r"\text{Total} = 18"):
        assert number(text) == 18, text
    for text in ("18 dollars", r"\$18\text{ dollars}", "$18$ dollars", "18 USD", "US$18", "18 percent", "18 euros"):
        assert number(text) == 18, text
    for text in (
        "\N{EURO SIGN}18",
        "18 \N{POUND SIGN}",
        "\N{YEN SIGN}18",
        r"\text{\$18}",
        "$\\$18$",
        "'18'",
        "```18```",
    ):
        assert number(text) == 18, text
    for text in ("1/2", r"\frac12", r"\dfrac{1}{2}", "\N{VULGAR FRACTION ONE HALF}", "0.5", ".50", "2/4"):
        assert number(text) == Fraction(1, 2), text
    for text in ("-2 1/2", r"-2\frac{1}{2}", "\N{MINUS SIGN}2.5", r"-\$2.50", r"\$-5/2"):
        assert number(text) == Fraction(-5, 2), text
    for text in ("1,234", "1{,}234", r"1\,234", "1 234", "$1,234$", r"1,\! 234", "1~234"):
        assert number(text) == 1234, text
    assert number("$-18") == number("-$18") == -18
    assert number("$1,234,567.50.") == Fraction(2469135, 2) and number(".5") == Fraction(1, 2)
    assert number("9" * 30) == int("9" * 30)


def test_other_texts_are_no_numbers() -> None:
    """If it fails, an answer that hedges or is no number passes as one."""
    texts = [
        "",
        ".",
        "-",
        "$",
        "%",
        "18 eggs",
        "17 18",
        "17 or 18",
        "12,34",
        "1, 234",
        "1,2345",
        ",123",
        "1e3",
        "1e-07",
        "--1",
        "1/0",
    ]
    texts += ["about 18", "~18", "$~18$", "\N{ALMOST EQUAL TO}18", "x \N{ALMOST EQUAL TO} 18", "> 18", "=> 18", "18+"]
    texts += ["2x = 18", "-x = 18", "half = 18", "Answer: about 18", "The answer is not 18", "Answer: 18 or 19"]
    texts += ["18 cents", "18\N{CENT SIGN}", "18 million dollars", "18 dollars short", "18k", "18 times", "18!", "(18)"]
    texts += ["x = 18 = 19", "0x10", "1_000", "18..", "inf", "nan", "1\x00", "9" * 31, "1/2/3"]
    texts += ["\N{ARABIC-INDIC DIGIT ONE}", "\N{FULLWIDTH DIGIT ONE}", r"18\text{ eggs}", r"\boxed{17} \boxed{18}"]
    assert [text for text in texts if number(text) is not None] == []


@given(st.integers(-(10**29), 10**29), st.integers(0, 10**9), st.text("0123456789.,$%+- \\", max_size=120))
def test_a_number_is_read_back_and_any_text_read(whole: int, decimals: int, text: str) -> None:
    """If it fails, the reader changes numbers, or one odd answer stops a round."""
    assert (number(text) or 0) < 10**30
    assert number(f"{whole:,}") == number(str(whole)) == whole
    assert number(f"{whole}.{decimals}") == Fraction(f"{whole}.{decimals}")


def test_rows_of_the_data_set() -> None:
    """If it fails, GSM8K cannot be read, or references keep their commas and never match."""
    assert DOMAIN.read(ROW) == Problem("Ann has 3 boxes of 12 eggs. How many eggs?", "36")
    assert DOMAIN.read(ROW | {"answer": "#### 1 #### -1,234.50"}).reference == "-1234.50"
    assert DOMAIN.read(ROW | {"answer": 36}).reference == "36"
    assert DOMAIN.read(ROW | {"answer": 1e20}).reference == "1" + "0" * 20
    assert DOMAIN.read(ROW | {"answer": "#### 1 1/2"}).reference == "3/2"
    assert DOMAIN.read(ROW | {"answer": "#### .5"}).reference == ".5" and re.search(DOMAIN.reference_pattern, ".5")
    assert DOMAIN.verify("q", "3/2", "<answer>1.5</answer>").solved is True
    for broken in ("#### many", "36 eggs", "", "####", "1e-07"):
        with pytest.raises(DataError, match="one number"):
            DOMAIN.read(ROW | {"answer": broken})
    for broken in (None, True, [36], float("nan")):
        with pytest.raises(DataError, match="answer must be a text or a finite number"):
            DOMAIN.read(ROW | {"answer": broken})
    for empty in ("", " ", None, 5):
        with pytest.raises(DataError, match="question must be a text"):
            DOMAIN.read(ROW | {"question": empty})
    assert DOMAIN.fault("How many?", "36") is None
    assert "is not a number" in str(DOMAIN.fault("How many?", "many")) and "is empty" in str(DOMAIN.fault(" ", "36"))


@pytest.mark.parametrize(
    "answer, correctness, form",
    [
        ("<reasoning>3 * 12</reasoning>\n<answer>36</answer>", 1.0, 1.0),
        ("<answer>36.00</answer>", 1.0, 0.0),
        (r"<answer>\boxed{36}</answer>", 1.0, 0.0),
        (r"<answer>So it is \boxed{35}, no, $\boxed{36}$.</answer>", 1.0, 0.0),
        (r"<answer>36, or \boxed{35}</answer>", 0.0, 0.0),
        ("<answer>3 * 12 = 36\n#### 36</answer>", 1.0, 0.0),
        ("<answer>#### 36 #### 35</answer>", 0.0, 0.0),
        ("<answer>35 or 36</answer>", 0.0, 0.0),
        ("<reasoning>3 * 12</reasoning><answer>35</answer>", 0.0, 1.0),
        ("<reasoning>36</reasoning><answer></answer>", 0.0, 1.0),
        ("<answer>36</answer><answer>35</answer>", 0.0, 0.0),
        ("36", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_verdicts(answer: str, correctness: float, form: float) -> None:
    """If it fails, the reward is not what the document says."""
    verdict = DOMAIN.verify("How many?", "36", answer)
    assert verdict.parts == {"correctness": correctness, "format": form}
    assert verdict.solved is (correctness == 1.0)
