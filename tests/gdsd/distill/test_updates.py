"""Updates that are not finite: skipped, counted, and stopped with evidence when they persist."""

import copy
import math
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tasks.gdsd.config.objective import DiffuGrpoConfig, EspoConfig, ObjectiveConfig, SpgConfig, Wd1Config
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.distill import gradients
from tasks.gdsd.distill.batch import collate
from tasks.gdsd.errors import NonFiniteError
from tasks.gdsd.objectives import LossMetrics, Scores, objective_loss
from tests.gdsd.epochs import CONFIG, GROUP, configured, rewarded, run, same, weights


def break_updates(monkeypatch: pytest.MonkeyPatch, steps: Collection[int], kind: str) -> None:
    """Makes the loss, or only its gradient, non-finite in the given updates, counted over epochs; one part each."""
    calls = iter(range(10_000))

    def broken(scores: Scores, advantages: Tensor, config: ObjectiveConfig) -> tuple[Tensor, LossMetrics]:
        loss, metrics = objective_loss(scores, advantages, config)
        if next(calls) in steps:
            if kind == "gradient":  # 0 with the gradient 0 * inf
                loss = loss + (scores.theta - scores.theta.detach()).square().sqrt().sum()
            else:
                loss = loss * float(kind)
        return loss, metrics

    monkeypatch.setattr(gradients, "objective_loss", broken)


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
def test_a_non_finite_update_is_skipped(
    start: PolicyState, table: pa.Table, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """If it fails, one bad batch destroys the policy, or its optimizer's moments.

    Skipping the first of three updates must leave what two updates give: old scores are taken in the first step all
    the same, and neither weights, nor moments, nor the count of updates may move.
    """
    expected, _ = run(start, table, configured(inner_steps=2, warmup_steps=3))
    break_updates(monkeypatch, {0}, kind)
    found, stats = run(start, table, configured(inner_steps=3, warmup_steps=3))
    assert [step.skipped for step in stats.steps] == [True, False, False]
    assert same(found, expected)
    assert bool(weights(found).isfinite().all())
    assert (stats.steps[0].loss is None) == (kind != "gradient")
    assert stats.steps[0].grad_norm is None
    assert stats.model_validate_json(stats.model_dump_json()) == stats


def test_skipped_updates_in_a_row_are_counted(
    start: PolicyState, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a run stops over a few scattered bad updates, or never stops."""
    break_updates(monkeypatch, {0, 1, 3, 4, 7}, "nan")
    trained, stats = run(start, table, configured(inner_steps=8, max_skipped=3))
    assert sum(step.skipped for step in stats.steps) == 5
    assert (trained.record.updates, trained.record.skipped_in_a_row) == (3, 1)


def test_too_many_in_a_row_stop_the_run_and_leave_evidence(
    start: PolicyState, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a run goes on for hours without learning, or stops without anything to find the cause from."""
    before, _ = run(start, table, configured(inner_steps=2))
    break_updates(monkeypatch, range(2, 100), "inf")
    with pytest.raises(NonFiniteError, match=r"3 updates in a row were not finite in round 1 .* Lower"):
        run(start, table, configured(inner_steps=50), evidence=tmp_path / "evidence")
    saved = load_file(tmp_path / "evidence" / "batch.safetensors")
    expected = collate(table, start.denoiser, CONFIG.objective, group_size=GROUP, round_index=0, seed=7)
    assert expected is not None
    names = {"prompts", "attention", "completions", "advantages", "judged"}
    names |= {"views.hidden", "views.read", "views.counted"}
    assert saved.keys() == names == expected.tensors().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.tensors().items())
    policy = load_folder(tmp_path / "evidence", "tiny", torch.device("cpu"))
    assert torch.equal(weights(PolicyState(policy, start.record, {})), weights(before)), "as they were at the failure"


@pytest.mark.parametrize("ema_decay", [0.0, 0.7])
def test_a_row_of_skipped_updates_may_span_epochs(
    start: PolicyState, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema_decay: float
) -> None:
    """If it fails, runs with few updates per round never stop, however long nothing works."""
    break_updates(monkeypatch, range(100), "nan")
    config = configured(inner_steps=2, max_skipped=3, ema_decay=ema_decay)
    first, stats = run(start, table, config)
    assert [step.skipped for step in stats.steps] == [True, True]
    assert first.record.skipped_in_a_row == 2 and first.record.updates == 0
    loaded = checkpoint.load(checkpoint.save(tmp_path / "policy", first), torch.device("cpu"))
    with pytest.raises(NonFiniteError, match="3 updates in a row were not finite in round 2"):
        run(loaded, table, config, round_index=1, evidence=tmp_path / "evidence")
    assert (tmp_path / "evidence" / "batch.safetensors").is_file()


@pytest.mark.parametrize("objective", [EspoConfig(), SpgConfig(), Wd1Config(), DiffuGrpoConfig(kl_weight=0.0)])
def test_the_evidence_of_every_objective_is_saved(
    start: PolicyState, table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: ObjectiveConfig
) -> None:
    """If it fails, a run that breaks down leaves nothing to find out why; views that share memory cannot be stored."""
    break_updates(monkeypatch, range(100), "nan")
    base = checkpoint.base_state(copy.deepcopy(start.denoiser))
    with pytest.raises(NonFiniteError):
        run(start, table, CONFIG.model_copy(update={"objective": objective}), base, evidence=tmp_path / "evidence")
    kept = load_file(tmp_path / "evidence" / "batch.safetensors")
    assert {"completions", "advantages", "judged", "views.hidden", "views.read", "views.counted"} <= set(kept)


def test_an_overflowing_reward_is_caught(start: PolicyState, denoiser: Denoiser, tmp_path: Path) -> None:
    """If it fails, the guard works on made-up losses only. Advantages of 1e30 have squares beyond float32."""
    with pytest.raises(NonFiniteError):
        run(start, rewarded(denoiser, factor=1e30), evidence=tmp_path / "evidence")


def test_a_policy_of_nan_is_caught(start: PolicyState, table: pa.Table, tmp_path: Path) -> None:
    """If it fails, a broken checkpoint trains on, and its answers are noise."""
    broken = PolicyState(copy.deepcopy(start.denoiser), start.record, {})
    with torch.no_grad():
        broken.denoiser.network.lm_head.weight[5] = math.nan
    with pytest.raises(NonFiniteError):
        run(broken, table, evidence=tmp_path / "evidence")
