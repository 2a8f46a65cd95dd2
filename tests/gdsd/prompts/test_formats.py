"""Rows of files: each cell as it stands, whatever stands beside it, and words for a file that is not what it seems."""

import datetime
import gzip
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.gdsd.errors import DataError
from tasks.gdsd.prompts import formats
from tests.gdsd.series import Row

WANTED = {"question", "answer"}


def rows(folder: Path, name: str, content: str | bytes) -> list[Row]:
    """The rows that a file gives."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return formats.read(path, WANTED).rows


def pairs(*found: object) -> list[Row]:
    return [{"question": "q", "answer": answer} for answer in found]


def both(first: object, second: object) -> str:
    return "".join(json.dumps({"question": "q", "answer": answer}) + "\n" for answer in (first, second))


QUOTED = 'question,answer\n"a, ""b""\nc",1\n\n"d",2\n'
WHOLE = [{"question": 'a, "b"\nc', "answer": "1"}, {"question": "d", "answer": "2"}]
ROWS: dict[str, tuple[str, str, list[Row]]] = {
    # JSON: what stands in a row does not depend on other rows, on other columns, or on what it looks like
    "number beside text": ("p.jsonl", both("#### 21", 480), pairs("#### 21", 480)),
    "date": ("p.jsonl", both("2024-01-01", "2024-01-01T00:00:00Z"), pairs("2024-01-01", "2024-01-01T00:00:00Z")),
    "digits": ("p.jsonl", both("007", 10**30), pairs("007", 10**30)),
    "small number": ("p.jsonl", both(1e-7, 1.5), pairs(1e-7, 1.5)),
    "list beside null": ("p.jsonl", both(["a", 1, {"b": None}], None), pairs(["a", 1, {"b": None}], None)),
    "missing": ("p.jsonl", '{"question": "q"}\n{"answer": "a"}\n', [{"question": "q"}, {"answer": "a"}]),
    "unused and mixed": (
        "p.jsonl",
        '{"question": "q", "answer": "a", "note": NaN}\n{"question": "q", "answer": "b", "note": {"x": [1e999]}}\n'
        + both("c", "d").replace("}", f', "note": [{"1" * 9999}, 1e-{"1" * 99}]}}'),
        pairs("a", "b", "c", "d"),
    ),
    # its layouts
    "array": ("p.json", json.dumps(pairs("a", "b")), pairs("a", "b")),
    "array over lines": ("p.json", "\n " + json.dumps(pairs("a", "b"), indent=2), pairs("a", "b")),
    "objects over lines": ("p.jsonl", "\n".join(json.dumps(row, indent=1) for row in pairs("a", "b")), pairs("a", "b")),
    "objects on one line": ("p.json", both("a", "b").replace("\n", " "), pairs("a", "b")),
    "mark and Windows lines": ("p.jsonl", "\ufeff\n" + both("a", "b").replace("\n", "\r\n\r\n"), pairs("a", "b")),
    "line separator in a text": ("p.jsonl", '{"question": "q", "answer": "a\u2028b\u0085c"}', pairs("a\u2028b\u0085c")),
    # CSV: texts
    "quotes": ("p.csv", QUOTED, WHOLE),
    "quotes and Windows lines": ("p.csv", "\ufeff" + QUOTED.replace("\n", "\r\n").replace("\r\nc", "\nc"), WHOLE),
    "old Macintosh lines": ("p.csv", "question,answer\rq,a\rq,b\r", pairs("a", "b")),
    "index of pandas": ("p.csv", ",question,answer,\n0,q,a,\n1,q,b,\n", pairs("a", "b")),
    "unused columns of one name": ("p.csv", "note,question,note,answer\n1,q,2,a\n", pairs("a")),
    "quotes inside of a text": (
        "p.csv",
        'question,answer\nq,A 5" nail or a "6"\nq, 7"\n',
        [{"question": "q", "answer": 'A 5" nail or a "6"'}, {"question": "q", "answer": ' 7"'}],
    ),
    "backslashes as text": (
        "p.csv",
        'question,answer\n"Erd\\""os, $\\frac{1}{2}$, ""\\""",a\\\nq,"\\"\n',
        [{"question": 'Erd\\"os, $\\frac{1}{2}$, "\\"', "answer": "a\\"}, {"question": "q", "answer": "\\"}],
    ),
    "one row of lists": ("p.json", '[{"question": ["q"], "answer": ["a"]}]', [{"question": ["q"], "answer": ["a"]}]),
    "what looks like something else": (
        "p.csv",
        'question,answer\nq,007\nq,NA\nq,null\nq,None\nq,nan\nq,True\nq,1e5\nq,2024-01-01\nq, a \nq,\nq,""\n',
        pairs("007", "NA", "null", "None", "nan", "True", "1e5", "2024-01-01", " a ", None, None),
    ),
}


@pytest.mark.parametrize(("name", "content", "expected"), ROWS.values(), ids=ROWS.keys())
def test_a_cell_is_what_stands_in_the_file(name: str, content: str, expected: list[Row], tmp_path: Path) -> None:
    """If it fails, a policy is trained on other words or numbers than those of the file, or a file that has all that
    is needed is refused for the rest."""
    assert rows(tmp_path, name, content) == expected


