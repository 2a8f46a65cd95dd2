"""Defaults that must survive a partial configuration."""

import json

import pytest

from tasks.gdsd.config import TrainConfig
from tasks.gdsd.errors import ConfigError


def test_a_partial_evaluation_stays_greedy() -> None:
    """If it fails, changing the length of an evaluation silently changes its protocol to sampling."""
    config = TrainConfig.model_validate_json(json.dumps({"evaluation": {"sampler": {"length": 32}}}))
    assert (config.evaluation.sampler.temperature, config.evaluation.sampler.steps_per_block) == (0.0, 16)


def test_rollouts_without_randomness_are_refused() -> None:
    """If it fails, a run trains for hours on groups of equal completions, which carry no signal."""
    with pytest.raises(ConfigError, match=r"rollout.*temperature 0"):
        TrainConfig.model_validate_json(json.dumps({"rollout": {"sampler": {"temperature": 0}}}))
