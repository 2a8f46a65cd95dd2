"""Texts that a program has left where a problem or an answer was: a missing value, or what it made of a number."""

import re

MISSING = re.compile(r"(?i:[-+]?nan|none|\(?null\)?|<na>|n/a|-?1\.#(?:ind|inf|qnan))|NaT|NA|\\N")
UNANSWERED = re.compile("proof|notfound")  # as in NuminaMath-1.5
CELL = re.compile(r"#[A-Z0-9/]+[!?]|#N/A|#{3,}|Err:[0-9]{3}|=\".*\"")  # of a spreadsheet
LIST = re.compile(r"\[(['\"]).*\1\]", re.DOTALL)
MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
DATE = re.compile(
    rf"[0-9]{{1,2}}-{MONTH}(?:-[0-9]{{2,4}})?|{MONTH}-[0-9]{{1,4}}|[0-9]{{1,2}}/[0-9]{{1,2}}/[0-9]{{4}}"
    r"|[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[ T][0-9]{2}:[0-9]{2}.*)?"
)
SHORTENED = re.compile(r"-?[0-9](?:\.[0-9]+)?E[-+][0-9]{2,3}")
KINDS = (
    (MISSING, "how programs write that a value is missing"),
    (UNANSWERED, "how data sets mark a problem without an answer"),
    (CELL, "what a spreadsheet shows instead of a value"),
    (LIST, "a list as programs write it; write what is in it"),
    (DATE, "a date, which spreadsheets make of 1/2 and of 1-2"),
    (SHORTENED, "a number as spreadsheets shorten it, which may have lost digits; write it out"),
)


def spoiled(text: str) -> str | None:
    r"""Says what a whole text is that is neither a problem nor an answer, or None.

    What is meant in spite of it can be written in another way, such as `\text{None}`, `1 / 2 / 2024` or `1.5e3`.
    """
    bare = text.strip()
    return next((what for pattern, what in KINDS if pattern.fullmatch(bare)), None)
