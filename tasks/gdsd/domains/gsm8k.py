"""GSM8K: word problems whose answer is one number, read from a data set."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

from pydantic import Field

from tasks.gdsd.domains import answers, notation
from tasks.gdsd.domains.base import Answer, Domain, DomainConfig, Problem, Verdict
from tasks.gdsd.errors import DataError

DIGITS = 30  # before the point, and after it
LENGTH = 200  # characters of a number with its signs, as it is written
MARK = "####"  # stands before the result in the data set's column `answer`

# In the plain form of `notation`, without `\text{}`: a name and its sign of equality, a currency before or after the
# sign of the number, the number, and a currency or percent behind. Thousands are in groups of three or not grouped.
MONEY = r"(?:US ?)?\\\$|[€£¥₹]|(?:USD|EUR|GBP|JPY|INR)(?![A-Za-z])"
WORD = r"(?i:(?:US )?dollars?|bucks?|euros?|yen|rupees?|percent|per cent)"
NUMBER = re.compile(
    rf"(?:(?:[A-Za-z]|(?i:total)) ?[=:] ?)?(?P<money>{MONEY})? ?(?P<sign>[-+])? ?(?(money)|(?:{MONEY})?) ?(?:"
    r"(?P<decimal>(?:[0-9]{1,3}(?:,[0-9]{3}){1,9}|[0-9]{1,30}|(?=\.[0-9]))(?:\.[0-9]{1,30})?)"
    r"|(?:(?P<whole>[0-9]{1,30})(?: |(?=\\)))?(?:(?P<over>[0-9]{1,30}) ?/ ?(?P<under>[0-9]{1,30})"
    r"|\\frac ?(?:\{ ?(?P<top>[0-9]{1,30}) ?\}|(?P<first>[0-9])) ?"
    r"(?:\{ ?(?P<bottom>[0-9]{1,30}) ?\}|(?P<second>[0-9]))))"
    rf" *(?:\\?%|{MONEY})? *(?:{WORD})?"
)
TEXT = re.compile(r"\\(?:text|mathrm) ?\{([^{}]*)\}")

INSTRUCTION = """\
Solve the problem. Work it out step by step inside <reasoning> and </reasoning>, then write the result, one number \
without words or units, inside <answer> and </answer>.
"""


EXAMPLES = (
    answers.Example(
        "Mara fills 6 jars with 14 beans each and has 9 beans left over. How many beans did she have?",
        "The jars hold 6 * 14 = 84 beans. With the 9 left over she had 84 + 9 = 93 beans.",
        "93",
    ),
    answers.Example(
        "A ferry carries 48 cars a trip. It makes 5 trips in the morning, and in the afternoon a third fewer than 9. "
        "How many cars can it carry in a day?",
        "A third of 9 trips is 3, so there are 9 - 3 = 6 trips in the afternoon. That is 5 + 6 = 11 trips a day, and "
        "11 * 48 = 528 cars.",
        "528",
    ),
    answers.Example(
        "A lamp costs $60. Its price first rises by 25% and is then lowered by $12. What does the lamp cost then?",
        "25% of 60 is 15, so the price rises to 60 + 15 = 75 dollars. Lowered by 12 it is 75 - 12 = 63 dollars.",
        "63",
    ),
    answers.Example(
        "Ivo reads 20 pages on Monday and half as many on each of the next 4 days. His book has 110 pages. How many "
        "pages are left?",
        "Half of 20 is 10, so the 4 days give 4 * 10 = 40 pages. He has read 20 + 40 = 60 pages, and 110 - 60 = 50 are "
        "left.",
        "50",
    ),
)


class Gsm8kConfig(DomainConfig):
    """Word problems with a number as the answer, read from files or from the hub."""

    name: Literal["gsm8k"] = "gsm8k"
    shots: int = Field(0, ge=0, le=len(EXAMPLES), description="worked examples in the prompt, not from the data set")


class Gsm8k(Domain):
    """Word problems as in GSM8K (arXiv 2110.14168), answered by one number inside `<answer>` tags.

    Part `correctness` is 1 where the tagged text, its last `\\boxed{}` or what stands behind its last `####` is a
    number that equals the reference exactly, else 0; part `format` is 1 for `<reasoning>...</reasoning>
    <answer>...</answer>` and nothing around them.
    """

    parts = {"correctness": 1.0, "format": 0.0}
    columns = ("question", "answer")
    example = Answer("A box holds 12 eggs. How many eggs are in 3 boxes?", "36", "36")
    reference_pattern = r"^-?([0-9]{1,30}([./][0-9]{1,30})?|\.[0-9]{1,30})$"
    reference_form = "one number in digits, such as 36, -0.5 or 1/2"

    def __init__(self, config: Gsm8kConfig = Gsm8kConfig()) -> None:
        self.config = config

    def read(self, row: Mapping[str, object]) -> Problem:
        """Takes as the reference what stands behind the last `####`, or the whole answer where there is none.

        Raises:
            DataError: the question is no text or empty, or the result is not one number.
        """
        question, answer = row["question"], row["answer"]
        if not isinstance(question, str) or not question.strip():
            raise DataError(f"question must be a text, not {question!r:.60}")
        result = notation.text_of(answer, "answer").rpartition(MARK)[2].strip()
        value = number(result)
        if value is None:
            raise DataError(
                f"answer must end in {MARK!r} and one number of at most {DIGITS} digits, not {result!r:.60}"
            )
        digits = re.sub(r"[^0-9./\-]", "", notation.plain(result))
        return Problem(question.strip(), digits if number(digits) == value else str(value))

    def phrase(self, problem: str) -> str:
        """Returns the instruction, the worked examples and the question."""
        return answers.worked(INSTRUCTION, EXAMPLES[: self.config.shots], problem)

    def fault(self, problem: str, reference: str) -> str | None:
        """Says what is wrong with a problem of a table, or None."""
        if not problem.strip():
            return "the question is empty"
        return None if number(reference) is not None else f"the reference {reference!r:.60} is not a number"

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        """Verifies an answer; numbers are equal as exact fractions, so 0.50 is 1/2 and 12.0 is 12."""
        tagged = answers.tagged(answer) or ""
        box = answers.boxed(tagged)
        found = number(tagged.rpartition(MARK)[2] if box is None else box)
        solved = found is not None and found == number(reference)
        return Verdict(
            parts={"correctness": float(solved), "format": float(answers.well_formed(answer))}, solved=solved
        )

    def solution(self, problem: str, reference: str) -> str:
        """Returns the number inside its tags."""
        return answers.answered(reference)


def number(text: str) -> Fraction | None:
    """Reads a text that is one number in ASCII digits, in any way of writing that `notation.plain` and `NUMBER` know.

    Percent and a currency are dropped. None where the text is anything else, or too long.
    """
    flat = TEXT.sub(lambda words: words[1], notation.plain(text)) if len(text) <= LENGTH else ""
    match = NUMBER.fullmatch(flat.strip())
    if match is None:
        return None
    if match["decimal"] is not None:
        value = Fraction(match["decimal"].replace(",", ""))
    else:
        under = int(match["under"] or match["bottom"] or match["second"])
        if under == 0:
            return None
        value = int(match["whole"] or 0) + Fraction(int(match["over"] or match["top"] or match["first"]), under)
    return -value if match["sign"] == "-" else value
