"""Rows out of JSON, CSV and Parquet files: each cell as it stands, and a refusal of what could be read in two ways."""

import csv
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.gdsd.errors import DataError
from tasks.gdsd.strict import once

Cells = dict[str, object]
LISTED = 5  # lines that an error names
NEAR = 30  # characters that an error quotes
DIGITS = 4000  # of a whole number
FIELD = 1 << 26  # characters of one CSV cell; a quote that is never closed makes one of the rest of the file
ENCODING = "utf-8-sig"  # spreadsheets begin a file with a byte order mark
# Commands of LaTeX of which JSON makes a tab or the end of a line, and the rest. What is left of the others could begin
# a word or a line as well, unless a space stands before it.
EATEN = r"text[a-z]{0,2}\{ theta times tfrac tbinom triangle tilde\{ neq\b nabla notin\b"
EATEN += r" right rho\b rangle rfloor rceil rbrac[ek] rvert rm\x20 root"
EATEN_BEHIND_SPACE = r"tanh?\b to\b tau\b top\b ne\x20 neg\x20 nmid\x20 nu\b"
CONTROL = re.compile(
    "|".join(
        [
            r"[\x00-\x08\x0b\x0c\x0e-\x1f]",  # no text has them
            *(rf"\{command[0]}(?={command[1:]})" for command in EATEN.split()),
            *(rf"(?<= )\{command[0]}(?={command[1:]})" for command in EATEN_BEHIND_SPACE.split()),
        ]
    )
)
HALF = "a text with half a character, a surrogate without its other half"
CONTROL_REMEDY = r"in JSON a backslash is written twice, as in \\frac"
# A command of LaTeX behind two backslashes, and a backslash that stands alone: a text with line breaks has both.
DOUBLED = re.compile(
    r"(?<!\\)\\\\(?:[dt]?frac|sqrt|boxed|times|cdot|text|left|leq?|geq?|pi|theta|angle|begin)(?![A-Za-z])"
)
SINGLE = re.compile(r"(?<!\\)\\(?:\\\\)*(?!\\)")
SPACED = re.compile(r' +".*"', re.DOTALL)  # a CSV cell whose quotes some programs take for marks, and others for text
ESCAPED = '\\"'
SPACE = re.compile(r"[ \t\r\n]*")
# What files are taken for by their first bytes: also downloads that went wrong, and those that still have to be opened.
BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer and not the file itself; run `git lfs pull`",
    b"\x1f\x8b": "compressed by gzip; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard; unpack it",
    b"BZh": "compressed by bzip2; unpack it",
    b"\xfd7zXZ": "compressed by xz; unpack it",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet; unpack it, or save it as CSV",
    b"ARROW1": "an Arrow file; write it as Parquet",
    b"\xff\xfe": "in UTF-16; save it as UTF-8",
    b"\xfe\xff": "in UTF-16; save it as UTF-8",
    b"<": "HTML or XML and no data; perhaps the page of an error was saved instead of the file",
}
PARQUET = b"PAR1"
WHOLE = {16: 2**11, 32: 2**24, 64: 2**53}  # bits of a float -> from here on it does not have every whole number


@dataclass(frozen=True)
class Rows:
    """Rows of a source: of its columns only those that were wanted, each where the row has it."""

    columns: list[str]  # all that there are
    rows: list[Cells]


def read(path: Path, wanted: Collection[str]) -> Rows:
    """Reads a file's rows; the suffix says which format it has.

    Values are what JSON knows: texts, numbers, truth values, lists, mappings and null. In CSV every cell is a text, and
    an empty one is null. Only wanted columns are looked at: what is in the others does not matter.

    Raises:
        DataError: the file is not of this format, or can be read in two ways; with the line, if it has lines.
    """
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if path.stat().st_size == 0:
        raise DataError("it is empty")
    for beginning, what in BEGINNINGS.items():
        if head.startswith(beginning):
            raise DataError(f"it is {what}")
    parquet = head.startswith(PARQUET)
    if parquet != (path.suffix == ".parquet"):
        raise DataError(f"it is {'' if parquet else 'not '}Parquet; give it the suffix of what it is")
    if path.suffix == ".csv" and head.startswith((b"{", b"[")):
        raise DataError("it is JSON; give it the suffix of what it is")
    if b"\0" in head and not parquet:
        raise DataError("it has NUL characters and is no text, or one in UTF-16; save it as UTF-8")
    try:
        found = {".parquet": _parquet, ".csv": _csv}.get(path.suffix, _json)(path, wanted)
    except UnicodeDecodeError as error:
        raise DataError(f"{_undecodable(path)} is not UTF-8 ({error.reason}); save it as UTF-8") from None
    if not found.rows:
        raise DataError("it has no rows")
    return found


