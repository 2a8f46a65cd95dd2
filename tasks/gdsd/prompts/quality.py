"""Whether the tables are fit for training: Great Expectations suites over a run's prompts and over scored rollouts."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from tasks.gdsd.config.train import PromptConfig, TestConfig
from tasks.gdsd.domains import Domain, DomainChoice, make
from tasks.gdsd.errors import QualityError
from tasks.gdsd.prompts import near_duplicates
from tasks.gdsd.reward import rewards
from tasks.gdsd.tables import PART, PROMPTS

if TYPE_CHECKING:  # both take seconds to import
    import pandas as pd
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation

Severity = Literal["critical", "warning"]
SPLITS = ("train", "validation", "test")
EXAMPLES = 5
BLANK = r"^\s*$"
JUDGED = 0.9  # least share of answers with a verdict, below which there is a warning
WRITTEN = 0.5  # least share of answers with text, and of answers that did not run out of tokens
SIGNAL = 0.05  # least share of rollouts in groups with a spread of rewards
REMEDIES = {
    "prompts": "Correct the prompt files, or generate the problems instead, and start the run again. Near-duplicates "
    "of test problems are left out of training by prompts.near_duplicates: drop.",
    "rollouts": "Nothing was trained on these rollouts. If the domain is your own, correct its `verify`; "
    "otherwise this is a defect of the pipeline, so please report it with this message.",
    "samples": "Nothing was concluded from these answers. If the domain is your own, correct its `verify`; "
    "otherwise this is a defect of the pipeline, so please report it with this message.",
}


class Finding(BaseModel):
    """What one expectation found in one table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    expectation: str  # snake_case name in Great Expectations
    table: str
    column: str | None  # None for the table as a whole
    severity: Severity
    success: bool
    unexpected: int  # rows; all of them where the expectation is about the table or an aggregate
    total: int  # rows the expectation looked at
    examples: list[str]  # first offending rows, counted from 0; empty where the expectation holds

    @property
    def where(self) -> str:
        """The table, and the column if the finding is about one."""
        return f"{self.table}.{self.column}" if self.column else self.table

    @property
    def summary(self) -> str:
        """The finding on one line."""
        counts = f"{self.where}: {self.expectation}: {self.unexpected} of {self.total} rows"
        return f"{counts}; {', '.join(self.examples)}" if self.examples else counts


