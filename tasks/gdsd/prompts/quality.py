"""Whether problems are fit for training: columns, types, content, and leaks between the splits."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from tasks.gdsd.config.prompts import PromptConfig, TestConfig
from tasks.gdsd.domains import Domain, make
from tasks.gdsd.prompts import expectations, near_duplicates
from tasks.gdsd.prompts.expectations import Finding, QualityReport, expect, shorten
from tasks.gdsd.tables import PROMPTS, SPLITS

if TYPE_CHECKING:  # which takes seconds to import
    from great_expectations.expectations.expectation import Expectation

BLANK = r"^\s*$"
WRITTEN = "a text with something in it"
ROWS = "a row is named by its id; a row without one of its own has its number in the source, from 0 on, as id"
CORRECT = "Correct the prompt files, or generate the problems instead, and start the run again."
IDS = (
    "Each row needs an id of its own, in all splits together. Without a column `id` rows are numbered; "
    "{section}.columns: {{id: NAME}} takes the ids of another column. No option leaves out rows for ids."
)
UNUSABLE = (
    "{section}.unusable: drop leaves out rows without a usable problem or reference, and all but the first of equal "
    "problems in a file."
)
NEAR = "prompts.near_duplicates: drop leaves out problems that are equal or nearly equal to one of another split."


def check_prompts(tables: Mapping[str, pa.Table], config: PromptConfig) -> QualityReport:
    """Checks the tables train, validation and test as they were loaded: columns, types, content, leaks between them."""
    domain = make(config.domain)
    findings = []
    seen: dict[str, dict[object, str]] = {"id": {}, "problem": {}}  # column -> value -> where it was first
    known: list[tuple[str, str]] = []  # problems of the splits before, and which they are
    sets = ([str(value or "") for value in _columns(tables[split]).get("problem", [])] for split in SPLITS)
    features = near_duplicates.features(domain, *sets)
    for split in SPLITS:
        cells = _columns(tables[split])
        texts, rows = _texts(cells), _names(tables[split], cells)
        checks = _prompt_checks(cells, domain)
        for name in [name for name in seen if name in texts]:
            values, first = cells[name], seen[name]
            if split != SPLITS[0]:
                # A column of its own, because Great Expectations needs 10 s for a value set of 100,000.
                cells[f"{name}_elsewhere"] = [
                    (f"is {first[value]}", *([value] if name == "problem" else [])) if value in first else None
                    for value in values
                ]
                checks.append(_leaks(f"{name}_elsewhere", f"have the {name} of a row of another split"))
            for row, value in zip(rows, values, strict=True):
                if value is not None:
                    first.setdefault(value, f"{row} of {split}")
        if "problem" in texts:
            problems = [str(value or "") for value in cells["problem"]]
            if split != SPLITS[0]:
                near = near_duplicates.nearest(problems, [text for text, _ in known], features, config.similarity)
                cells["problem_nearly_elsewhere"] = [
                    None if other is None or known[other][0] == problem else _beside(*known[other], problem)
                    for problem, other in zip(problems, near, strict=True)
                ]
                checks.append(_leaks("problem_nearly_elsewhere", "are nearly a problem of another split"))
            known += [(problem, f"{row} of {split}") for row, problem in zip(rows, problems, strict=True)]
        findings += _validate(split, tables[split], cells, checks)
    return _report(config, domain, findings)


def _report(config: TestConfig, domain: Domain, findings: list[Finding]) -> QualityReport:
    """Returns what was found, with the remedies that help against it."""
    failed = {
        (finding.column or "", finding.expectation.removeprefix("expect_column_values_to_"))
        for finding in findings
        if finding.severity == "critical" and not finding.success
    }
    remedies = [CORRECT]
    if ("reference", "match_regex") in failed and domain.reference_form and not domain.generates:
        theirs = ", ".join(
            f"{name}: {config.columns.get(our, our)}"
            for name, our in zip(domain.columns, ("problem", "reference"), strict=False)
        )
        remedies.append(
            "Rows with `problem` and `reference` are taken as they stand; with "
            f"{config.section}.columns: {{{theirs}}} {config.domain.name} reads them as it reads a data set."
        )
    if any(column.startswith("id") for column, _ in failed):
        remedies.append(IDS.format(section=config.section))
    helps = {(name, kind) for name in ("problem", "reference") for kind in ("not_be_null", "be_unique", "match_regex")}
    if config.unusable == "refuse" and failed & helps:
        remedies.append(UNUSABLE.format(section=config.section))
    if any(column.startswith("problem_") for column, _ in failed):
        remedies.append(NEAR)
    return QualityReport(f"{config.domain.name} prompts", findings, " ".join(remedies), ROWS)


def _leaks(column: str, fault: str) -> "Expectation":
    """An expectation of a derived column, which has null in each row that does not leak."""
    return expect("expect_column_values_to_be_null", fault=fault, about=column.split("_")[0], column=column)


def _beside(theirs: str, which: str, own: str) -> tuple[str, str, str]:
    """Two problems from shortly before the place where they begin to differ, short enough to stand on one line."""
    both = list(zip(theirs, own, strict=False))
    alike = next((place for place, (one, other) in enumerate(both) if one != other), len(both))
    start = max(0, alike - 15)
    first, second = (("..." if start else "") + shorten(text[start:], 36) for text in (theirs, own))
    return f"is nearly {which}", second, first


def check_test(table: pa.Table, config: TestConfig, trained_on: Mapping[str, str], similarity: float) -> QualityReport:
    """Checks test problems that stand alone: columns, types, content, leaks from problems that are trained on.

    Args:
        trained_on: id -> problem.
    """
    cells = _columns(table)
    domain = make(config.domain)
    checks = _prompt_checks(cells, domain)
    if "problem" in _texts(cells) and trained_on:
        problems = [str(value or "") for value in cells["problem"]]
        names, others = list(trained_on), list(trained_on.values())
        features = near_duplicates.features(domain, problems, others)
        near = near_duplicates.nearest(problems, others, features, similarity)
        cells["problem_nearly_trained_on"] = [
            None if other is None else _beside(others[other], f"{names[other]!r} of train", problem)
            for problem, other in zip(problems, near, strict=True)
        ]
        checks.append(_leaks("problem_nearly_trained_on", "are nearly a problem that is trained on"))
    return _report(config, domain, _validate("test", table, cells, checks))


def _columns(table: pa.Table) -> dict[str, list[object]]:
    """The declared columns as Python objects.

    On any other dtype the type expectation compares the dtype's name ("str" since pandas 3, "object" before) instead
    of the cells, and can neither count nor show the rows. A name that occurs twice could mean either column, so it
    counts as missing.
    """
    return {name: _cells(table[name]) for name in PROMPTS.names if table.column_names.count(name) == 1}


def _texts(cells: Mapping[str, list[object]]) -> list[str]:
    """The columns that hold text only; one of another type fails as such, and what needs text is not asked of it."""
    return [name for name, own in cells.items() if all(cell is None or isinstance(cell, str) for cell in own)]


def _prompt_checks(cells: Mapping[str, list[object]], domain: Domain) -> list["Expectation"]:
    checks = [expect("expect_table_row_count_to_be_between", min_value=1)]
    for name in PROMPTS.names:
        checks.append(expect("expect_column_to_exist", column=name))
        if name in cells:
            checks.append(expect("expect_column_values_to_be_of_type", fault="are no text", column=name, type_="str"))
            checks.append(expect("expect_column_values_to_not_be_null", column=name))
    for name in _texts(cells):
        if name in ("id", "problem"):
            checks.append(expect("expect_column_values_to_be_unique", column=name))
        if name == "prompt":
            checks.append(
                expect("expect_column_values_to_not_match_regex", fault="are blank", column=name, regex=BLANK)
            )
        elif name in ("problem", "reference") and any(cell is not None for cell in cells[name]):
            pattern, form = _form(domain, name)
            fault = f"are not {form}"
            checks.append(expect("expect_column_values_to_match_regex", fault=fault, column=name, regex=pattern))
    return checks


def _form(domain: Domain, name: str) -> tuple[str, str]:
    """The pattern of a domain's problems or references, and what it says in words."""
    problem = name == "problem"
    pattern = domain.problem_pattern if problem else domain.reference_pattern
    form = domain.problem_form if problem else domain.reference_form
    default = WRITTEN if pattern == Domain.problem_pattern else f"a text that matches {pattern}"
    return pattern, form or default


def _validate(
    split: str, table: pa.Table, cells: Mapping[str, list[object]], checks: Sequence["Expectation"]
) -> list[Finding]:
    import pandas as pd

    columns = {name: pd.Series(values, dtype=object) for name, values in cells.items()}
    frame = pd.DataFrame(columns, index=range(table.num_rows))
    return expectations.validate(split, frame, table.column_names, checks, _names(table, cells))


def _names(table: pa.Table, cells: Mapping[str, list[object]]) -> list[str]:
    """How the rows of a table are named: by their ids, or by their numbers where they have none."""
    ids = cells.get("id", [None] * table.num_rows)
    return [shorten(repr(own), 40) if isinstance(own, str) else f"row {row}" for row, own in enumerate(ids)]


def _cells(column: pa.ChunkedArray) -> list[object]:
    """Text as it is; anything else as its type and its value in words, since a suite's store cannot hold any object."""
    kind = shorten(str(column.type))
    try:
        cells: list[object] = column.to_pylist()
    except (ValueError, OverflowError):  # a date outside Python's years
        return [(kind,)] * len(column)
    return [cell if cell is None or isinstance(cell, str) else (kind, shorten(repr(cell))) for cell in cells]
