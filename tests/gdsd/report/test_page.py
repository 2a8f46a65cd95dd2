"""The report: every number where it belongs, and nothing from data that a browser would run."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from matplotlib import pyplot

from tasks.gdsd import report, tables
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.records import Estimate, PassAt
from tasks.gdsd.report import answers as answers_of_page
from tasks.gdsd.run.provenance import Provenance
from tasks.gdsd.run.run_record import RunRecord
from tests.gdsd.report.records import (
    ORIGIN,
    PARTS,
    answers,
    cells,
    decided,
    evaluated,
    guard,
    hostile,
    pairs,
    record,
    rendered,
    repeatedly,
    rewarded,
)

ROOT = Path(__file__).resolve().parents[3]


def test_pairs_hold_both_answers_to_every_sample(tmp_path: Path) -> None:
    """If it fails, an answer stands under the wrong policy or problem, or only one answer to a problem is kept."""
    several = [
        pa.Table.from_pylist([row | {"sample": sample} for sample, row in enumerate(table.to_pylist())], PARTS)
        for table in (answers(["a", "wrong", "c"], [0.0, 0.25, None]), answers(["d", "good", "f"], [1.0, None, 0.5]))
    ]
    table = report.pair_samples(*several)
    found = tables.read(tables.write(table, tables.COMPARISON, tmp_path / "s.parquet"), tables.COMPARISON).to_pylist()
    assert [row["trained_reward_cells"] for row in found] == [1.0, None, 0.5]
    shared = {
        "prompt_id": "test-1",
        "sample": 1,
        "prompt": "prompt 1",
        "problem": "problem 1",
        "reference": "reference 1",
        "prompt_ids": [*b"prompt 1"],
    }
    base = {"steps": 16, "tokens": [*"wrong"], "unmasked_at": [0, 0, 1, 1, 2], "completion": "wrong", "reward": 0.25}
    base |= {
        "completion_ids": [*b"wrong"],
        "solved": False,
        "remark": None,
        "reward_cells": 0.25,
        "reward_format": None,
    }
    trained = {"steps": 16, "tokens": [*"good"], "unmasked_at": [0, 0, 1, 1], "completion": "good", "reward": None}
    trained |= {
        "completion_ids": [*b"good"],
        "solved": None,
        "remark": None,
        "reward_cells": None,
        "reward_format": None,
    }
    policies = {"base": base, "trained": trained}
    assert found[1] == shared | {f"{who}_{name}": value for who, row in policies.items() for name, value in row.items()}


def test_the_folder_is_complete_and_reads_back(tmp_path: Path) -> None:
    """If it fails, the results of a run cannot be read by a program, or its configuration not be run again."""
    given = record()
    page = report.write(tmp_path, given, pairs(), ORIGIN)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
    assert RunRecord.model_validate_json((tmp_path / "run.json").read_text()) == given
    assert TrainConfig.model_validate(yaml.safe_load((tmp_path / "config.yaml").read_text())) == given.config
    assert Provenance.model_validate_json((tmp_path / "environment.json").read_text()) == ORIGIN
    assert tables.read(tmp_path / "samples.parquet", tables.COMPARISON).equals(pairs())
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == given.metrics()


def test_metrics_follow_from_the_records() -> None:
    """If it fails, a metric shows another number than its name says.

    In round 2 the first update was skipped: losses are those of the applied one. 128 tokens in 2 s are 64 per s.
    """
    base, first, second, trained = record(decision=decided(guards=[guard("g", True)])).metrics()
    assert base == {"kind": "base", "round": 0, "test/solved": 0.3, "test/reward": 0.5}
    assert first == {
        "kind": "round",
        "round": 1,
        "rollouts_after": 0,
        "reward/mean": 0.25,
        "reward/std": 0.25,
        "reward/solved": 0.125,
        "reward/frac_judged": 1.0,
        "reward/part/cells": 0.25,
        "reward/part/format": None,
        "group/frac_zero_std": 0.5,
        "loss/first": 0.5,
        "loss/last": 0.25,
        "loss/residual_abs": 0.25,
        "policy/nll": None,
        "policy/shift_abs": 0.01,
        "clip/frac": 0.05,
        "kl/ref": None,
        "grad/norm": 0.5,
        "update/learning_rate": 1e-3,
        "update/skipped": 0,
        "time/rollout_s": 2.0,
        "time/reward_s": 0.5,
        "time/distill_s": 1.0,
        "time/round_s": None,
        "time/overhead_frac": None,
        "cost/gpu_s": 0.0,
        "cost/cpu_s": 0.5,
        "rollout/engine": "exact",
        "rollout/frac_empty": 0.0625,
        "rollout/frac_truncated": 0.1875,
        "group/frac_distinct": None,
        "rollout/tokens_per_s": 64.0,
    }
    assert (second["loss/first"], second["loss/last"], second["update/skipped"]) == (0.125, 0.125, 1)
    assert (second["validation/solved"], second["validation/reward"]) == (0.6, 0.5)
    assert (second["time/round_s"], second["time/overhead_frac"]) == (10.0, 0.6)
    assert trained == {
        "kind": "test",
        "round": 2,
        "test/solved": 0.7,
        "test/reward": 0.5,
        "test/base_solved": 0.3,
        "test/trained_solved": 0.7,
        "test/gain": 0.4,
        "test/gain_low": 0.1,
        "test/gain_high": 0.7,
        "test/base_reward": 0.5,
        "test/trained_reward": 0.5,
        "test/round": 2.0,
        "test/promoted": 1.0,
        "time/total_s": 16.25,
        "guard/g": -0.7,
    }


def test_the_metrics_can_be_plotted_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, who plots metrics.jsonl sees nothing, or rollouts and evaluations of two policies as of one."""
    monkeypatch.chdir(tmp_path)
    report.write(tmp_path, record(), pairs(), ORIGIN)
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/metrics.md").read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    exec(code, names)
    (axes,) = pyplot.gcf().axes
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    drawn = {name: points[np.isfinite(points).all(1)].tolist() for name, points in lines.items()}
    assert drawn == {
        "reward/mean": [[0.0, 0.25], [1.0, 0.75]],
        "validation/reward": [[2.0, 0.5]],
        "test/reward": [[0.0, 0.5], [2.0, 0.5]],
    }
    pyplot.close("all")


