"""The base policy of a run, with and without an adapter."""

import os
from pathlib import Path

import pytest
import torch
from flytekit.types.file import FlyteFile

from tasks.gdsd import checkpoint, tables
from tasks.gdsd.config import AdapterConfig, PolicyConfig, PromptConfig, TinyModelConfig, WarmStartConfig
from tasks.gdsd.prompts import make_prompts
from tasks.policy import prepare_policy

CPU = torch.device("cpu")
PLAIN = PolicyConfig(
    tiny=TinyModelConfig(hidden_size=16, intermediate_size=16, layers=1, heads=2),
    warm_start=WarmStartConfig(steps=3, batch_size=8),
)


def prepared(config: PolicyConfig, folder: Path) -> Path:
    path = folder / "train.parquet"
    problems = make_prompts(PromptConfig(train_size=8, validation_size=1, test_size=1))["train"]
    tables.write(problems, tables.PROMPTS, path)
    return Path(os.fspath(prepare_policy.task_function(config, FlyteFile(str(path)), 16).checkpoint))


def test_an_adapter_lies_on_the_warm_started_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, the reference policy is not the base that the run reports, or the warm start trained the adapter."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    plain = prepared(PLAIN, tmp_path)
    adapted = prepared(PLAIN.model_copy(update={"adapter": AdapterConfig(rank=2)}), tmp_path)
    assert (plain / "model.safetensors").read_bytes() == (adapted / "model.safetensors").read_bytes()
    base, policy = checkpoint.load(plain, CPU).denoiser, checkpoint.load(adapted, CPU).denoiser
    ids = torch.tensor([base.encode("12.4=")])
    assert policy.has_adapter and not base.has_adapter
    assert torch.equal(policy(ids), base(ids))


def test_the_seed_draws_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, an equal configuration does not give an equal policy, and everything after it is computed again."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    config = PLAIN.model_copy(update={"adapter": AdapterConfig(rank=2)})
    seeds = (config, config, config.model_copy(update={"seed": 1}))
    weights = [(prepared(each, tmp_path) / "adapter/adapter_model.safetensors").read_bytes() for each in seeds]
    assert weights[0] == weights[1] != weights[2]