class QualityReport(BaseModel):
    """What a suite found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    findings: list[Finding]

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
        rows = ["<tr><th>result<th>column<th>expectation<th>unexpected rows<th>first of them</tr>"]
        for finding in (*self.failures, *self.warnings, *passed):
            result = "passed" if finding.success else "FAILED" if finding.severity == "critical" else "warning"
            counts = f"{finding.unexpected} of {finding.total}"
            cells = [escape(text) for text in (result, finding.where, finding.expectation, counts)]
            cells.append("<br>".join(map(escape, finding.examples)))
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        counts = f"passed {len(passed)} of {len(self.findings)} expectations; rows are counted from 0"
        return f"<table><caption>{escape(self.name)}: {counts}</caption>{''.join(rows)}</table>"

    def require(self) -> None:
        """Refuses tables that are unfit.

        Raises:
            QualityError: a critical expectation failed; the message names each that did, its count and first rows.
        """
        if not (failures := self.failures):
            return
        room = max(120, min(600, 2400 // len(failures)))  # characters each, so that even dozens fit on a screen
        counts = f"{len(failures)} of {len(self.findings)} expectations failed (rows are counted from 0)"
        lines = [f"  {_shorten(finding.summary, room)}" for finding in failures]
        raise QualityError(
            "\n".join([f"{self.name}: {counts}:", *lines, REMEDIES.get(self.name.split()[-1], "")]).rstrip()
        )


def check_prompts(tables: Mapping[str, pa.Table], config: PromptConfig) -> QualityReport:
    """Checks the tables train, validation and test as they were loaded: columns, types, content, leaks between them."""
    domain = make(config.domain)
    findings = []
    seen: dict[str, dict[object, str]] = {"id": {}, "problem": {}}  # column -> value -> where it was first
    known: list[tuple[str, str]] = []  # problems of the splits before, and where they are
    for split in SPLITS:
        cells = _columns(tables[split])
        texts = _texts(cells)
        checks = _prompt_checks(cells, domain, least=1)
        for name in [name for name in seen if name in texts]:
            values, first = cells[name], seen[name]
            checks.append(_expect("expect_column_values_to_be_unique", column=name))
            if split != SPLITS[0]:
                # A column of its own, because Great Expectations needs 10 s for a value set of 100,000.
                cells[f"{name}_elsewhere"] = [(first[value], value) if value in first else None for value in values]
                checks.append(_expect("expect_column_values_to_be_null", column=f"{name}_elsewhere"))
            for row, value in enumerate(values):
                if value is not None:
                    first.setdefault(value, f"row {row} of {split}")
        if "problem" in texts:
            problems = [str(value or "") for value in cells["problem"]]
            if split != SPLITS[0]:
                near = near_duplicates.nearest(
                    problems, [text for text, _ in known], near_duplicates.features(domain), config.similarity
                )
                cells["problem_nearly_elsewhere"] = [
                    None if other is None or known[other][0] == problem else _beside(*known[other], problem)
                    for problem, other in zip(problems, near, strict=True)
                ]
                checks.append(_expect("expect_column_values_to_be_null", column="problem_nearly_elsewhere"))
            known += [(problem, f"row {row} of {split}") for row, problem in enumerate(problems)]
        findings += _validate(split, _frame(cells, tables[split].num_rows), tables[split].column_names, checks)
    return QualityReport(name=f"{config.domain.name} prompts", findings=findings)


def _beside(theirs: str, where: str, own: str) -> tuple[str, str, str]:
    """Two problems from shortly before the place where they begin to differ, short enough to stand on one line."""
    both = list(zip(theirs, own, strict=False))
    alike = next((place for place, (one, other) in enumerate(both) if one != other), len(both))
    start = max(0, alike - 15)
    first, second = (("..." if start else "") + _shorten(text[start:], 36) for text in (theirs, own))
    return where, first, second


def check_test(table: pa.Table, config: TestConfig, trained_on: Sequence[str], similarity: float) -> QualityReport:
    """Checks test problems that stand alone: columns, types, content, leaks from problems that were trained on."""
    cells = _columns(table)
    domain = make(config.domain)
    checks = _prompt_checks(cells, domain, least=1)
    if "problem" in _texts(cells) and trained_on:
        problems = [str(value or "") for value in cells["problem"]]
        near = near_duplicates.nearest(problems, trained_on, domain.shingles, similarity)
        cells["problem_nearly_trained_on"] = [
            None if other is None else (f"training row {other}", problem)
            for problem, other in zip(problems, near, strict=True)
        ]
        checks.append(_expect("expect_column_values_to_be_null", column="problem_nearly_trained_on"))
    checks += [
        _expect("expect_column_values_to_be_unique", column=name) for name in ("id", "problem") if name in _texts(cells)
    ]
    findings = _validate("test", _frame(cells, table.num_rows), table.column_names, checks)
    return QualityReport(name=f"{config.domain.name} prompts", findings=findings)


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


def _prompt_checks(cells: Mapping[str, list[object]], domain: Domain, least: int) -> list["Expectation"]:
    checks = [_expect("expect_table_row_count_to_be_between", min_value=least)]
    for name in PROMPTS.names:
        checks.append(_expect("expect_column_to_exist", column=name))
        if name in cells:
            checks.append(_expect("expect_column_values_to_be_of_type", column=name, type_="str"))
            checks.append(_expect("expect_column_values_to_not_be_null", column=name))
    patterns = {"problem": domain.problem_pattern, "reference": domain.reference_pattern}
    for name in _texts(cells):
        if name == "prompt":
            checks.append(_expect("expect_column_values_to_not_match_regex", column=name, regex=BLANK))
        elif name in patterns and any(cell is not None for cell in cells[name]):
            checks.append(_expect("expect_column_values_to_match_regex", column=name, regex=patterns[name]))
    return checks


def _frame(cells: Mapping[str, list[object]], rows: int) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in cells.items()}, index=range(rows))


def check_scored(table: pa.Table, group_size: int, choice: DomainChoice) -> QualityReport:
    """Checks a round's rollouts, which have the columns of `tables.SCORED`: whole groups, sane rewards, advantages."""
    with _quiet():
        from great_expectations.expectations.row_conditions import Column

    advantage = table["advantage"].to_pandas()
    frame = _verdict_frame(table)
    prompt_id = frame["prompt_id"]
    frame = frame.assign(
        judged_in_group=frame["reward"].groupby(prompt_id).transform("count"),
        advantage=advantage.where(advantage.abs() != float("inf")),
        carries_signal=(advantage.abs().fillna(0.0).groupby(prompt_id).transform("max") > 0).astype(float),
        completion_tokens=pc.list_value_length(table["completion_ids"]).to_pandas(),
    )
    # The only judged completion of a group has a reward, but nothing to be compared with and so rightly no advantage.
    compared = Column("reward").is_not_null() & (Column("judged_in_group") > 1)
    whole = max(1, prompt_id.nunique()) * group_size
    checks = [
        *_verdict_checks(choice, group_size, whole),
        _expect("expect_column_values_to_not_be_null", column="advantage", row_condition=compared),
        _expect("expect_column_values_to_be_between", column="completion_tokens", min_value=1),
        _expect("expect_column_mean_to_be_between", "warning", column="carries_signal", min_value=SIGNAL),
    ]
    return QualityReport(name="rollouts", findings=_validate("rollouts", frame, table.column_names, checks))


