"""A run whose epochs are shared by two processes, from its configuration to its policy."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.gdsd.config.train import TrainConfig
from tests.workflows.conftest import quick_runs
from workflows import gdsd

CONFIG = {
    "name": "shared",
    "rounds": 1,
    "prompts": {"train_size": 16, "validation_size": 1, "test_size": 1},
    "policy": {
        "tiny": {"hidden_size": 16, "intermediate_size": 16, "layers": 2, "heads": 2},
        "warm_start": {"steps": 20, "batch_size": 16},
    },
    "rollout": {"prompts_per_round": 8, "group_size": 4},
}


@pytest.mark.whole
def test_a_run_in_two_processes_trains_what_one_trains(tmp_path: Path) -> None:
    """If it fails, a second GPU changes what is learned, or the pipeline cannot start the epoch's processes at all."""
    torch.set_num_threads(1)
    policies, sequences = [], []
    for processes in (1, 2):
        distill = {"inner_steps": 2, "learning_rate": 1e-3, "warmup_steps": 0}
        values = CONFIG | {"distill": distill | {"compute": {"processes": processes}}}
        with quick_runs(tmp_path / f"{processes}"):
            result = gdsd.train(config=TrainConfig.model_validate_json(json.dumps(values)))
        folder = Path(os.fspath(result.folder.path))
        policies.append(load_file(folder / "policy/model.safetensors"))
        (epoch,) = json.loads((folder / "run.json").read_text())["epochs"]
        sequences.append(epoch["sequences"])
        # Adam moves a weight by about the learning rate, far more than what is allowed below.
        assert all(step["grad_norm"] > 0 and step["learning_rate"] > 1e-4 for step in epoch["steps"])
    alone, together = policies
    assert sequences[0] == sequences[1] >= 2 * 4  # a group for each process at least
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=0, atol=1e-5)