def from_table(table: pa.Table, wanted: Collection[str]) -> Rows:
    """Returns the rows of an Arrow table.

    Raises:
        DataError: a wanted column occurs twice, or Python cannot hold its values.
    """
    names = _distinct(table.column_names, wanted)
    columns = {name: _values(name, table[name]) for name in names}
    return Rows(table.column_names, [{name: columns[name][row] for name in names} for row in range(table.num_rows)])


def is_whole(text: str) -> bool:
    """Whether a text has nothing that no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def foreign(value: object) -> str | None:
    """Says what in a cell is neither text nor number nor made of them, or None."""
    waiting = [value]  # a stack, because a file may nest lists deeper than Python calls functions
    while waiting:
        match waiting.pop():
            case None | bool() | int():
                continue
            case str() as text:
                if control := CONTROL.search(text):
                    near = text[max(control.start() - 8, 0) : control.end() + 8]
                    return f"a text with the control character {control[0]!r}, in {near!r}; {CONTROL_REMEDY}"
                if (double := DOUBLED.search(text)) and not SINGLE.search(text):
                    return f"a text in which every backslash is doubled, as in {double[0]}; write it once"
                if not is_whole(text):
                    return HALF
            case float() as number:
                if not math.isfinite(number):
                    return f"{number}, which is no number"
            case Decimal() as number:
                return f"the number {number!s:.40}, which has more digits than are kept; write it as a text"
            case list() as items:
                waiting += items
            case dict() as pairs:
                waiting += [*pairs.keys(), *pairs.values()]
            case other:
                return f"a value of type {type(other).__name__} ({other!r:.40}); write it as a text"
    return None


def _undecodable(path: Path) -> str:
    """Says in which line, and between which characters, the first byte stands that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                around = line[max(error.start - 16, 0) : error.start + 16]
                return f"line {number}, near {around.decode(errors='backslashreplace')!r},"
    return "it"


# JSON


def _json(path: Path, wanted: Collection[str]) -> Rows:
    names: dict[str, None] = {}
    rows: list[Cells] = []
    value: object = None
    with path.open(encoding=ENCODING) as file:
        for line, value in _documents(file):
            for row in value if isinstance(value, list) else [value]:
                if not isinstance(row, dict):
                    raise DataError(f"row {len(rows)}, in what begins in line {line}, is no object: {row!r:.60}")
                names.update(dict.fromkeys(row))
                rows.append({name: row[name] for name in wanted if name in row})
    if len(rows) == 1 and isinstance(value, dict) and _holds_rows(value, rows[0]):
        listed = ", ".join(map(repr, names))
        raise DataError(
            f"it is one object, of lists or mappings under {listed:.80}, and not an object for each row; write rows, "
            "as pandas does by to_json(orient='records', lines=True), or put what is one row into [ ]"
        )
    return Rows(list(names), rows)


def _holds_rows(whole: dict[str, object], cells: Cells) -> bool:
    """Whether a file's only object looks like the file's rows, by columns or under a key, and not like one row."""
    return all(isinstance(cell, list | dict) for cell in cells.values()) and any(
        isinstance(value, list | dict) for value in whole.values()
    )


def _documents(lines: Iterator[str]) -> Iterator[tuple[int, object]]:
    """Yields each JSON document and the line it begins in: one in each line, or laid out over several lines."""
    for number, line in enumerate(lines, 1):
        try:
            found = list(_decode(line, number))
        except DataError:  # it may end in another line
            yield from _decode(line + "".join(lines), number)
        else:
            yield from found


def _decode(text: str, line: int) -> Iterator[tuple[int, object]]:
    """Yields the JSON documents of a text that begins in this line of the file."""
    end, first = 0, line
    while (place := _behind_space(text, end)) < len(text):
        first += text.count("\n", end, place)
        try:
            value, end = DECODER.raw_decode(text, place)
        except json.JSONDecodeError as error:
            begun = f" (in what begins in line {first})" if line + error.lineno - 1 > first else ""
            near = text[error.pos : error.pos + NEAR].strip()
            said = f"{error.msg.removesuffix(' at')} at {repr(near) if near else 'the end of the file'}"
            raise DataError(f"line {line + error.lineno - 1}{begun}: {said}") from None
        except RecursionError:
            raise DataError(f"in what begins in line {first}: lists or objects lie too deep in each other") from None
        except ValueError as error:
            raise DataError(f"in what begins in line {first}: {error}") from None
        yield first, value
        first += text.count("\n", place, end)


def _behind_space(text: str, place: int) -> int:
    space = SPACE.match(text, place)
    return place if space is None else space.end()


def _whole(literal: str) -> int | Decimal:
    """Reads a number without point and exponent; as a Decimal where Python makes no int of so many digits."""
    return int(literal) if len(literal) <= DIGITS else Decimal(literal)


