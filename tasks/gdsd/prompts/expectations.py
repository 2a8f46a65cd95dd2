"""Checks of tables by Great Expectations: what was found, in words, as a page and as a refusal."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

from tasks.gdsd.errors import QualityError

if TYPE_CHECKING:  # both take seconds to import
    import pandas as pd
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation

Severity = Literal["critical", "warning"]
EXAMPLES = 5
SINGULAR = {"are": "is", "have": "has"}


@dataclass(frozen=True)
class Finding:
    """What one expectation found in one table."""

    expectation: str  # snake_case name in Great Expectations
    table: str
    column: str | None  # None for the table as a whole
    about: str | None  # the column as its owner knows it, where `column` is derived from it
    severity: Severity
    success: bool
    unexpected: int  # rows; all of them where the expectation is about the table or an aggregate
    total: int  # rows the expectation looked at
    examples: list[str]  # first offending rows; empty where the expectation holds
    fault: str  # what offending rows are or have, in words; empty where the expectation is not about rows

    @property
    def where(self) -> str:
        """The table, and the column if the finding is about one."""
        column = self.about or self.column
        return f"{self.table}.{column}" if column else self.table

    @property
    def summary(self) -> str:
        """The finding on one line."""
        return ": ".join(filter(None, [self.where, self.counts, ", ".join(self.examples)]))

    @property
    def counts(self) -> str:
        """How many rows offend, and by what; empty where the expectation is not about rows."""
        verb, _, rest = self.fault.partition(" ")
        verb = SINGULAR[verb] if verb in SINGULAR and self.unexpected == 1 else verb
        return self.fault and f"{self.unexpected} of {self.total} rows {verb} {rest}"


@dataclass(frozen=True)
class QualityReport:
    """What a suite found."""

    name: str
    findings: list[Finding]
    remedy: str  # what the owner of a table that is refused should do
    rows: str = "rows are counted from 0"  # how the examples name a row

    @property
    def failures(self) -> list[Finding]:
        """Critical expectations that failed."""
        return [finding for finding in self.findings if finding.severity == "critical" and not finding.success]

    @property
    def warnings(self) -> list[Finding]:
        """Expectations that failed without making the table unfit."""
        return [finding for finding in self.findings if finding.severity == "warning" and not finding.success]

    def html(self) -> str:
        """Returns the findings as an HTML table, failed ones first; prompts and answers in it are escaped."""
        passed = [finding for finding in self.findings if finding.success]
        rows = ["<tr><th>result<th>column<th>expectation<th>against it<th>first of it</tr>"]
        for finding in (*self.failures, *self.warnings, *passed):
            result = "passed" if finding.success else "FAILED" if finding.severity == "critical" else "warning"
            cells = [escape(text) for text in (result, finding.where, finding.expectation, finding.counts)]
            cells.append("<br>".join(map(escape, finding.examples)))
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        counts = f"passed {len(passed)} of {len(self.findings)} expectations; {self.rows}"
        return f"<table><caption>{escape(self.name)}: {counts}</caption>{''.join(rows)}</table>"

    def require(self) -> None:
        """Refuses tables that are unfit.

        Raises:
            QualityError: a critical expectation failed; the message names each that did, its count and first rows.
        """
        if not (failures := self.failures):
            return
        room = max(120, min(600, 2400 // len(failures)))  # characters each, so that even dozens fit on a screen
        counts = f"{len(failures)} of {len(self.findings)} checks failed; {self.rows}"
        lines = [f"  {shorten(finding.summary, room)}" for finding in failures]
        raise QualityError("\n".join([f"{self.name}: {counts}:", *lines, self.remedy]))


def expect(
    name: str, severity: Severity = "critical", fault: str = "", about: str | None = None, **options: object
) -> "Expectation":
    """Returns an expectation by its name in Great Expectations.

    Args:
        severity: `warning` lets a table that fails it pass.
        fault: what rows that fail it are or have, in words that follow "rows"; by default, what its name says.
        about: the column as its owner knows it, where the expectation is about one that is derived from it.
    """
    # A suite that is given plain dicts drops those it does not understand; this raises.
    with quiet():
        from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
        from great_expectations.expectations.metadata_types import FailureSeverity
    return ExpectationConfiguration(
        name,
        options,
        severity=FailureSeverity(severity),
        meta={"fault": fault or _fault(name, options), "about": about},
    ).to_domain_obj()


def _fault(name: str, options: Mapping[str, object]) -> str:
    """What rows that fail an expectation are or have, in words; empty where the expectation is not about rows."""
    if name == "expect_column_values_to_be_between":
        least, most = options.get("min_value"), options.get("max_value")
        return f"are not at least {least}" if most is None else f"are not from {least} to {most}"
    return {
        "expect_column_values_to_not_be_null": "have no value",
        "expect_column_values_to_be_unique": "have what another row has too",
        "expect_compound_columns_to_be_unique": "have what another row has too",
    }.get(name, "")


def validate(
    name: str,
    frame: "pd.DataFrame",
    columns: Sequence[str],
    checks: Sequence["Expectation"],
    rows: Sequence[str] | None = None,
) -> list[Finding]:
    """Returns what each expectation found in a table.

    Args:
        columns: those that the table had before it was prepared.
        rows: how each row is named; by default, by its number.
    """
    # A fresh context and batch cost 15 ms; ones that are kept would also keep every table of the process.
    with quiet():
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
        batch = asset.add_batch_definition_whole_dataframe(name).get_batch({"dataframe": frame})
        # Not as a validation definition, which stores suite and result; that takes another 25 ms.
        outcome = batch.validate(
            gx.ExpectationSuite(name=name, expectations=list(checks)),
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES},
        )
    rows = rows or [f"row {row}" for row in range(len(frame))]
    return [_finding(name, rows, columns, result) for result in outcome.results]


def _finding(table: str, rows: Sequence[str], columns: Sequence[str], result: "ExpectationValidationResult") -> Finding:
    config, seen, success = result.expectation_config, result.result, bool(result.success)
    assert config is not None  # every result of a run has one
    options = config.kwargs
    examples: list[str] = []
    if success:
        pass
    elif "unexpected_count" in seen:
        for row, value in zip(seen["partial_unexpected_index_list"], seen["partial_unexpected_list"], strict=True):
            examples.append(_example(rows[row], value))
    elif "observed_value" in seen:
        wanted = f"exactly {options['value']}" if "value" in options else f"at least {options.get('min_value')}"
        what = "the rows are" if "row_count" in config.type else "the mean is"
        examples.append(f"{what} {seen['observed_value']}, but should be {wanted}")
    elif config.type == "expect_column_to_exist":
        examples.append(f"a table needs one column of this name; its columns are {list(columns)}")
    else:  # an expectation that raised: one dict about the exception, or one per metric that raised
        raised = (result.exception_info, *result.exception_info.values())
        texts = [each["exception_message"] for each in raised if isinstance(each, dict) and "exception_message" in each]
        examples.append(f"could not be evaluated: {next(filter(None, texts), 'unknown reason')!r}")
    meta = config.meta or {}
    return Finding(
        expectation=config.type,
        table=table,
        column=options.get("column") or ", ".join(options.get("column_list", [])) or None,
        about=meta.get("about"),
        severity="warning" if config.severity.value == "warning" else "critical",
        success=success,
        unexpected=seen.get("unexpected_count", 0 if success else len(rows)),
        total=seen.get("element_count", len(rows)),
        examples=[shorten(example) for example in examples],
        fault=meta.get("fault", ""),
    )


def _example(row: str, value: object) -> str:
    """A row and what it has; of several things, the first is words of ours.

    What a hostile file has is shown by repr, since its control characters must not reach the terminal.
    """
    if isinstance(value, tuple):
        words, *shown = value
        return ": ".join([row, printable(words), *([" / ".join(map(repr, shown))] if shown else [])])
    missing = value is None or value != value
    shown_value = "null" if missing else repr(value)
    return row if shown_value == row else f"{row}: {shown_value}"


def printable(text: str) -> str:
    """Returns a text on one line, without control characters."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def shorten(text: str, room: int = 120) -> str:
    """Returns a text that has at most so many characters."""
    return text if len(text) <= room else text[: room - 3] + "..."


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Great Expectations from the network, and its log lines and warnings from the terminal."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "False")
    logger = logging.getLogger("great_expectations")
    propagate, silence = logger.propagate, logging.NullHandler()
    logger.propagate = False  # its children have levels of their own
    logger.addHandler(silence)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(silence)
        logger.propagate = propagate