def check_samples(table: pa.Table, problems: int, samples: int, choice: DomainChoice) -> QualityReport:
    """Checks an evaluation's judged answers, which have the columns of `tables.SAMPLES`: all there, sane verdicts."""
    frame = _verdict_frame(table).assign(steps=table["steps"].to_pandas())
    checks = [
        *_verdict_checks(choice, samples, problems * samples),
        _expect("expect_column_values_to_be_between", column="steps", min_value=1),
    ]
    return QualityReport(name="samples", findings=_validate("samples", frame, table.column_names, checks))


def _verdict_frame(table: pa.Table) -> "pd.DataFrame":
    import pandas as pd

    parts = [name for name in table.column_names if name.startswith(PART)]
    return pd.DataFrame(
        {
            "prompt_id": pd.Series(table["prompt_id"].to_pylist(), dtype=object),
            "sample": table["sample"].to_pandas(),
            **{name: _without_nan(table[name]) for name in ("reward", *parts)},
            "has_text": [1.0 - float(empty) for empty in rewards.empty(table)],
            "has_room": [1.0 - float(truncated) for truncated in rewards.truncated(table)],
        }
    )


def _without_nan(column: pa.ChunkedArray) -> "pd.Series[float]":
    # pandas cannot tell NaN from null. A null reward is one left out; a NaN is a defect, so it is put out of range.
    infinite = pa.scalar(float("inf"), pa.float32())
    return pc.if_else(pc.is_nan(column), infinite, column).to_pandas().astype("float32")