def _number(literal: str) -> float | Decimal:
    """Reads a number with a point or an exponent; as a Decimal where a float would be another number."""
    try:
        return _as_float(Decimal(literal))
    except ArithmeticError:  # of an exponent with dozens of digits
        return Decimal("Infinity")


def _as_float(number: Decimal) -> float | Decimal:
    """Returns the float that is written as this number, or the number itself where there is none."""
    nearest = float(number)
    return nearest if math.isfinite(nearest) and Decimal(repr(nearest)) == number else number


DECODER = json.JSONDecoder(object_pairs_hook=once, parse_float=_number, parse_int=_whole)


# CSV


def _csv(path: Path, wanted: Collection[str]) -> Rows:
    csv.field_size_limit(FIELD)
    with path.open(newline="", encoding=ENCODING) as file:
        first = file.readline()
        if first.startswith("sep="):
            raise DataError(f"its first line is {first.strip()!r}, which is for Excel alone; remove it")
        if "," not in first and (other := next((sign for sign in ";\t|" if sign in first), None)):
            raise DataError(f"its columns are separated by {other!r}; save it with commas")
        file.seek(0)
        lines: list[str] = []  # of one row, as they stand
        reader, begun = csv.reader(_keeping(file, lines), strict=True), 1
        odd: list[str] = []
        rows: list[Cells] = []
        try:
            header = next(filter(None, reader), [])
            places = {name: header.index(name) for name in _distinct(header, wanted)}
            begun = reader.line_num + 1
            lines.clear()
            for fields in reader:
                if fields == header:
                    raise DataError(f"line {begun} is the header again; remove it")
                if len(fields) == len(header):
                    if fault := next(filter(None, (_two_readings(fields[at], lines) for at in places.values())), None):
                        raise DataError(f"line {begun}: {fault}")
                    rows.append({name: fields[place] or None for name, place in places.items()})
                elif fields:  # a blank line has none
                    odd.append(f"line {begun} has {len(fields)}, {','.join(fields)!r:.60}")
                begun = reader.line_num + 1
                lines.clear()
        except csv.Error as error:
            raise DataError(
                f"in what begins in line {begun}: {error}; put texts with commas, quotes or line breaks in double "
                "quotes, and write a quote inside of them twice, not behind a backslash"
            ) from None
    if odd:
        raise DataError(
            f"{len(odd)} of {len(rows) + len(odd)} rows do not have the {len(header)} fields of the header: "
            f"{'; '.join(odd[:LISTED])}. Put texts with commas in double quotes, and end no line with a comma; the "
            f"header, which names the columns, is {','.join(header)!r:.60}"
        )
    return Rows(header, rows)


def _keeping(file: Iterable[str], lines: list[str]) -> Iterator[str]:
    for line in file:
        lines.append(line)
        yield line


def _two_readings(cell: str, lines: list[str]) -> str | None:
    """Says what some programs read differently of a cell in these lines, or None."""
    if SPACED.fullmatch(cell):
        return f"a space stands before the quote of {cell!r:.60}; remove it"
    # Inside of double quotes it would be doubled.
    if ESCAPED in cell and cell.replace('"', '""') not in "".join(lines):
        return (
            f"some programs take the backslashes before the quotes of {cell!r:.60} for a part of the text, and others "
            "do not; put the text in double quotes and write a quote inside twice, as pandas does without escapechar"
        )
    return None


# Parquet


def _parquet(path: Path, wanted: Collection[str]) -> Rows:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        table = file.read(columns=_distinct(names, wanted))
    found = from_table(table, wanted)
    return Rows(names, found.rows)


def _values(name: str, column: pa.ChunkedArray) -> list[object]:
    """A column's cells; a number is the one that its column writes, which for 32 bits is not the one of 64.

    A float so large that its neighbour is no whole number's may have been another number: it is left a Decimal.
    """
    try:
        if pa.types.is_floating(column.type):
            most = WHOLE[column.type.bit_width]
            texts = column.cast(pa.string()).to_pylist()
            floats = [None if cell is None else float(cell) for cell in texts]
            return [Decimal(cell) if cell is not None and most <= abs(cell) < math.inf else cell for cell in floats]
        return [_as_number(cell) for cell in column.to_pylist()]
    except (ValueError, OverflowError) as error:  # dates outside Python's years, texts that are not UTF-8
        raise DataError(f"column {name!r} of type {column.type} cannot be read: {error}") from None


def _as_number(cell: object) -> object:
    if not isinstance(cell, Decimal):
        return cell
    return int(cell) if cell == cell.to_integral_value() else _as_float(cell)


def _distinct(names: list[str], wanted: Collection[str]) -> list[str]:
    """The wanted names among those of a file, each of which has to mean one column."""
    found = [name for name in names if name in wanted]
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise DataError(f"the column {', '.join(map(repr, twice))} occurs more than once; rename or remove one of them")
    return found
