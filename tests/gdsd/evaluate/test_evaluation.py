"""Evaluation: the same answers for the same protocol, however the work is cut, and a report of what was judged."""

from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

from tasks.gdsd import tables
from tasks.gdsd.config.evaluate import EvaluateConfig, EvaluationConfig, EvaluationSamplerConfig
from tasks.gdsd.denoiser.checkpoint import base_state
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.domains import DomainChoice, Verdict
from tasks.gdsd.domains.sudoku import SudokuConfig
from tasks.gdsd.errors import DataError
from tasks.gdsd.evaluate import answering, evaluation, intervals, stopping
from tasks.gdsd.records import AnswerStats, EvalReport, PassAt, Protocol
from tasks.gdsd.reward import rewards
from tests.gdsd import scripted
from tests.gdsd.series import answer, validation

FREE = EvaluationSamplerConfig(length=16, block_length=16, steps_per_block=2, temperature=1.0)
GREEDY = EvaluationSamplerConfig(length=16, block_length=16, steps_per_block=2, temperature=0.0)
SUDOKU = DomainChoice(SudokuConfig())

# Choosing the best round, and stopping before the last one


def test_best_is_by_solved_then_reward_then_round() -> None:
    """If it fails, another round than the documented one is published."""
    for rounds, best in (
        ([(1, 0.5, 0.9), (2, 0.6, 0.1), (3, 0.4, 1.0)], 1),
        ([(1, 0.5, 0.7), (2, 0.5, 0.8), (3, 0.5, 0.6)], 1),
        ([(10, 0.5, 0.7), (20, 0.5, 0.7), (30, 0.4, 0.9)], 1),
        ([(1, 0.0, 0.0)], 0),
    ):
        assert stopping.best([validation(number, solved, gained=gained) for number, solved, gained in rounds]) == best


def test_a_run_stops_after_validations_that_are_no_better() -> None:
    """If it fails, a run goes on for nothing, or ends while it still improves."""
    rising = [validation(1, 0.1), validation(2, 0.2), validation(3, 0.2, gained=0.6)]  # the reward breaks ties
    assert stopping.fruitless(rising) == 0 and not stopping.has_stopped(rising, 1)
    fallen = [*rising, validation(4, 0.1), validation(5, 0.2, gained=0.6)]  # equal to the best is not better
    assert stopping.fruitless(fallen) == 2
    assert [stopping.has_stopped(fallen, patience) for patience in (1, 2, 3, None)] == [True, True, False, False]
    assert stopping.fruitless([*fallen, validation(6, 0.3)]) == 0
    assert stopping.fruitless([]) == 0 and not stopping.has_stopped([], 1)


# Fingerprints


def test_a_fingerprint_is_of_the_content(puzzles: pa.Table) -> None:
    """If it fails, numbers from different problems pass as comparable, or equal problems as different."""
    rows = puzzles.to_pylist()
    same = [
        puzzles,
        pa.Table.from_pylist(rows),
        puzzles.select(["reference", "id", "problem", "prompt"]),
        pa.concat_tables([puzzles.slice(0, 2), puzzles.slice(2)]),
        puzzles.append_column("note", pa.array(["x"] * 5)),
    ]
    assert len({tables.fingerprint(table) for table in same}) == 1
    changed = [puzzles.slice(1), puzzles.take([1, 0, 2, 3, 4])]
    for name in ("id", "prompt", "problem", "reference"):
        changed.append(pa.Table.from_pylist([rows[0] | {name: "other"}, *rows[1:]]))
    assert len({tables.fingerprint(table) for table in [puzzles, *changed]}) == 7


# Evaluating a policy


def answered(
    denoiser: Denoiser, problems: pa.Table, config: EvaluationConfig, seed: int = 0
) -> tuple[pa.Table, list[AnswerStats]]:
    """All shards of an evaluation, joined, as the workflow does it."""
    shards = [
        answering.answer(base_state(denoiser), problems, config, seed, shard, config.shards)
        for shard in range(config.shards)
    ]
    parts = [pa.Table.from_pylist(rows, tables.ANSWERS) for rows, _ in shards]
    return tables.join(parts), [stats for _, stats in shards]


def evaluate(
    denoiser: Denoiser, problems: pa.Table, domain: DomainChoice, config: EvaluationConfig, seed: int = 0
) -> tuple[EvalReport, pa.Table]:
    answers, stats = answered(denoiser, problems, config, seed)
    samples = rewards.verify(answers, domain)
    return evaluation.report(samples, domain, config, seed, stats, [], 0.0), samples


def timeless(report: EvalReport) -> EvalReport:
    return report.model_copy(update=dict.fromkeys(("seconds", "ended_unix_seconds", "answered_unix_seconds"), 0.0))


