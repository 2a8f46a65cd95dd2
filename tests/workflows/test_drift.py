"""An approximate engine in a whole run: measured in each round, and given up for good beyond its limits."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from flyteidl.core.workflow_pb2 import Node

from tasks.gdsd.config.train import TrainConfig
from tests.workflows.conftest import quick_runs, without_times
from tests.workflows.test_compiled import leg_inputs, unroll
from workflows import gdsd, rounds

# A single block of layers, or of tokens, hides what a cache gets wrong: keys and values of the prompt are then exact.
MICRO: dict[str, object] = {
    "name": "micro",
    "rounds": 2,
    "validate_every": 2,
    "prompts": {"train_size": 24, "validation_size": 8, "test_size": 8},
    "policy": {
        "tiny": {"hidden_size": 16, "intermediate_size": 16, "layers": 2, "heads": 2, "init_std": 0.4},
        "warm_start": {"steps": 3, "batch_size": 8},
    },
    "evaluation": {"sampler": {"steps_per_block": 4}},
}


def configure(engine: dict[str, object], **changes: object) -> TrainConfig:
    sampler = {"block_length": 8, "steps_per_block": 4}
    rollout = {"prompts_per_round": 4, "group_size": 4, "sampler": sampler, "engine": engine}
    return TrainConfig.model_validate_json(json.dumps({**MICRO, "rollout": rollout, **changes}))


def dual(**limits: object) -> dict[str, object]:
    return {"name": "dual_cache", "drift": {"sample": 8, **limits}}


@dataclass
class Run:
    numbers: dict[str, object]  # of the record, without what says how the rollouts came about
    drifts: list[dict[str, object]]
    engines: list[str]  # of the rounds' rollouts, by their tables
    text: str
    page: str


@pytest.fixture
def train(tmp_path: Path):
    """Runs the workflow in this process."""

    def go(config: TrainConfig, name: str) -> Run:
        with quick_runs(tmp_path / name):
            result = gdsd.train(config=config)
        folder = Path(os.fspath(result.folder.path))
        record = without_times(json.loads((folder / "run.json").read_text()))
        tables = sorted((tmp_path / name).glob("rollouts-*/rollouts.parquet"), key=lambda path: path.stat().st_mtime_ns)
        engines = [engine for path in tables for engine in set(pq.read_table(path)["engine"].to_pylist())]
        assert [reward["engine"] for reward in record["rewards"]] == engines
        page = (folder / "report.html").read_text()
        kept = {key: value for key, value in record.items() if key not in ("config", "drifts")}
        return Run(kept, record["drifts"], engines, str(result), page)

    return go


def test_an_approximate_engine_is_measured_in_every_round(train, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, an approximate engine trains a policy and nobody knows how far it is from the exact one."""
    from tasks.gdsd.denoiser.tiny import character_tokenizer
    from tasks.gdsd.evaluate import drift as stage

    given, ends = stage.agree, []
    monkeypatch.setattr(
        stage, "agree", lambda ours, exact, end_ids: (ends.append(end_ids), given(ours, exact, end_ids))[1]
    )
    run = train(configure(dual(agreement=0.01, reward_gap=1.0)), "kept")
    assert run.engines == ["dual_cache"] * 2
    assert ends == [[character_tokenizer().convert_tokens_to_ids("<end>")]] * 2
    first, second = run.drifts
    for number, drift in enumerate((first, second), start=1):
        assert (drift["round"], drift["engine"], drift["completions"], drift["fell_back"]) == (
            number,
            "dual_cache",
            8,
            False,
        )
        assert 0.01 < drift["agreement"]["mean"] < 1 and drift["reward_gap"] is not None
        assert drift["positions"] < 0.7 * drift["exact_positions"]
    assert "engine    dual_cache: at least" in run.text and "least agreement" in run.page


def test_a_run_beyond_its_limits_is_that_of_the_exact_engine(train) -> None:
    """If it fails, rollouts of an engine that was found to drift are trained on, or it comes back in a later round."""
    exact = train(configure({"name": "exact"}), "exact")
    run = train(configure(dual(agreement=1.0)), "given-up")
    assert run.engines == exact.engines == ["exact"] * 2 and exact.drifts == []
    assert run.numbers == exact.numbers
    first, second = run.drifts
    assert first["fell_back"] and first["agreement"]["mean"] < 1
    assert second["engine"] == "exact" and second["agreement"] is None and not second["fell_back"]
    assert "given up in round 1" in run.page.split("<h2>")[0]
    assert "engine    exact from round 1 on, in place of dual_cache" in run.text


# What a cluster would launch


def launched(config: TrainConfig, folder: Path) -> list[Node]:
    return list(unroll(rounds.run_leg, leg_inputs(config, folder)).nodes)


def of(nodes: list[Node], task: str) -> list[Node]:
    return [node for node in nodes if task in (node.array_node.node if node.array_node.node.id else node).metadata.name]


def given(node: Node, name: str) -> tuple[str, str]:
    """Which node and output an input comes from; nothing where it is a value."""
    (binding,) = [binding.binding for binding in node.inputs if binding.var == name]
    return binding.promise.node_id, binding.promise.var


def test_rollouts_follow_the_verdict_of_their_own_round(tmp_path: Path) -> None:
    """If it fails, a cluster makes rollouts before it knows whether their engine may, or forgets the verdict."""
    hardware = {"rollout": {"cpu": 21}, "scoring": {"cpu": 22}}
    nodes = launched(configure(dual(), hardware=hardware), tmp_path)
    samples, verdicts, rollouts = (of(nodes, task) for task in ("sample_both", "measure_drift", "generate_rollouts"))
    assert len(samples) == len(verdicts) == len(rollouts) == 2
    assert [given(node, "samples") for node in verdicts] == [(node.id, "o0") for node in samples]
    assert [given(node, "engine") for node in rollouts] == [(node.id, "engine") for node in verdicts]
    for node in (samples[1], verdicts[1]):
        assert given(node, "engine") == (verdicts[0].id, "engine")
    assert given(samples[1], "policy") == given(rollouts[1], "policy")
    cores = {"21": samples, "22": verdicts}
    for number, placed in cores.items():
        for node in placed:
            assert number in [entry.value for entry in node.task_node.overrides.resources.requests]


def test_the_exact_engine_is_not_measured(tmp_path: Path) -> None:
    """If it fails, every run pays for pods that compare an engine with itself."""
    nodes = launched(configure({"name": "exact"}), tmp_path)
    assert not of(nodes, "sample_both") and not of(nodes, "measure_drift")
    assert {given(node, "engine") for node in of(nodes, "generate_rollouts")} == {("", "")}


def test_other_limits_leave_the_completions_in_the_cache(tmp_path: Path) -> None:
    """If it fails, a wider limit costs all rollouts so far."""

    def engines(**limits: object) -> list[bytes]:
        nodes = launched(configure(dual(**limits)), tmp_path)
        bindings = [binding for binding in of(nodes, "sample_both")[0].inputs if binding.var == "engine"]
        return [binding.binding.scalar.binary.value for binding in bindings]

    assert engines(agreement=0.9, reward_gap=0.01) == engines(agreement=0.1) != [b""]
