"""The exact engine, compiled: equal tokens, few compilations, and a clear word where there can be none."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from tasks.gdsd import seeds
from tasks.gdsd.config.policy import TinyModelConfig
from tasks.gdsd.config.sampler import ExactConfig, SamplerConfig
from tasks.gdsd.denoiser import tiny
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.errors import ConfigError
from tasks.gdsd.rollout.engines.base import Request
from tasks.gdsd.rollout.engines.exact import Exact
from tests.gdsd.rollout.test_engines import generate, sample

FREE = SamplerConfig(length=12, block_length=6, steps_per_block=6, temperature=1.0)
LONG = SamplerConfig(length=24, block_length=6, steps_per_block=4, temperature=0.0)


def build(seed: int = 0) -> Denoiser:
    shape = TinyModelConfig(hidden_size=16, intermediate_size=32, layers=1, heads=2, rope_theta=100.0, init_std=0.3)
    return tiny.build(shape, seed).eval()


def compile_by(monkeypatch: pytest.MonkeyPatch, backend: str | Callable[..., object]) -> None:
    """Leaves out the generation of code, which takes most of the time."""
    compile_it: Any = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_it(function, backend=backend, **options))


def requests(lengths: list[int]) -> list[Request]:
    return [Request([5 + index] * length, seeds.key("compile test", index)) for index, length in enumerate(lengths)]


def compilations(denoiser: Denoiser) -> list[int]:
    """Generates in batches of many shapes, and returns how often the network was compiled until after each.

    Numbers of hidden tokens, sequences, prompts, blocks and steps change nothing; padding and a single sequence do.
    """
    engine = Exact(denoiser, ExactConfig(compile=True))
    before, found = counters["stats"]["unique_graphs"], []
    for asked, config, batch_size in (
        (requests([3, 3, 3, 3]), FREE, 4),
        (requests([9, 9, 9, 9, 9]), LONG, 3),
        (requests([2, 4, 6, 8, 9]), FREE, 5),
        (requests([2, 4, 6, 8, 10, 11]), LONG, 2),
        (requests([7, 8]), FREE, 1),
        (requests([5]), LONG, 1),
    ):
        assert generate(engine, asked, config, batch_size) == sample(denoiser, asked, config, batch_size)
        found.append(counters["stats"]["unique_graphs"] - before)
    return found


@pytest.mark.whole
def test_few_shapes_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, compiling costs more than it saves: a minute for every number of hidden tokens, or for none.

    The engines of a process, one each round, share no limit, beyond which torch would quietly not compile.
    """
    compile_by(monkeypatch, "eager")
    with torch._dynamo.config.patch(recompile_limit=4):
        for seed in range(2):
            assert compilations(build(seed)) == [1, 1, 2, 2, 3, 3]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a machine without a compiler answers with a page of torch's insides."""

    def without_compiler(*_: object) -> object:
        raise RuntimeError("No working C++ compiler found")

    compile_by(monkeypatch, without_compiler)
    with pytest.raises(
        ConfigError, match=r"engine\.compile is true.*\(g\+\+\).*No working.*set compile to false"
    ) as caught:
        generate(Exact(build(), ExactConfig(compile=True)), requests([3, 3]), FREE)
    assert "DYNAMO" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU by g++")
def test_compiled_code_makes_the_same_tokens() -> None:
    """If it fails, rollouts change with a switch that is about speed alone."""
    assert compilations(build())[-1] == 3