FEW, QUOTE = "1 of 2 rows do not have the 2 fields of the header: line", "in double quotes, and write a quote inside"
REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "comma without quotes": ("p.csv", "question,answer\nq,a\nIf it rains, how many?,5\n", f"{FEW} 3 has 3, 'If it"),
    "comma behind each line": ("p.csv", "question,answer\nq,a,\n", "line 2 has 3, 'q,a,'.* end no line with a comma"),
    "too few fields": ("p.csv", 'question,answer\n"q\nq",a\nq\n', f"{FEW} 4 has 1, 'q'"),
    "quote that is not closed": (
        "p.csv",
        'question,answer\n"q,a\nq,b\n',
        f"begins in line 2: unexpected end of data.* {QUOTE}",
    ),
    "quotes with backslashes": ("p.csv", 'question,answer\n"say \\"q\\"",a\n', f"line 2: .*{QUOTE}"),
    "space before a quote": (
        "p.csv",
        'question,answer\nq,a\n"How\nmany?", "5"\n',
        """line 3: a space stands before the quote of ' "5"'; remove it""",
    ),
    "quotes behind backslashes": (
        "p.csv",
        'question,answer\nq,a\nSay \\"q\\" aloud,a\n',
        "line 3: some programs take the backslashes before the quotes of .* write a quote inside twice",
    ),
    "line for Excel": ("p.csv", "sep=,\nquestion,answer\nq,a\n", "its first line is 'sep=,', which is for Excel alone"),
    "header again": ("p.csv", "question,answer\nq,a\nquestion,answer\n", "line 3 is the header again; remove it"),
    "comment": ("p.csv", "# mine\nquestion,answer\n", "header: line 2 has 2, .* the header, .*, is '# mine'"),
    "rows by columns": (
        "p.json",
        '{"question": {"0": "q"}, "answer": {"0": "a"}}',
        r"one object, of lists or mappings under 'question', 'answer', .* to_json\(orient='records', lines=True\)",
    ),
    "rows in lists": ("p.json", '{"question": ["q"], "answer": ["a"]}', "it is one object, of lists or mappings"),
    "rows under a key": (
        "p.json",
        '{"version": 1, "data": [{"question": "q"}]}',
        "under 'version', 'data', and not an",
    ),
    "columns of one name": ("p.csv", "question,answer,answer\nq,a,b\n", "column 'answer' occurs more than once"),
    "semicolons": ("p.csv", '"question";"answer"\nq;1,5\n', "separated by ';'; save it with commas"),
    "tabs": ("p.csv", "question\tanswer\nq\ta\n", r"separated by '\\t'; save it with commas"),
    "JSON by the name of CSV": ("p.csv", both("a", "b"), "it is JSON; give it the suffix"),
    "header alone": ("p.csv", "question,answer\n", "it has no rows"),
    "empty": ("p.parquet", "", "it is empty"),
    "blank": ("p.jsonl", "\n  \n" * 100, "it has no rows"),
    "no rows": ("p.json", "[]", "it has no rows"),
    "repeated key": (
        "p.jsonl",
        both("a", "b") + '{"question": "q", "answer": 5, "answer": 6}',
        "begins in line 3: the",
    ),
    "repeated key deep inside": ("p.jsonl", '{"question": [{"x": {"y": 1, "y": 2}}]}', "key 'y' stands twice .* 1 and"),
    "line that was cut off": (
        "p.jsonl",
        both("a", "b") + '{"question": "q',
        "line 3: Unterminated string starting at '\"q",
    ),
    "line break in a text": ("p.jsonl", '{"question": "If it\nrains"}', "line 1: Invalid control character at 'rains"),
    "comma behind a line": ("p.jsonl", both("a", "b").replace("\n", ",\n"), "line 1: Expecting value at ',"),
    "array that was cut off": ("p.json", '[{"answer": "a"}', "line 1: .*delimiter at the end of the file"),
    "line that goes on": ("p.jsonl", both("a", "b") + '{"question": "q"\n{}', r"line 4 \(in what begins in line 3\): "),
    "fault inside of an array": ("p.json", '[\n{"question": "q"},\n{"question" "q"}\n]', r"line 3 \(in what begins"),
    "row that is no object": ("p.jsonl", both("a", "b") + '["q", "a"]', "row 2, in what begins in line 3, is no obj"),
    "nesting without end": ("p.jsonl", "[" * 100_000, "line 1: lists or objects lie too deep in each"),
    "Latin-1": (
        "p.jsonl",
        both("a", "é").encode("latin1").replace(rb"\u00e9", b"\xe9"),
        r"line 2, near .*\\xe9.*not UTF-8",
    ),
    "Latin-1 in CSV": (
        "p.csv",
        "question,answer\nq,a\ncafé,b\n".encode("latin1"),
        r"line 3, near .*\\xe9.*save it as UTF",
    ),
    "UTF-16": ("p.csv", "question,answer\n".encode("utf-16"), "in UTF-16; save it as UTF-8"),
    "UTF-16 without a mark": ("p.jsonl", both("a", "b").encode("utf-16-le"), "in UTF-16; save it as UTF-8"),
    "gzip": ("p.jsonl", gzip.compress(b"{}"), "compressed by gzip; unpack it"),
    "spreadsheet": ("p.csv", b"PK\x03\x04...", "a ZIP archive or a spreadsheet"),
    "Git LFS": (
        "p.parquet",
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "Git LFS pointer .* lfs pull",
    ),
    "page of an error": ("p.jsonl", "\n<!DOCTYPE html><html>", "perhaps the page of an error was saved"),
    "CSV by the name of Parquet": ("p.parquet", "question,answer\nq,a\n", "it is not Parquet"),
    "Parquet by the name of JSON": ("p.jsonl", b"PAR1\x15\x04", "it is Parquet; give it the suffix"),
}


