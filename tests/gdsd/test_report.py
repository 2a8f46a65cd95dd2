"""The report: every number where it belongs, and nothing from data that a browser would run."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from tasks.gdsd import evaluation, report, tables
from tasks.gdsd.config import PromptConfig, PromptFile, SamplerConfig, TrainConfig
from tasks.gdsd.records import (
    Decision,
    EpochStats,
    Estimate,
    EvalReport,
    PolicyStats,
    PromptStats,
    Protocol,
    RewardStats,
    StepStats,
)
from tasks.gdsd.run_record import RunRecord

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"
SAMPLER = SamplerConfig(length=16, block_length=16, steps_per_block=8, temperature=0.0)


def evaluated(round_index: int, solved: int, size: int = 10) -> EvalReport:
    return EvalReport(
        round=round_index,
        protocol=Protocol(domain="sudoku", sampler=SAMPLER, seed=0, problems=size, prompts_sha256="0" * 64),
        solved=evaluation.wilson(solved, size, 0.95),
        reward=Estimate(mean=0.5, low=0.4, high=0.6),
        tokens=160,
        seconds=1.0,
    )


def step(loss: float | None, skipped: bool = False) -> StepStats:
    return StepStats(
        loss=loss,
        residual_abs=loss,
        shift_abs=0.01,
        clipped=0.05,
        kl_ref=None,
        grad_norm=None if skipped else 0.5,
        learning_rate=1e-3,
        skipped=skipped,
    )


def rewarded(mean: float) -> RewardStats:
    return RewardStats(
        reward_mean=mean,
        reward_std=0.25,
        solved=0.125,
        judged=1.0,
        frac_zero_std=0.5,
        warnings=["late"],
        completions=8,
        tokens=128,
        rollout_seconds=2.0,
        reward_seconds=0.5,
    )


def record(**changed: object) -> RunRecord:
    """Two rounds; in the second, the first update was skipped; validated after the second."""
    values: dict[str, object] = {
        "config": TrainConfig(name="a-run", rounds=2),
        "prompts": PromptStats(train=30, validation=7, test=10, checks=12, warnings=["early"], seconds=0.25),
        "policy": PolicyStats(parameters=1000, seconds=3.0),
        "rewards": [rewarded(0.25), rewarded(0.75)],
        "epochs": [
            EpochStats(round=1, sequences=8, steps=[step(0.5), step(0.25)], seconds=1.0),
            EpochStats(round=2, sequences=4, steps=[step(None, skipped=True), step(0.125)], seconds=2.0),
        ],
        "validations": [evaluated(2, 6)],
        "base": evaluated(0, 3),
        "trained": evaluated(2, 7),
        "decision": Decision(
            promoted=True,
            reason="the gain clears the margin",
            solved_difference=Estimate(mean=0.4, low=0.1, high=0.7),
            reward_difference=Estimate(mean=0.1, low=-0.1, high=0.3),
            confidence=0.95,
        ),
    }
    return RunRecord.model_validate(values | changed)


def answers(completions: list[str], rewards: list[float | None]) -> pa.Table:
    rows = [
        {
            "prompt_id": f"test-{index}",
            "sample": 0,
            "problem": f"problem {index}",
            "reference": f"reference {index}",
            "completion": completion,
            "reward": reward,
            "solved": None if reward is None else reward == 1.0,
        }
        for index, (completion, reward) in enumerate(zip(completions, rewards, strict=True))
    ]
    return pa.Table.from_pylist(rows, tables.SAMPLES)


def pairs() -> pa.Table:
    return report.pair_samples(answers(["left", "wrong"], [0.0, 0.25]), answers(["right", "good"], [0.25, 1.0]))


def test_pairs_hold_both_answers() -> None:
    """If it fails, the report shows an answer under the wrong policy or problem."""
    table = pairs()
    assert table.schema.equals(tables.COMPARISON)
    assert table.to_pylist()[1] == {
        "prompt_id": "test-1",
        "problem": "problem 1",
        "reference": "reference 1",
        "base_completion": "wrong",
        "base_reward": 0.25,
        "base_solved": False,
        "trained_completion": "good",
        "trained_reward": 1.0,
        "trained_solved": True,
    }


def test_the_folder_is_complete_and_reads_back(tmp_path: Path) -> None:
    """If it fails, the results of a run cannot be read by a program, or its configuration not be run again."""
    given = record()
    page = report.write(tmp_path, given, pairs())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
    assert RunRecord.model_validate_json((tmp_path / "run.json").read_text()) == given
    assert TrainConfig.model_validate(yaml.safe_load((tmp_path / "config.yaml").read_text())) == given.config
    assert tables.read(tmp_path / "samples.parquet", tables.COMPARISON).equals(pairs())
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == given.metrics()


def test_metrics_follow_from_the_records() -> None:
    """If it fails, a metric shows another number than its name says.

    In round 2 the first update was skipped: losses are those of the applied one. 128 tokens in 2 s are 64 per s.
    """
    first, second = record().metrics()
    assert first == {
        "round": 1,
        "reward/mean": 0.25,
        "reward/std": 0.25,
        "reward/solved": 0.125,
        "reward/frac_judged": 1.0,
        "group/frac_zero_std": 0.5,
        "loss/first": 0.5,
        "loss/last": 0.25,
        "loss/residual_abs": 0.25,
        "policy/shift_abs": 0.01,
        "clip/frac": 0.05,
        "kl/ref": None,
        "grad/norm": 0.5,
        "update/learning_rate": 1e-3,
        "update/skipped": 0,
        "time/rollout_s": 2.0,
        "time/reward_s": 0.5,
        "time/distill_s": 1.0,
        "rollout/tokens_per_s": 64.0,
    }
    assert (second["loss/first"], second["loss/last"], second["update/skipped"]) == (0.125, 0.125, 1)
    assert (second["validation/solved"], second["validation/reward"]) == (0.6, 0.5)


def test_the_page_has_the_answer_first() -> None:
    """If it fails, the reader of a report does not find what came out of the run."""
    page = report.render(record(), pairs())
    assert page.startswith("<!doctype html>") and page.endswith("</html>")
    headline = page[: page.index("<h2>")]
    for text in ("a-run", "Promoted", "30.0 % (", "70.0 % (", "+40.0 (+10.0 to +70.0)", "the gain clears the margin"):
        assert text in headline
    for text in ("left", "right", "problem 0", "early in 1 tables", "late in 2 tables", "rounds: 2"):
        assert text in page


def test_a_run_that_was_not_promoted_says_so() -> None:
    """If it fails, a failed run looks like a success."""
    lost = record().decision.model_copy(update={"promoted": False})
    assert "<b>Not promoted</b>" in report.render(record(decision=lost), pairs())


def test_the_same_run_gives_the_same_page() -> None:
    """If it fails, equal results have different bytes, and a published report cannot be checked."""
    assert report.render(record(), pairs()) == report.render(record(), pairs())


def test_hostile_texts_are_escaped() -> None:
    """If it fails, an answer of the policy, or a problem from a file, can run code in the reader's browser."""
    table = answers([HOSTILE, HOSTILE], [0.0, 1.0])
    rows = [row | {"problem": HOSTILE, "reference": HOSTILE, "prompt_id": HOSTILE} for row in table.to_pylist()]
    table = pa.Table.from_pylist(rows, tables.SAMPLES)
    file = PromptFile.model_construct(path=HOSTILE, sha256="0" * 64)
    config = TrainConfig().model_copy(
        update={"name": HOSTILE, "prompts": PromptConfig.model_construct(train_file=file)}
    )
    given = record().model_copy(
        update={
            "config": config,
            "decision": record().decision.model_copy(update={"reason": HOSTILE}),
            "prompts": record().prompts.model_copy(update={"warnings": [HOSTILE]}),
            "rewards": [rewarded(0.5).model_copy(update={"warnings": [HOSTILE]})] * 2,
            "trained": evaluated(2, 7).model_copy(
                update={"protocol": evaluated(2, 7).protocol.model_copy(update={"domain": HOSTILE})}
            ),
        }
    )
    page = report.render(given, report.pair_samples(table, table))
    assert "<script" not in page and "<img" not in page
    assert page.count("&lt;script&gt;") >= 10, "it is all there, as text"