def test_batches_and_shards_change_no_answer(denoiser: Denoiser, puzzles: pa.Table) -> None:
    """If it fails, a smaller GPU, or more of them, reports another result. Of seven shards two are empty."""
    config = EvaluationConfig(batch_size=64, samples=3, pass_at=[1, 2], sampler=FREE)
    expected, samples = evaluate(denoiser, puzzles, SUDOKU, config)
    assert samples.num_rows == 5 * 3
    for shards, size in ((1, 1), (2, 2), (3, 64), (7, 4)):
        cut = config.model_copy(update={"batch_size": size, "shards": shards})
        found, again = evaluate(denoiser, puzzles, SUDOKU, cut)
        assert again.equals(samples), f"{shards} shards, batches of {size}"
        assert timeless(found) == timeless(expected)


def test_the_seed_matters_where_there_is_a_draw_and_more_samples_keep_the_first(
    denoiser: Denoiser, puzzles: pa.Table
) -> None:
    """If it fails, a greedy evaluation is no property of the policy, or pass@8 is about other answers than pass@1."""

    def rows(sampler: EvaluationSamplerConfig, samples: int = 1, seed: int = 0) -> list[dict[str, object]]:
        table, _ = answered(denoiser, puzzles, EvaluationConfig(samples=samples, sampler=sampler), seed)
        found: list[dict[str, object]] = table.to_pylist()
        return found

    assert rows(GREEDY) == rows(GREEDY, seed=1)
    many = rows(FREE, samples=4)
    assert [row for row in many if row["sample"] == 0] == rows(FREE) != rows(FREE, seed=1)
    for problem in puzzles["id"].to_pylist():
        assert len({row["completion"] for row in many if row["prompt_id"] == problem}) == 4


def test_samples_say_what_was_asked_and_answered_and_in_how_many_steps(
    denoiser: Denoiser, puzzles: pa.Table, tmp_path: Path
) -> None:
    """If it fails, nobody can look at an answer beside its prompt and verdict, or tell what it cost.

    32 tokens in blocks of 8 with 2 denoiser calls each: 8 calls.
    """
    sampler = EvaluationSamplerConfig(length=32, block_length=8, steps_per_block=2, temperature=0.0)
    _, samples = evaluate(denoiser, puzzles, SUDOKU, EvaluationConfig(sampler=sampler))
    file = tables.write(samples, tables.SAMPLES, tmp_path / "samples.parquet")
    rows, known = tables.read(file, tables.SAMPLES).to_pylist(), puzzles.sort_by("id").to_pylist()
    for row, problem in zip(rows, known, strict=True):
        assert {name: row[name] for name in ("prompt_id", "prompt", "problem", "reference")} == {
            "prompt_id": problem["id"],
            **{name: problem[name] for name in ("prompt", "problem", "reference")},
        }
        assert row["steps"] == 8 and isinstance(row["completion"], str)
        assert row["prompt_ids"] == denoiser.encode(row["prompt"])
        assert len(row["completion_ids"]) == 32 and denoiser.pieces(row["completion_ids"]) == row["tokens"]
        assert row["reward"] == row["reward_cells"] and row["solved"] is False and row["reward_format"] == 0.0


class Scripted(scripted.Scripted):
    """A domain that judges problems by their text: `1` solved, `0` not, `?` cannot say.

    Of `x` it knows that it is wrong, but has no reward for it, and of `h` only the reward.
    """

    parts: ClassVar[dict[str, float]] = {"half": 0.5, "spare": 0.0}

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        if problem == "?":
            return Verdict({"half": None, "spare": None}, None)
        if problem in "xh":
            return Verdict({"half": None if problem == "x" else 1.0, "spare": None}, False if problem == "x" else None)
        return Verdict({"half": float(problem), "spare": None}, problem == "1")


SCRIPTED = scripted.choice(Scripted)