@pytest.mark.parametrize(("name", "content", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_with_two_readings_or_none_is_refused(
    name: str, content: str | bytes, said: str, tmp_path: Path
) -> None:
    """If it fails, words are lost from problems without a sign, or nobody learns where a file is wrong."""
    with pytest.raises(DataError, match=f"(?s){said}"):
        rows(tmp_path, name, content)


def test_an_unused_column_may_change_after_many_rows(tmp_path: Path) -> None:
    """If it fails, a large file is refused because a column that nobody reads is null at first and a text later."""
    many = 20_000
    content = "".join(
        json.dumps({"question": "q" * 500, "answer": "a", "note": "late" if row == many - 1 else None}) + "\n"
        for row in range(many)
    )
    assert len(rows(tmp_path, "p.jsonl", content)) == many


def test_parquet_gives_python_values_of_wanted_columns(tmp_path: Path) -> None:
    """If it fails, a file that pandas or polars wrote is refused, or its numbers are not those that it shows."""
    kinds: dict[str, tuple[pa.Array, list[object]]] = {
        "large": (pa.array(["007", None], pa.large_string()), ["007", None]),
        "view": (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        "category": (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        "short": (pa.array([0.1, None], pa.float32()), [0.1, None]),
        "decimal": (pa.array([Decimal("0.10"), Decimal("21.00")]), [0.1, 21]),
        "whole": (pa.array([float(2**53 - 1), 2.0**53]), [2**53 - 1, Decimal(2**53)]),
        "nested": (pa.array([[{"stdin": "1"}], []]), [[{"stdin": "1"}], []]),
        "never read": (pa.array([10**15, 0], pa.timestamp("s")), []),
    }
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({name: array for name, (array, _) in kinds.items()}), path)
    found = formats.read(path, kinds.keys() - {"never read"})
    assert found.columns == list(kinds)
    assert found.rows == [{name: cells[row] for name, (_, cells) in kinds.items() if cells} for row in range(2)]
    with pytest.raises(DataError, match=r"column 'never read' of type timestamp\[.*\] cannot be read"):
        formats.read(path, kinds.keys())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"a", "a value of type bytes"),
        (datetime.date(2024, 1, 1), "a value of type date"),
        ([{"a": (1, 2)}], "a value of type tuple"),
        (float("nan"), "nan, which is no number"),
        ("a\0b", r"control character '\x00'"),
        ("Find $\frac{1}{2}$ of 4.", "in JSON a backslash is written twice"),  # "\frac" in JSON
        ("for \times 2", "control character"),
        (r"Find $\\frac{1}{2}$ of $\\pi$.", r"every backslash is doubled, as in \\frac; write it once"),
        ("a\neq b", "control character"),
        *(
            (f"f {command}", "control character")
            for command in ("\tan x", "\to 5", "\textbf{a}", "\rangle", "\nu$", "\ne 5")
        ),
        ({"a": ["\ud83d"]}, "half a character"),
        (formats.DECODER.decode("3.14159265358979323846"), "more digits than are kept; write it as a text"),
        (formats.DECODER.decode("1e400"), "more digits than are kept"),
        (formats.DECODER.decode("1" * 5000), "more digits than are kept"),
        (formats.DECODER.decode("-1e-" + "1" * 50), "more digits than are kept"),
    ],
)
def test_what_is_neither_text_nor_number_is_named(value: object, said: str) -> None:
    """If it fails, a row ends in a traceback, or its answer is another one than the file has."""
    assert said in str(formats.foreign(value))


@pytest.mark.parametrize(
    "value",
    [
        *(None, "é\n", True, 0, 10**30, 0.1, 1e300, ["a", {"b": [None]}], [[]] * 3),
        *(r"\frac{1}{2}", r"\\frac{1}{2} \pi", r"a\\b", r"\\\frac", r"print('\\n')"),
        *("an apple\tan orange", "def f():\n\to = 5", "$$\nu = 5$$", "a\r\nb"),
    ],
)
def test_texts_numbers_and_what_is_made_of_them_pass(value: object) -> None:
    """If it fails, every row is refused."""
    assert formats.foreign(value) is None
