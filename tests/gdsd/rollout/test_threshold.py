"""Confidence-threshold unmasking: by the book, between the exact engine and a single step, and never under its name."""

from pathlib import Path

import pyarrow as pa
import pytest
from flytekit.types.directory import FlyteDirectory

from tasks.gdsd.config.evaluate import EvaluationConfig, EvaluationSamplerConfig
from tasks.gdsd.config.sampler import SamplerConfig, ThresholdConfig
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.rollout.engines.base import Completion, Request
from tasks.gdsd.rollout.engines.threshold import Threshold
from tasks.gdsd.rollout.engines.unmasking import resolve
from tasks.report import EvalResult
from tests.gdsd.checkpoints import CPU
from tests.gdsd.evaluate.test_evaluation import SUDOKU, evaluate
from tests.gdsd.official import write_dream
from tests.gdsd.plain_sampler import alike, plain_sampler
from tests.gdsd.report.records import evaluated, pairs, record, rendered
from tests.gdsd.rollout.test_engines import FREE, GREEDY, generate, requests, sample

ONE_BY_ONE = SamplerConfig(length=12, block_length=6, steps_per_block=6, temperature=0.0)


def made(denoiser: Denoiser, asked: list[Request], config: SamplerConfig, confidence: float) -> list[Completion]:
    return generate(Threshold(denoiser, ThresholdConfig(confidence=confidence)), asked, config)


@pytest.mark.parametrize("config, confidence", [(FREE, 0.05), (FREE, 0.1), (GREEDY, 0.12), (ONE_BY_ONE, 0.15)])
def test_equals_a_plain_sampler(denoiser: Denoiser, config: SamplerConfig, confidence: float) -> None:
    """If it fails, the engine keeps tokens that are not sure enough, or hides ones that are."""
    config = config.model_copy(update={"stop_at_end": True})
    asked = requests(denoiser, 12)
    resolved = resolve(config, denoiser.family.sampler)
    expected = [plain_sampler(denoiser, request, resolved, sure=confidence) for request in asked]
    assert alike(made(denoiser, asked, config, confidence), expected)
    assert len({found.steps for found in expected}) > 1, "each sequence takes its own number of steps"


@pytest.mark.parametrize("config", [FREE, GREEDY, ONE_BY_ONE], ids=["free", "greedy", "one by one"])
def test_its_ends_are_the_exact_engine_and_one_step_a_block(denoiser: Denoiser, config: SamplerConfig) -> None:
    """If it fails, the threshold is not what decides: no token is surer than the highest, and every one than the least.

    That the step's share is always unmasked is also why a block ends.
    """
    asked = requests(denoiser, 12)
    assert made(denoiser, asked, config, 1 - 2**-50) == sample(denoiser, asked, config)
    single = made(denoiser, asked, config, 1e-30)
    at_once = sample(denoiser, asked, config.model_copy(update={"steps_per_block": 1}))
    assert [found.steps for found in single] == [2] * 12
    assert {at for found in single for at in found.unmasked_at} == {0, config.steps_per_block}
    if config.temperature == 0:  # the numbers of a draw belong to its step, and the second block's are others
        assert [found.ids for found in single] == [found.ids for found in at_once]


def test_sequences_are_read_until_their_own_block_is_done(denoiser: Denoiser) -> None:
    """If it fails, one unsure sequence makes its whole batch slow, or changes the others' tokens.

    Positions by hand: a sequence of 7 prompt tokens and 12 more is read `steps` times.
    """
    prompts = [[5, 8, 30, 41, 7, 12, place] for place in range(16)]
    asked = [Request(prompt, key) for key, prompt in enumerate(prompts)]
    engine = Threshold(denoiser, ThresholdConfig(confidence=0.1))
    together = generate(engine, asked, ONE_BY_ONE)
    alone = [made(denoiser, [request], ONE_BY_ONE, 0.1)[0] for request in asked]
    assert together == alone
    steps = [found.steps for found in together]
    assert min(steps) < max(steps) <= ONE_BY_ONE.steps
    assert engine.work.positions == 19 * sum(steps)
    assert engine.work.rows < 6 * sum(steps)


def test_order_by_entropy_is_refused(denoiser: Denoiser, tmp_path: Path) -> None:
    """If it fails, a negative entropy is compared with a probability, and every step takes its share alone."""
    with pytest.raises(ConfigError, match=r"sampler\.order is 'entropy'.*set it to 'confidence'"):
        made(denoiser, requests(denoiser, 1), GREEDY.model_copy(update={"order": "entropy"}), 0.9)
    write_dream(tmp_path)
    dream = load_folder(tmp_path, "dream", CPU)
    with pytest.raises(ConfigError, match=r"sampler\.order is 'entropy'"):
        made(dream, [Request([7, 8], 0)], GREEDY, 0.9)
    assert made(dream, [Request([7, 8], 0)], GREEDY.model_copy(update={"order": "confidence"}), 0.9)


def test_the_protocol_carries_the_engine(denoiser: Denoiser, puzzles: pa.Table) -> None:
    """If it fails, a number that was made in fewer steps is taken for one of the exact engine."""
    config = EvaluationConfig(
        sampler=EvaluationSamplerConfig(length=16, block_length=16, steps_per_block=16),
        engine=ThresholdConfig(confidence=0.1),
    )
    report, samples = evaluate(denoiser, puzzles, SUDOKU, config)
    assert report.protocol.engine == ThresholdConfig(confidence=0.1)
    assert report.model_dump(mode="json")["protocol"]["engine"] == {"name": "threshold", "confidence": 0.1}
    assert max(samples["steps"].to_pylist()) < 16


def test_numbers_of_another_engine_say_so() -> None:
    """If it fails, a table, a page or a console shows them as the exact engine's."""
    said = "temperature 0, by the engine threshold at confidence 0.9"
    exact = evaluated(2, 7)
    other = exact.model_copy(update={"protocol": exact.protocol.model_copy(update={"engine": ThresholdConfig()})})
    for report, is_said in ((exact, False), (other, True)):
        assert (said in str(EvalResult(reports=[report], folder=FlyteDirectory("/f")))) is is_said
        run = record(base=report, trained=report)
        assert (said.partition(", ")[2] in run.summary("/f")) is is_said
        assert (", seed 0, by the engine threshold" in rendered(run, pairs())) is is_said
