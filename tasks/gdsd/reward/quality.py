"""Whether verified completions are fit for training and for a decision: whole groups, sane rewards, enough of them."""

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.prompts import expectations
from tasks.gdsd.prompts.expectations import QualityReport, expect
from tasks.gdsd.reward import rewards
from tasks.gdsd.tables import PART

if TYPE_CHECKING:  # both take seconds to import
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

WRITTEN = 0.5  # least share of answers with text, and of answers that did not run out of tokens
SIGNAL = 0.05  # least share of rollouts in groups with a spread of rewards
REMEDY = (
    "If the domain is your own, correct its `verify`; otherwise this is a defect of the pipeline, so please "
    "report it with this message."
)


def check_rewarded(table: pa.Table, group_size: int, choice: DomainChoice) -> QualityReport:
    """Checks a round's rollouts, which have the columns of `tables.REWARDED`: groups, rewards, advantages."""
    with expectations.quiet():
        from great_expectations.expectations.row_conditions import Column

    advantage = table["advantage"].to_pandas()
    frame = _verdict_frame(table, choice)
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
        expect("expect_column_values_to_not_be_null", column="advantage", row_condition=compared),
        expect("expect_column_values_to_be_between", column="completion_tokens", min_value=1),
        expect("expect_column_mean_to_be_between", "warning", column="carries_signal", min_value=SIGNAL),
    ]
    return _report("rollouts", frame, table, checks, "Nothing was trained on these rollouts. " + REMEDY)


def check_samples(table: pa.Table, problems: int, samples: int, choice: DomainChoice) -> QualityReport:
    """Checks an evaluation's judged answers, which have the columns of `tables.SAMPLES`: all there, sane verdicts."""
    frame = _verdict_frame(table, choice).assign(steps=table["steps"].to_pandas())
    checks = [
        *_verdict_checks(choice, samples, problems * samples),
        expect("expect_column_values_to_be_between", column="steps", min_value=1),
    ]
    return _report("samples", frame, table, checks, "Nothing was concluded from these answers. " + REMEDY)


def _report(
    name: str, frame: "pd.DataFrame", table: pa.Table, checks: list["Expectation"], remedy: str
) -> QualityReport:
    return QualityReport(name, expectations.validate(name, frame, table.column_names, checks), remedy)


def _verdict_frame(table: pa.Table, choice: DomainChoice) -> "pd.DataFrame":
    import pandas as pd

    parts = [name for name in table.column_names if name.startswith(PART)]
    return pd.DataFrame(
        {
            "prompt_id": pd.Series(table["prompt_id"].to_pylist(), dtype=object),
            "sample": table["sample"].to_pandas(),
            **{name: _without_nan(table[name]) for name in ("reward", *parts)},
            "has_text": [1.0 - float(empty) for empty in rewards.empty(table)],
            "has_room": [1.0 - float(truncated) for truncated in rewards.truncated(table, choice)],
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
        expect("expect_column_values_to_not_be_null", column="prompt_id"),
        expect("expect_column_values_to_not_be_null", column="sample"),
        expect("expect_compound_columns_to_be_unique", column_list=["prompt_id", "sample"]),
        expect("expect_column_values_to_be_between", column="sample", min_value=0, max_value=group_size - 1),
        expect("expect_table_row_count_to_equal", value=rows),
        expect(
            "expect_column_values_to_be_between", column="reward", min_value=lowest - slack, max_value=highest + slack
        ),
        *(
            expect("expect_column_values_to_be_between", column=PART + name, min_value=0, max_value=1)
            for name in sorted(weights)
        ),
        expect("expect_column_values_to_not_be_null", "warning", column="reward", mostly=rewards.JUDGED),
        expect("expect_column_mean_to_be_between", "warning", column="has_text", min_value=WRITTEN),
        expect("expect_column_mean_to_be_between", "warning", column="has_room", min_value=WRITTEN),
    ]
