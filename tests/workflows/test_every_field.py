"""No dead switches: every field of every config changes something that a run shows, or does not exist.

The workflow runs in this process, uncached and very small, once with a base config and once per field with only it
changed. What is compared is the run's record without times, its sample table and the number of denoiser calls. The
data checks, which take most of the time of so small a run and which no field changes, are left out.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from _pytest.mark import ParameterSet
from pydantic import BaseModel, RootModel

from tasks.gdsd.config.evaluate import EvaluateConfig, GuardConfig
from tasks.gdsd.config.hardware import TrainHardwareConfig
from tasks.gdsd.config.policy import AdapterConfig
from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.config.sampler import DualCacheConfig, ThresholdConfig
from tasks.gdsd.config.train import TrainConfig
from tests.workflows.conftest import ROOT, quick_runs, without_times

BASE: dict[str, object] = {
    "name": "base",
    "rounds": 2,
    "validate_every": 1,
    "prompts": {"train_size": 24, "validation_size": 8, "test_size": 24},
    "policy": {
        "tiny": {"hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2},
        "warm_start": {"steps": 40, "batch_size": 32, "learning_rate": 0.02},
    },
    "rollout": {"prompts_per_round": 4, "group_size": 4, "sampler": {"steps_per_block": 4}},
    "evaluation": {"samples": 2, "sampler": {"steps_per_block": 4, "temperature": 0.5}},
    "distill": {"inner_steps": 3},
}
# A changed value per field; where one field alone would be refused, its companions are in the dictionary too.
CHANGES: dict[str, object] = {
    "name": "other",
    "seed": 1,
    "rounds": 1,
    "validate_every": 2,
    "prompts.seed": 1,
    "prompts.train_seed": 1,
    "prompts.train_size": 20,
    "prompts.validation_size": 9,
    "prompts.test_size": 25,
    "prompts.domain.name": {"prompts.domain": {"name": "countdown", "max_numbers": 3}},
    "prompts.domain.weights": {"prompts.domain.weights": {"cells": 1.0, "format": 0.5}},
    "prompts.domain.min_empty": 3,
    "prompts.domain.max_empty": 6,
    "prompts.domain.shots": 1,
    "policy.seed": 1,
    "policy.tiny.hidden_size": 24,
    "policy.tiny.intermediate_size": 24,
    "policy.tiny.layers": 2,
    "policy.tiny.heads": 4,
    "policy.tiny.rope_theta": 10.0,
    "policy.tiny.init_std": 0.2,
    "policy.tiny.alphabet": "from_data",
    "policy.warm_start.steps": 41,
    "policy.warm_start.batch_size": 33,
    "policy.warm_start.learning_rate": 0.01,
    "policy.adapter": {"policy.adapter": {}},
    "rollout.prompts_per_round": 5,
    "rollout.group_size": 5,
    "rollout.shards": 2,
    "rollout.batch_size": 4,
    "rollout.sampler.length": {"rollout.sampler.length": 32},
    "rollout.sampler.block_length": {"rollout.sampler.block_length": 8},
    "rollout.sampler.steps_per_block": 5,
    "rollout.sampler.temperature": 0.7,
    "rollout.sampler.order": "entropy",
    "rollout.sampler.top_p": 0.5,
    "rollout.sampler.top_k": 2,
    "rollout.sampler.ban": ["1"],
    "rollout.engine.name": {"rollout.engine": {"name": "prefix_cache", "drift": {"sample": 2}}},
    "reward.scale_by_std": True,
    "distill.inner_steps": 2,
    "distill.compute.precision": "bfloat16",
    "distill.compute.micro_batch_tokens": 300,
    "distill.learning_rate": 0.01,
    "distill.warmup_steps": 3,
    "distill.decay_after": 2,
    "distill.weight_decay": 0.5,
    "distill.adam_beta1": 0.5,
    "distill.adam_beta2": 0.5,
    "distill.ema_decay": 0.1,
    "distill.max_grad_norm": 1e-4,
    "distill.objective.name": {"distill.objective": {"name": "espo"}},
    "distill.objective.complement": {
        "distill.objective.complement": False,
        "distill.objective.mask_source": "trajectory",
    },
    "distill.objective.readout": "centred",
    "distill.objective.top_k": {"distill.objective.readout": "centred_topk", "distill.objective.top_k": 4},
    "distill.objective.weights": {
        "distill.objective.weights": "elbo",
        "distill.objective.mask_source": "random",
    },
    "distill.objective.form": {
        "distill.objective.form": "penalty",
        "distill.objective.reference_weight": 0.5,
    },
    "distill.objective.trust_region": 1e-4,
    "distill.objective.guidance": 2.0,
    "distill.objective.reference_weight": 0.5,
    "distill.objective.baseline": {
        "distill.objective.baseline": "group",
        "distill.objective.share_masks": True,
        "distill.objective.mask_source": "random",
    },
    "distill.objective.mask_pairs": {
        "distill.objective.mask_pairs": 2,
        "distill.objective.mask_source": "trajectory",
    },
    "distill.objective.mask_source": "random",
    "distill.objective.path_states": 1,
    "distill.objective.mask_blocks": {
        "distill.objective.mask_blocks": 4,
        "distill.objective.mask_source": "random",
    },
    "distill.objective.share_masks": False,
    "evaluation.samples": 3,
    "evaluation.pass_at": [1, 2],
    "evaluation.shards": 2,
    "evaluation.batch_size": 3,
    "evaluation.sampler.length": 32,
    "evaluation.sampler.block_length": 8,
    "evaluation.sampler.steps_per_block": 5,
    "evaluation.sampler.temperature": 0.0625,
    "evaluation.sampler.order": "entropy",
    "evaluation.sampler.top_p": 0.5,
    "evaluation.sampler.top_k": 2,
    "evaluation.sampler.ban": ["1"],
    "evaluation.engine.name": {"evaluation.engine": {"name": "threshold"}},
    "judge.margin": 0.9,
    "judge.confidence": 0.8,
    "judge.resamples": 100,
    "judge.guards": {"judge.guards": {"older": {"test_size": 4}}},
}
# Compared with a run that has the default adapter.
ADAPTER_CHANGES: dict[str, object] = {
    "policy.adapter.rank": 4,
    "policy.adapter.alpha": 4.0,
    "policy.adapter.targets": ["v_proj", "up_proj"],
}
# Compared with a run that has one guard of four problems.
GUARD_CHANGES: dict[str, object] = {
    "judge.guards.older.seed": 1,
    "judge.guards.older.test_size": 5,
    "judge.guards.older.tolerance": 0.75,
    "judge.guards.older.domain": {"min_empty": 9, "max_empty": 9},
}
# Compared with a run whose rollouts are by the dual cache, and whose evaluations by confidence thresholds; a single
# block of layers or tokens hides what a cache gets wrong.
ENGINES: dict[str, object] = {
    "policy.tiny.layers": 2,
    "policy.tiny.init_std": 0.8,
    "rollout.sampler.block_length": 8,
    "rollout.engine": {"name": "dual_cache", "drift": {"sample": 24, "agreement": 0, "reward_gap": 1}},
    "evaluation.engine": {"name": "threshold"},
}
ENGINE_CHANGES: dict[str, object] = {
    "rollout.engine.refresh_every": 2,
    "rollout.engine.drift.sample": 23,
    "rollout.engine.drift.agreement": 1,
    "evaluation.engine.confidence": 0.25,
}
# What other tests show.
ELSEWHERE = {
    "patience": "tests/workflows/test_legs.py",
    "rounds_per_task": "tests/workflows/test_legs.py",  # only time
    "keep_rollouts": "tests/workflows/test_legs.py",
    "prompts.train_data": "test_a_file_replaces_generated_problems",
    "prompts.validation_data": "test_a_file_replaces_generated_problems",
    "prompts.test_data": "test_a_file_replaces_generated_problems",
    "prompts.columns": "test_columns_say_where_a_file_has_what",
    "prompts.unusable": "tests/gdsd/prompts/test_problems.py",
    "judge.guards.older.unusable": "the same field as prompts.unusable",
    "prompts.near_duplicates": "tests/gdsd/prompts/test_problems.py",  # no two Sudoku are alike without being the same
    "prompts.similarity": "tests/gdsd/prompts/test_problems.py",
    "publish.licence": "tests/gdsd/report/test_model_card.py",
    "publish.pipeline": "tests/gdsd/publish/test_hub.py",
    "publish.trackers": "tests/gdsd/publish/test_trackers.py",
    "publish.hub": "tests/gdsd/publish/test_hub.py",
    "prompts.domain.format": "tests/gdsd/domains/test_sudoku.py",  # the tiny family does not know the words of `tagged`
    "policy.adapter.base_bits": "tests/gdsd/denoiser/test_quantization.py",
    "distill.compute.processes": "tests/gdsd/distill/test_launcher.py",
    "distill.compute.nodes": "tests/workflows/test_nodes.py",
    "distill.compute.sharding": "tests/gdsd/distill/test_launcher.py",
    "distill.compute.gradient_checkpointing": "tests/gdsd/distill/test_gradients.py",  # only memory and time
    "distill.compute.save_minutes": "tests/gdsd/distill/test_resume.py",  # on a cluster only
    "policy.model": "tests/tasks/test_policy.py",
    "policy.stored_adapter": "tests/gdsd/denoiser/test_start.py",
    "distill.max_skipped": "tests/gdsd/distill/test_updates.py",
    "distill.objective.after_end": "tests/gdsd/objectives/test_every_objective.py",  # needs answers that end early
    "rollout.engine.compile": "tests/gdsd/rollout/test_compile.py",  # only time
    "rollout.engine.drift.reward_gap": "tests/gdsd/evaluate/test_drift.py",  # needs a gap that is not chance
    "evaluation.engine.compile": "the same field as rollout.engine.compile",
    "rollout.sampler.stop_at_end": "tests/gdsd/rollout/test_engines.py",  # needs answers that end early
    "evaluation.sampler.stop_at_end": "the same field as rollout.sampler.stop_at_end",
    "judge.guards.older.test_data": "the same field as prompts.test_data",
    "judge.guards.older.columns": "the same field as prompts.columns",
    **{
        f"hardware.{stage}.{field}": "tests/workflows/test_hardware.py"  # on a cluster only
        for stage, place in TrainHardwareConfig.model_fields.items()
        for field in type(place.default).model_fields
    },
    **{f"hardware.{stage}.price": "tests/gdsd/run/test_costs.py" for stage in TrainHardwareConfig.model_fields},
}


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind, path = field.annotation, f"{prefix}{name}"
        if isinstance(kind, type) and issubclass(kind, RootModel):  # one of several: the default's fields here
            yield from leaves(type(field.default.root), f"{path}.")
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{path}.")
        elif isinstance(field.default, BaseModel):  # one of several: the default's fields here, the rivals' elsewhere
            yield from leaves(type(field.default), f"{path}.")
        else:
            yield path
        if path == "policy.adapter":  # its own fields count where it is not None
            yield from leaves(AdapterConfig, f"{path}.")
        if path == "rollout.engine":  # those of the other engines
            yield from leaves(DualCacheConfig, f"{path}.")
        if path == "evaluation.engine":
            yield from leaves(ThresholdConfig, f"{path}.")
        if path == "judge.guards":  # as soon as there is one
            yield from (f"{path}.older.{name}" for name in GuardConfig.model_fields)


def test_every_field_is_covered() -> None:
    """A new field must show here what it changes."""
    assert {*CHANGES, *ADAPTER_CHANGES, *GUARD_CHANGES, *ENGINE_CHANGES, *ELSEWHERE} == set(leaves(TrainConfig))
    assert all((ROOT / place).is_file() for place in ELSEWHERE.values() if place.startswith("tests/"))
    # tests/workflows/test_evaluate.py shows what `lengths` does.
    assert set(leaves(EvaluateConfig)) - set(leaves(TrainConfig)) == {"lengths"}


def configure(**changes: object) -> TrainConfig:
    config = json.loads(json.dumps(BASE))
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = config
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = json.loads(json.dumps(value))
    return TrainConfig.model_validate_json(json.dumps(config))


@dataclass
class Run:
    record: object
    samples: list[dict[str, object]]
    calls: int
    report: str


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory):
    """Runs the workflow in this process and counts denoiser calls."""
    from tasks.gdsd.denoiser.denoiser import Denoiser
    from tasks.gdsd.rollout.engines.unmasking import Unmasking
    from workflows import gdsd

    calls = 0

    def counted(called):
        def call(self, *arguments):
            nonlocal calls
            calls += 1
            return called(self, *arguments)

        return call

    def go(config: TrainConfig) -> Run:
        nonlocal calls
        calls = 0
        result = gdsd.train(config=config)
        folder = Path(os.fspath(result.folder.path))
        record = json.loads((folder / "run.json").read_text())
        title = (folder / "report.html").read_text().split("<h1>")[1].split("</h1>")[0]
        return Run(
            without_times({key: value for key, value in record.items() if key != "config"}),
            pq.read_table(folder / "samples.parquet").to_pylist(),
            calls,
            title,
        )

    with quick_runs(tmp_path_factory.mktemp("data")) as patch:
        patch.setattr(Denoiser, "forward", counted(Denoiser.forward))
        patch.setattr(Unmasking, "draw", counted(Unmasking.draw))  # sampling reads the network at some places only
        yield go


def test_the_same_config_gives_the_same_run(train) -> None:
    """Without this, the comparison below would show nothing."""
    assert train(configure()) == train(configure())


# The base of a field's change, and the changes that it is compared with.
TABLES: Mapping[str, tuple[Mapping[str, object], Mapping[str, object]]] = {
    "the default": ({}, CHANGES),
    "an adapter": ({"policy.adapter": {}}, ADAPTER_CHANGES),
    "a guard": ({"judge.guards": {"older": {"test_size": 4}}}, GUARD_CHANGES),
    "other engines": (ENGINES, ENGINE_CHANGES),
}
# The others take minutes together.
QUICK = ("seed", "prompts.seed", "rollout.sampler.temperature", "distill.objective.guidance", "evaluation.samples")


def parameters() -> Iterator[ParameterSet]:
    for where, (_, changes) in TABLES.items():
        for field in changes:
            yield pytest.param(where, field, marks=() if field in QUICK else pytest.mark.whole, id=field)


@pytest.fixture(scope="module")
def bases(train) -> Callable[[str], Run]:
    """The unchanged run of each table."""
    return cache(lambda where: train(configure(**TABLES[where][0])))


@pytest.mark.parametrize(("where", "field"), parameters())
def test_the_field_changes_something(where: str, field: str, train, bases: Callable[[str], Run]) -> None:
    """A switch without effect misleads whoever turns it."""
    base, changes = TABLES[where]
    value = changes[field]
    # In the first table a dictionary has the field's companions, too.
    changed = value if where == "the default" and isinstance(value, dict) else {field: value}
    assert train(configure(**(base | changed))) != bases(where)


@pytest.mark.parametrize("name", ["chess", "", None, 4])
def test_an_unknown_domain_is_refused(name: object) -> None:
    """An unknown domain must not run the default one."""
    with pytest.raises(ValueError, match=r"prompts\.domain"):
        configure(**{"prompts.domain": {"name": name}})


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_file_replaces_generated_problems(split: str, tmp_path: Path) -> None:
    """A file that is named must be what is trained or tested on."""
    from tasks.gdsd.prompts.problems import make_prompts

    other = make_prompts(PromptConfig(seed=9, train_size=4, validation_size=4, test_size=4))["train"]
    path = tmp_path / "problems.parquet"
    pq.write_table(other, path)
    loaded = make_prompts(PromptConfig(**{f"{split}_data": {"path": str(path)}}, train_size=5))
    assert loaded[split]["problem"].to_pylist() == other["problem"].to_pylist()
    assert all(table.num_rows != 4 for name, table in loaded.items() if name != split)


def test_columns_say_where_a_file_has_what(tmp_path: Path) -> None:
    """A file in other words than ours must not be rewritten before it can be used."""
    from tasks.gdsd.prompts.problems import make_prompts

    path = tmp_path / "problems.csv"
    path.write_text("quiz,key\n1.34341.2143.321,1234341221434321\n")
    config = PromptConfig(test_data={"path": str(path)}, columns={"puzzle": "quiz", "solution": "key"})
    (row,) = make_prompts(config)["test"].to_pylist()
    assert (row["problem"], row["reference"]) == ("1.34341.2143.321", "1234341221434321")
