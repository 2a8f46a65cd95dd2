"""Training all weights of a published model, as it goes on a GPU: its default precision there is forced on the CPU."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.gdsd import tables
from tasks.gdsd.config.model_source import OPTIMIZER
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser import weights as files
from tasks.gdsd.denoiser.checkpoint import PolicyState
from tasks.gdsd.denoiser.denoiser import Denoiser
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.distill import epoch
from tasks.gdsd.distill.loop import distill
from tasks.gdsd.records import EpochStats
from tests.gdsd.checkpoints import edit_json
from tests.gdsd.epochs import GROUP, computed, configured, rewarded
from tests.gdsd.official import WRITERS

CPU = torch.device("cpu")
# The rate of the authors' recipes; a step of Adam moves a weight by about as much.
SMALL_STEPS = computed(configured({"reference_weight": 0.1}, learning_rate=3e-6, inner_steps=2), precision="bfloat16")


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads published models in half precision where nothing else is asked for."""

    def load(folder: Path, family: str, device: torch.device, dtype: torch.dtype | None = None) -> Denoiser:
        return original(folder, family, device, torch.bfloat16 if dtype is None else dtype)

    original = checkpoint.load_folder
    monkeypatch.setattr(checkpoint, "load_folder", load)


def published(family: str, folder: Path) -> Path:
    """A checkpoint of a small model in its official layout."""
    WRITERS[family](folder / "official")
    return saved(folder / "official", family, folder)


def saved(model: Path, family: str, folder: Path) -> Path:
    """A checkpoint in half precision, as models are published."""
    denoiser = load_folder(model, family, CPU, torch.bfloat16)
    return checkpoint.save(folder / "policy", checkpoint.base_state(denoiser))


def train(folder: Path, policy: Path, config: DistillConfig = SMALL_STEPS) -> tuple[Path, EpochStats]:
    table = tables.write(rewarded(checkpoint.load(policy, CPU).denoiser), tables.REWARDED, folder / "rewarded.parquet")
    trained = folder / "trained"
    return trained, epoch.train(epoch.Epoch(policy, policy, table, config, GROUP, 0, 7, trained, folder / "evidence"))


def moved(before: Denoiser, after: Denoiser) -> float:
    """Share of the blocks' weights that changed."""
    pairs = list(zip(before.network.model.layers.parameters(), after.network.model.layers.parameters(), strict=True))
    changed = sum(int((first.float() != second.float()).sum()) for first, second in pairs)
    return changed / sum(first.numel() for first, _ in pairs)


def test_small_steps_move_weights_that_would_be_rounded_back(tmp_path: Path, on_a_gpu: None) -> None:
    """If it fails, full training on a GPU stands still: in half precision nearly all updates are rounded away."""
    policy = published("llada", tmp_path)
    before = checkpoint.load(policy, CPU).denoiser
    halves = checkpoint.load(policy, CPU)
    assert halves.denoiser.network.lm_head.weight.dtype == torch.bfloat16
    table = rewarded(before)
    options = {"round_index": 0, "group_size": GROUP, "seed": 7, "parent": "0", "evidence": tmp_path}
    rounded, _ = distill(PolicyState(halves.denoiser, halves.record, {}), halves, table, SMALL_STEPS, **options)
    assert moved(before, rounded.denoiser) < 0.2
    trained, _ = train(tmp_path, policy)
    assert moved(before, checkpoint.load(trained, CPU, dtype=torch.float32).denoiser) > 0.95


@pytest.mark.parametrize("family", ["llada", "qwen3_mdlm"])  # the head is one of its own, or the embedding
def test_a_reference_in_half_precision_is_the_policy_before_its_first_update(
    family: str, tmp_path: Path, on_a_gpu: None
) -> None:
    """If it fails, the divergence from the base is made of rounding, and its penalty pulls at nothing."""
    config = computed(
        configured({"form": "penalty", "reference_weight": 0.1}, inner_steps=2, learning_rate=1e-3),
        precision="bfloat16",
    )
    _, stats = train(tmp_path, published(family, tmp_path), config)
    assert stats.steps[0].kl_ref == 0.0 and stats.steps[1].kl_ref


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])  # of transformers 5, and before
def test_what_full_training_saves_says_its_precision(key: str, tmp_path: Path, on_a_gpu: None) -> None:
    """If it fails, others load float32 weights in half precision, because config.json still says so."""
    WRITERS["llada"](tmp_path / "official")
    edit_json(tmp_path / "official/config.json", **{key: "bfloat16"})
    policy = saved(tmp_path / "official", "llada", tmp_path)
    trained, _ = train(tmp_path, policy)
    for folder, dtype in ((policy, torch.bfloat16), (trained, torch.float32)):
        assert {tensor.dtype for tensor in load_file(folder / files.WHOLE).values()} == {dtype}
        assert json.loads((folder / "config.json").read_text())[key] == str(dtype).removeprefix("torch.")
    assert {tensor.dtype for tensor in load_file(trained / OPTIMIZER).values()} == {torch.float32}
    assert checkpoint.load(trained, CPU).denoiser.network.lm_head.weight.dtype == torch.bfloat16  # to sample from


def test_moments_are_loaded_only_where_they_are_wanted(tmp_path: Path) -> None:
    """If it fails, rollouts hold the optimizer's moments, twice the weights, or stop at a file that they ignore."""
    trained, _ = train(tmp_path, published("dream", tmp_path))
    assert checkpoint.load(trained, CPU).optimizer
    (trained / OPTIMIZER).unlink()
    assert checkpoint.load(trained, CPU, moments=False).optimizer == {}