def test_the_page_needs_nothing_else() -> None:
    """If it fails, a report shown inside the Flyte console, or offline, has holes."""
    page = report.render(record(), pairs())
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)""", page)
    assert [link for link in links if not link.startswith("#")] == []
    assert "@import" not in page and "<svg" in page and "<?xml" not in page


@pytest.mark.parametrize("solved", [0, 10])
def test_nothing_or_everything_solved_is_reported(solved: int) -> None:
    """If it fails, a run whose validation solves all problems, or none, ends in its last stage without a report."""
    report.render(
        record(validations=[evaluated(2, solved)], base=evaluated(0, solved), trained=evaluated(2, solved)), pairs()
    )


def test_rounds_without_updates_are_reported() -> None:
    """If it fails, a run in which no group carried a signal ends in its last stage without a report."""
    epochs = [
        EpochStats(round=1, sequences=0, steps=[], seconds=0.1),
        EpochStats(round=2, sequences=0, steps=[], seconds=0.1),
    ]
    given = record(epochs=epochs)
    assert given.metrics()[0]["loss/last"] is None
    assert "<svg" in report.render(given, pairs())


def test_what_could_not_be_judged_is_not_shown_as_zero() -> None:
    """If it fails, an answer without a verdict looks like a wrong one."""
    table = report.pair_samples(answers(["left"], [None]), answers(["right"], [0.5]))
    page = report.render(record(), table)
    row = next(line for line in page.split("</tr>") if "problem 0" in line)
    assert "<td>0.50</td>" in row and "<td>0.00</td>" not in row


def test_the_answers_that_changed_most_are_shown() -> None:
    """If it fails, the page shows answers that training left alone, and hides what it did."""
    base = answers([f"old-{index}." for index in range(40)], [0.5] * 40)
    trained = answers(
        [f"new-{index}." for index in range(40)], [0.0 if index in (7, 31) else 0.5 for index in range(40)]
    )
    page = report.render(record(), report.pair_samples(base, trained))
    shown = re.findall(r"new-(\d+)\.", page)
    assert shown[:2] == ["7", "31"] and len(shown) < 40


def test_the_summary_names_the_outcome_and_the_files() -> None:
    """If it fails, the last lines of a run do not say what happened or where the results are."""
    text = record().summary("/results/a-run")
    for part in ("30.0 %", "70.0 %", "+40.0", "promoted", "/results/a-run/report.html", "/results/a-run/policy"):
        assert part in text