def test_page_and_summary_have_the_answer_first() -> None:
    """If it fails, the reader of a report, or of the last lines of a run, does not find what came out of it."""
    page = rendered(record(), pairs())
    assert page == rendered(record(), pairs()), "equal results have equal bytes"
    assert "<p>Not promoted: the gain" in rendered(record(decision=decided(promoted=False)), pairs())
    last = record().summary("/results/a-run")
    for part in ("30.0 %", "70.0 %", "+40.0", "promoted", "/results/a-run/report.html", "/results/a-run/policy"):
        assert part in last
    assert page.startswith("<!doctype html>") and page.endswith("</html>")
    headline = page[: page.index("<h2>Training")]
    answer = (
        "Better by +40.0 points solved",
        "30.0 % (",
        "70.0 % (",
        "+40.0 (+10.0 to +70.0)",
        "Promoted: the gain clears",
    )
    for text in ("a-run", *answer):
        assert text in headline
    quality = ("prompts: early in 1 table;", "rollouts: late in 2 tables", "3 problems were left out")
    for text in ("left", "right", "problem 0", *quality, "rounds: 2"):
        assert text in page


def test_the_page_shows_what_the_reward_is_made_of() -> None:
    """If it fails, a reward that rises by its form alone looks like progress, or a part without a judge like a zero."""
    page = rendered(record(), pairs())
    headline, rest = page[: page.index("<h2>Training")], page[page.index("<h2>Training") :]
    assert cells(headline, "reward: cells") == ["0.000", "0.250", ""]
    assert cells(headline, "reward: format") == ["not judged", "not judged", ""]
    assert cells(headline, "judged")[:2] == ["87.5%", "87.5%"]
    assert cells(headline, "without text")[:2] == ["6.2%", "6.2%"]
    assert cells(headline, "ran out of tokens")[:2] == ["37.5%", "37.5%"]
    assert cells(rest, "rollouts") == ["round 1", "round 2"]
    assert cells(rest, "reward: cells") == ["0.250", "0.750"]
    assert cells(rest, "ran out of tokens") == ["18.8%", "18.8%"]
    assert "reward 0.25</span></p><p class='muted'>cells 0.25, format not judged</p>" in page


