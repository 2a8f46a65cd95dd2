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
from tests.gdsd.report.records import ORIGIN, SAMPLER, cells, record
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
    stats = AnswerStats(round=0, problems=6, prompts_sha256="0" * 64, sampler=SAMPLER, tokens=96, seconds=1.0)
    return evaluation.report(samples, DOMAIN, EvaluationConfig(), 0, [stats], [], 0.0)


def test_open_verdicts_go_through_gate_evaluation_and_report(tmp_path: Path) -> None:
    """If it fails, a part that is None beside `solved=False`, or `solved=None`, ends a run after all of its training.

    Judged are answers with a reward of which is known whether they solve the problem: of the base the first, fifth and
    last, with rewards of 0.5, 1 and 0.5, and of the trained policy the same three, with 1, 0.5 and 1.
    """
    base, trained = judged(BASE), judged(TRAINED)
    quality.check_samples(base, 6, 1, DOMAIN).require()
    before, after = evaluated(base), evaluated(trained)
    assert (before.judged, before.solved.mean, before.reward.mean) == (0.5, pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (after.judged, after.solved.mean, after.reward.mean) == (0.5, pytest.approx(2 / 3), pytest.approx(2.5 / 3))
    decision = gate.decide(base, trained, [], GateConfig())
    assert decision.solved_difference.mean == pytest.approx(1 / 3)
    assert decision.reward_difference.mean == pytest.approx(0.5 / 3)
    run = record(base=before, trained=after, decision=decision)
    pairs = report.pair_samples(base, trained)
    page = report.write(tmp_path, run, pairs, ORIGIN)
    assert re.findall(r"<h3>([\w ]+) <span[^>]*>\((\d)", page) == [
        ("Fixed", "2"),
        ("Broken", "1"),
        ("Without a verdict", "3"),
    ]
    assert cells(page, "judged")[:2] == ["50.0%", "50.0%"] and "not judged" in page
    assert "50.0% of its answers could not be judged" in model_card.write(run, POLICY, ORIGIN)
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
    rewarded = rewards.reward(pa.Table.from_pylist(rows, tables.ROLLOUTS), DOMAIN, 6, False)
    quality.check_rewarded(rewarded, 6, DOMAIN).require()
    assert rewarded["reward"].to_pylist() == [0.5, None, 0.5, None, 1.0, 0.5]
    cost = RolloutStats(completions=6, tokens=12, positions=12, seconds=1.0, ended_unix_seconds=1.0)
    stats = rewards.summarise(rewarded, DOMAIN, 6, [cost], [], 0.0)
    assert (stats.judged, stats.solved) == (pytest.approx(4 / 6), pytest.approx(1 / 4))