def _verdict_checks(choice: DomainChoice, group_size: int, rows: int) -> list["Expectation"]:
    weights = choice.weights
    lowest, highest = (sum(pick(0.0, weight) for weight in weights.values()) for pick in (min, max))
    slack = 1e-5 * (highest - lowest)  # rewards are float32
    return [
        _expect("expect_column_values_to_not_be_null", column="prompt_id"),
        _expect("expect_column_values_to_not_be_null", column="sample"),
        _expect("expect_compound_columns_to_be_unique", column_list=["prompt_id", "sample"]),
        _expect("expect_column_values_to_be_between", column="sample", min_value=0, max_value=group_size - 1),
        _expect("expect_table_row_count_to_equal", value=rows),
        _expect(
            "expect_column_values_to_be_between", column="reward", min_value=lowest - slack, max_value=highest + slack
        ),
        *(
            _expect("expect_column_values_to_be_between", column=PART + name, min_value=0, max_value=1)
            for name in sorted(weights)
        ),
        _expect("expect_column_values_to_not_be_null", "warning", column="reward", mostly=JUDGED),
        _expect("expect_column_mean_to_be_between", "warning", column="has_text", min_value=WRITTEN),
        _expect("expect_column_mean_to_be_between", "warning", column="has_room", min_value=WRITTEN),
    ]


def _expect(name: str, severity: Severity = "critical", **options: object) -> "Expectation":
    # A suite that is given plain dicts drops those it does not understand; this raises.
    with _quiet():
        from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
        from great_expectations.expectations.metadata_types import FailureSeverity
    return ExpectationConfiguration(name, options, severity=FailureSeverity(severity)).to_domain_obj()


def _validate(
    name: str, frame: "pd.DataFrame", columns: Sequence[str], checks: Sequence["Expectation"]
) -> list[Finding]:
    # A fresh context and batch cost 15 ms; ones that are kept would also keep every table of the process.
    with _quiet():
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
    return [_finding(name, len(frame), columns, result) for result in outcome.results]


def _finding(table: str, rows: int, columns: Sequence[str], result: "ExpectationValidationResult") -> Finding:
    config, seen, success = result.expectation_config, result.result, bool(result.success)
    assert config is not None  # every result of a run has one
    options = config.kwargs
    examples: list[str] = []
    if success:
        pass
    elif "unexpected_count" in seen:
        for row, value in zip(seen["partial_unexpected_index_list"], seen["partial_unexpected_list"], strict=True):
            missing = value is None or value != value
            # repr, because a control character of a hostile file must not reach the terminal
            examples.append(f"row {row}: {'null' if missing else repr(value)}")
    elif "observed_value" in seen:
        wanted = f"exactly {options['value']}" if "value" in options else f"at least {options.get('min_value')}"
        examples.append(f"found {seen['observed_value']}, expected {wanted}")
    elif config.type == "expect_column_to_exist":
        examples.append(f"the columns are {list(columns)}")
    else:  # an expectation that raised: one dict about the exception, or one per metric that raised
        raised = (result.exception_info, *result.exception_info.values())
        texts = [each["exception_message"] for each in raised if isinstance(each, dict) and "exception_message" in each]
        examples.append(f"could not be evaluated: {next(filter(None, texts), 'unknown reason')!r}")
    return Finding(
        expectation=config.type,
        table=table,
        column=options.get("column") or ", ".join(options.get("column_list", [])) or None,
        severity="warning" if config.severity.value == "warning" else "critical",
        success=success,
        unexpected=seen.get("unexpected_count", 0 if success else rows),
        total=seen.get("element_count", rows),
        examples=[_shorten(example) for example in examples],
    )


def _cells(column: pa.ChunkedArray) -> list[object]:
    """Text as it is; anything else as its type and its value in words, since a suite's store cannot hold any object."""
    kind = _shorten(str(column.type))
    try:
        cells: list[object] = column.to_pylist()
    except (ValueError, OverflowError):  # a date outside Python's years
        return [(kind,)] * len(column)
    return [cell if cell is None or isinstance(cell, str) else (kind, _shorten(repr(cell))) for cell in cells]


def _shorten(text: str, room: int = 120) -> str:
    return text if len(text) <= room else text[: room - 3] + "..."


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Great Expectations from the network, and its log lines and warnings from the terminal."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "False")
    logger = logging.getLogger("great_expectations")
    propagate, silence = logger.propagate, logging.NullHandler()
    logger.propagate = False
    logger.addHandler(silence)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.removeHandler(silence)
        logger.propagate = propagate