def test_pass_at_k_is_shown_where_k_is_more_than_1() -> None:
    """If it fails, pass@k is measured and nobody sees it, or its difference has no interval."""
    assert "pass@" not in rendered(record(), pairs()).split("<summary>Configuration")[0]
    gains = [PassAt(k=k, share=Estimate(mean=0.125, low=-0.25, high=0.5)) for k in (1, 4)]
    given = record(
        base=repeatedly(evaluated(0, 3), 0.5),
        trained=repeatedly(evaluated(2, 7), 0.625),
        decision=decided(pass_at_differences=gains),
    )
    page = rendered(given, pairs())
    assert cells(page, "pass@4, %") == ["50.0 % (25.0 to 97.5)", "62.5 % (25.0 to 97.5)", "+12.5 (-25.0 to +50.0)"]
    assert "pass@1," not in page and "each answered 8 times" in page
    assert "pass@4    +12.5 (-25.0 to +50.0) points" in given.summary("/x")


def test_guards_are_shown_with_their_outcome() -> None:
    """If it fails, a policy is refused for a guard that the report says nothing of, or its cost and warnings hide."""
    plain = record()
    given = record(decision=decided(guards=[guard("kept", True), guard("lost", False)]))
    page = rendered(given, pairs())
    assert cells(page, "lost")[0] == "10 sudoku" and cells(page, "lost")[3:] == [
        "-70.0 (-90.0 to -50.0)",
        "-2",
        "fails",
    ]
    assert cells(page, "kept")[-1] == "holds"
    assert "answers: sparse in 4 tables" in page and "sparse" not in rendered(plain, pairs())
    assert given.stage_seconds()["evaluate"] == plain.stage_seconds()["evaluate"] + 4
    assert "guard     lost fails: -70.0 (-90.0 to -50.0) points solved, 2 tolerated" in given.summary("/x")
    assert "fails the guard lost</b>" in page, "the head says so too"


def test_what_a_run_worries_about_is_said_at_its_top() -> None:
    """If it fails, a run that did not learn looks like one that did. Its reward goes up and down over 25 rounds."""
    plain = record()
    epochs = [plain.epochs[0].model_copy(update={"round": index + 1}) for index in range(25)]
    rewards = [rewarded(0.5 + 0.01 * (index % 2)) for index in range(25)]
    page = rendered(record(rewards=rewards, epochs=epochs), pairs())
    assert "Reward flat, since round" in page[: page.index("<h2>Outcome")] and "Try: raise" in page
    assert "class='warning'" not in rendered(plain, pairs())


def test_hostile_and_long_texts_stay_texts_in_a_page_that_needs_nothing_else() -> None:
    """If it fails, an answer runs code in the reader's browser, hides the page, or a page in a console has holes."""
    page = rendered(*hostile())
    assert "<script" not in page and "<img" not in page
    assert page.count("&lt;script&gt;") >= 10, "it is all there, as text"
    page = rendered(record(), pairs())
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)""", page)
    assert all(link.startswith("#") for link in links) and "@import" not in page
    assert "<svg" in page and "<?xml" not in page
    table = answers(["x" * 5000], [0.5])
    page = rendered(record(), report.pair_samples(table, table))
    assert "x" * answers_of_page.ROOM + " [...]" in page and "x" * (answers_of_page.ROOM + 1) not in page


def test_extremes_are_reported() -> None:
    """If it fails, a run that solves all, or nothing, or learns nothing, ends in its last stage without a report."""
    for solved in (0, 10):
        ends = {"base": evaluated(0, solved), "trained": evaluated(2, solved)}
        rendered(record(validations=[evaluated(2, solved)], **ends), pairs())
    idle = [epoch.model_copy(update={"sequences": 0, "steps": []}) for epoch in record().epochs]
    given = record(epochs=idle)
    assert given.metrics()[1]["loss/last"] is None and "<svg" in rendered(given, pairs())


def test_what_could_not_be_judged_is_not_shown_as_zero() -> None:
    """If it fails, an answer without a verdict looks like a wrong one."""
    table = report.pair_samples(answers(["left"], [None]), answers(["right"], [0.5]))
    page = rendered(record(), table)
    card = next(part for part in page.split("<div class='card'>") if "problem 0" in part)
    assert "not judged" in card and "wrong, reward 0.50" in card and "reward 0.00" not in card
