"""Verdicts that leave something open, from the verifier to the last page of a run."""

import re
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.gdsd import report, tables
from tasks.gdsd.config.evaluate import EvaluationConfig, GateConfig
from tasks.gdsd.domains import Verdict
from tasks.gdsd.evaluate import evaluation, gate
from tasks.gdsd.records import AnswerStats, EvalReport, RolloutStats
from tasks.gdsd.report import model_card
from tasks.gdsd.reward import quality, rewards
from tests.gdsd.report.records import ORIGIN, SAMPLER, cells, pairs, record, rendered, rewarded
from tests.gdsd.report.test_model_card import POLICY
from tests.gdsd.scripted import Scripted, choice
from tests.gdsd.series import answer, rollout


class Open(Scripted):
    """What answers say is their verdict: of a part with weight, of one without, and whether they solve the problem."""

    parts: ClassVar[dict[str, float]] = {"own": 1.0, "other": 0.0}

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        own, other, solved = answer.split()
        parts = {"own": None if own == "?" else float(own), "other": None if other == "?" else float(other)}
        return Verdict(parts, None if solved == "?" else solved == "yes")


DOMAIN = choice(Open)
#             whole      no reward   unknown     nothing     part open  whole
BASE = ["0.5 1 no", "? 1 no", "0.5 0 ?", "? ? ?", "1 ? yes", "0.5 1 no"]
TRAINED = ["1 1 yes", "? ? no", "? 1 yes", "0.5 0 ?", "0.5 ? no", "1 1 yes"]


def judged(texts: list[str]) -> pa.Table:
    rows = [answer(prompt_id=f"test-{place}", completion=text) for place, text in enumerate(texts)]
    return rewards.verify(pa.Table.from_pylist(rows, tables.ANSWERS), DOMAIN)


def evaluated(samples: pa.Table) -> EvalReport:
    stats = AnswerStats(
        round=0, problems=6, prompts_sha256="0" * 64, sampler=SAMPLER, tokens=96, seconds=1.0, ended_unix_seconds=1.0
    )
    return evaluation.report(samples, DOMAIN, EvaluationConfig(), 0, [stats], [], 0.0)


def test_open_verdicts_go_through_gate_evaluation_and_report(tmp_path: Path) -> None:
    """If it fails, a part that is None beside `solved=False`, or `solved=None`, ends a run after all of its training.

    Right are 1 of 4 before and 3 of 5 after. The rewards are 0.5, 0.5, 1, 0.5 before, and 1, 0.5, 0.5, 1 after. Both
    times the first, second, fifth and last are known to be right or wrong, with gains of 1, 0, -1, 1, and all of them
    but the second have a reward, with gains of 0.5, -0.5, 0.5.
    """
    base, trained = judged(BASE), judged(TRAINED)
    quality.check_samples(base, 6, 1, DOMAIN).require()
    before, after = evaluated(base), evaluated(trained)
    for found, solved, reward in ((before, 1 / 4, 2.5 / 4), (after, 3 / 5, 3 / 4)):
        assert (found.solved.mean, found.reward.mean) == (pytest.approx(solved), pytest.approx(reward))
    assert [(found.judged, found.known) for found in (before, after)] == [(4 / 6, 4 / 6), (4 / 6, 5 / 6)]
    decision = gate.decide(base, trained, [], GateConfig())
    assert decision.solved_difference.mean == pytest.approx(1 / 4)
    assert decision.reward_difference.mean == pytest.approx(0.5 / 3)
    run = record(base=before, trained=after, decision=decision)
    pairs = report.pair_samples(base, trained)
    page = report.write(tmp_path, run, pairs, ORIGIN)
    assert re.findall(r"<h3>([\w ]+) <span[^>]*>\((\d)", page) == [
        ("Fixed", "2"),
        ("Broken", "1"),
        ("Wrong both times", "1"),
        ("Not known to be right or wrong", "2"),
    ]
    assert cells(page, "judged")[:2] == ["66.7%", "66.7%"] and "not judged" in page
    assert run.answer().words.endswith(
        "; 66.7 % of the answers judged; 66.7 % of the answers known to be right or wrong before, 83.3 % after"
    )
    assert "wrong, no reward" in page and "not known to be right, reward 0.50" in page
    assert "33.3% of its answers could not be judged" in model_card.write(run, POLICY, ORIGIN)
    assert pq.read_table(tmp_path / "samples.parquet")["trained_solved"].to_pylist() == [
        True,
        False,
        True,
        None,
        False,
        True,
    ]


def test_open_verdicts_are_trained_on_by_their_reward() -> None:
    """If it fails, an answer of which nobody knows whether it is right is lost to training, or counts as wrong."""
    rows = [rollout(sample=sample, completion=text) for sample, text in enumerate(BASE)]
    table = rewards.reward(pa.Table.from_pylist(rows, tables.ROLLOUTS), DOMAIN, 6, False)
    quality.check_rewarded(table, 6, DOMAIN).require()
    assert table["reward"].to_pylist() == [0.5, None, 0.5, None, 1.0, 0.5]
    cost = RolloutStats(completions=6, tokens=12, positions=12, seconds=1.0, ended_unix_seconds=1.0)
    stats = rewards.summarise(table, DOMAIN, 6, [cost], [], 0.0)
    assert stats.unrewarded is None
    assert (stats.judged, stats.solved) == (pytest.approx(4 / 6), pytest.approx(1 / 4))
    place = table.column_names.index("solved")
    unknown = rewards.summarise(table.set_column(place, "solved", pa.nulls(6, pa.bool_())), DOMAIN, 6, [cost], [], 0)
    assert unknown.solved is None, "what nobody knows is not 0"
    run = record(rewards=[rewarded(0.5).model_copy(update={"solved": None})] * 2)
    assert run.metrics()[1]["reward/solved"] is None and cells(rendered(run, pairs()), "solved") == ["not known"] * 2


def test_missing_rewards_are_said_in_words() -> None:
    """If it fails, a reader learns the name of an expectation, and not how much was lost or why."""
    missing = "reward: expect_column_values_to_not_be_null"
    changed = {"warnings": [f"rollouts.{missing}", "rollouts.has_text: expect_x"], "unrewarded": "no score: <busy>"}
    lost = [rewarded(0.5).model_copy(update=changed | {"judged": share}) for share in (0.6, 0.84)]
    base = record().base.model_copy(update={"judged": 0.5, "warnings": [f"samples.{missing}"]})
    run = record(base=base, rewards=[rewarded(0.5), *lost])
    *others, rollouts, answers = run.warnings()
    assert rollouts == "28% of the rollouts of 2 rounds have no reward; of one the domain says: 'no score: <busy>'"
    assert answers == "50% of the answers of 1 evaluation have no reward"
    assert "rollouts: rollouts.has_text: expect_x in 2 tables" in others and missing not in " ".join(others)