def problems(texts: str) -> pa.Table:
    rows = [
        {"id": str(i), "prompt": text.replace("?", "x"), "problem": text, "reference": "r"}
        for i, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(rows, tables.PROMPTS)


def test_the_report_counts_what_was_judged(denoiser: Denoiser) -> None:
    """If it fails, the reported share is not that of the samples, or unjudged answers count as wrong.

    Of 1, 0, 1, ? two of three judged are solved, with mean reward (0.5 + 0 + 0.5) / 3.
    """
    config = EvaluationConfig(batch_size=3, sampler=GREEDY)
    with pytest.raises(DataError, match=r"none of the 2 answers could be judged.*: the part half is None in 2 of them"):
        evaluate(denoiser, problems("??"), SCRIPTED, config)
    report, table = evaluate(denoiser, problems("101?"), SCRIPTED, config, seed=5)
    assert report.solved == intervals.wilson(2, 3, 0.95)
    assert report.pass_at == [PassAt(k=1, share=report.solved)]
    assert report.reward.mean == pytest.approx(1 / 3)
    assert report.parts == {"half": pytest.approx(2 / 3), "spare": None}
    assert (report.round, report.tokens, report.judged) == (0, 4 * 16, 0.75)
    assert report.protocol == Protocol(
        domain=SCRIPTED,
        sampler=GREEDY.model_copy(update={"order": "confidence", "top_p": 1.0}),
        samples=1,
        pass_at=[1],
        seed=5,
        problems=4,
        prompts_sha256=tables.fingerprint(problems("101?")),
    )
    assert table["solved"].to_pylist() == [True, False, True, None]
    assert table["reward"].to_pylist() == [0.5, 0.0, 0.5, None]
    assert table["problem"].to_pylist() == ["1", "0", "1", "?"]


def test_the_report_of_several_samples_by_hand() -> None:
    """If it fails, accuracy or pass@k mean something else with several answers to a problem, or count the unjudged.

    Of problem a 1 of 2 judged answers is right, of b 3 of 3, of c 0 of 3, of d none was judged. Accuracy
    (1/2 + 1 + 0) / 3; pass@2 (1 + 1 + 0) / 3; pass@3 only of b and c: 1/2, with the interval of 1 of 2.
    """
    verdicts = {"a": "10?", "b": "111", "c": "000", "d": "???"}
    rows = [
        answer(prompt_id=problem, sample=sample, problem=verdict)
        for problem, own in verdicts.items()
        for sample, verdict in enumerate(own)
    ]
    samples = rewards.verify(pa.Table.from_pylist(rows, tables.ANSWERS), SCRIPTED)
    config = EvaluationConfig(samples=3, pass_at=[1, 2, 3], sampler=FREE)
    of_shard = AnswerStats(
        round=2,
        problems=4,
        prompts_sha256="0" * 64,
        sampler=config.sampler,
        tokens=16,
        seconds=1.0,
        ended_unix_seconds=1.0,
    )
    stats = [of_shard] * 2
    report = evaluation.report(samples, SCRIPTED, config, 0, stats, ["late"], 0.5)
    assert report.solved.mean == pytest.approx(1 / 2)
    assert report.reward.mean == pytest.approx((0.25 + 0.5 + 0) / 3)
    assert {found.k: found.share.mean for found in report.pass_at} == pytest.approx({1: 1 / 2, 2: 2 / 3, 3: 1 / 2})
    assert report.pass_at[2].share == intervals.wilson(1, 2, 0.95)
    assert (report.judged, report.tokens, report.seconds, report.warnings) == (8 / 12, 32, 2.5, ["late"])


def judged(verdicts: str) -> pa.Table:
    rows = [answer(prompt_id=str(place), problem=verdict) for place, verdict in enumerate(verdicts)]
    return rewards.verify(pa.Table.from_pylist(rows, tables.ANSWERS), SCRIPTED)


def summed(verdicts: str) -> EvalReport:
    stats = AnswerStats(
        round=0, problems=5, prompts_sha256="0" * 64, sampler=FREE, tokens=16, seconds=1.0, ended_unix_seconds=1.0
    )
    return evaluation.report(judged(verdicts), SCRIPTED, EvaluationConfig(sampler=FREE), 0, [stats], [], 0.0)


def test_wrong_answers_without_a_reward_count_in_the_solved_share() -> None:
    """If it fails, a forgotten `return` for wrong answers makes every answer that is counted a right one.

    Of 1, 1, x, x, h four are known to be right or wrong, two of them right; three have a reward, 0.5 each.
    """
    report = summed("11xxh")
    assert report.solved == intervals.wilson(2, 4, 0.95) == report.pass_at[0].share
    assert (report.reward.mean, report.judged, report.known) == (0.5, 0.6, 0.8)


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ("xx", "the part half is None in 2 of them. See whether `verify` forgets to return a value"),
        ("hh", "`solved` is None in all of them; give True or False"),
    ],
)
def test_an_evaluation_without_a_verdict_says_what_was_none(verdicts: str, said: str) -> None:
    """If it fails, nobody learns from a run that ends which part of the reward has no value."""
    with pytest.raises(DataError, match=r"none of the 2 answers could be judged") as caught:
        summed(verdicts)
    assert said in str(caught.value) and "spare" not in str(caught.value)


def test_a_sweep_is_one_protocol_per_length() -> None:
    """If it fails, a sweep over lengths changes something else too, or tries another length than it says."""
    alone = EvaluateConfig().evaluation
    lengths = [128, 256, 512]
    samplers = [alone.sampler.model_copy(update={"length": length}) for length in lengths]
    expected = [alone.model_copy(update={"sampler": sampler}) for sampler in samplers]
    assert EvaluateConfig(lengths=lengths).protocols() == expected and EvaluateConfig().protocols() == [alone]
