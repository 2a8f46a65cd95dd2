"""Problems of every kind are measured before anything is trained or answered, each for its own completions."""

import json
from pathlib import Path

import msgpack
import pytest
from flyteidl.core.literals_pb2 import BindingData
from flytekit.types.directory import FlyteDirectory

from tasks.gdsd.config.evaluate import EvaluateConfig
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.domains import DomainChoice
from tasks.gdsd.domains.code import CodeConfig
from tasks.gdsd.errors import DataError
from tests.gdsd.official import write_llada
from tests.workflows.conftest import quick_runs
from tests.workflows.test_compiled import unroll
from workflows import gdsd

LONG = "How many " + "very " * 400 + "long rows are there?"
SAMPLER = {"length": 8, "block_length": 8, "steps_per_block": 2}


def words(name: str, count: int) -> list[str]:
    return [f"How many {name}{number} does {name} {number} have?" for number in range(count)]


def written(folder: Path, name: str, texts: list[str]) -> dict[str, object]:
    """A file of problems that share no two words."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"question": text, "answer": "#### 2"}) + "\n" for text in texts))
    return {"path": str(path)}


def run(folder: Path, unusable: str, **texts: list[str]) -> dict[str, object]:
    """A run of one round of a small random LLaDA for 256 tokens, with a guard."""
    model = folder / "model"
    model.mkdir()
    write_llada(model, max_sequence_length=256)
    names = ("train", "validation", "test", "guard")
    files = {name: written(folder, name, texts.get(name, words(name, 4))) for name in names}
    domain = {"domain": {"name": "gsm8k"}, "unusable": unusable}
    prompts = domain | {f"{name}_data": files[name] for name in ("train", "validation", "test")}
    return {
        "name": "rooms",
        "rounds": 1,
        "prompts": prompts | {"train_size": 4, "validation_size": 4, "test_size": 4},
        "policy": {"model": {"path": str(model)}, "adapter": {"rank": 2, "alpha": 4}},
        "rollout": {"prompts_per_round": 2, "group_size": 2, "batch_size": 4, "sampler": SAMPLER},
        "distill": {"inner_steps": 1, "objective": {"trust_region": None}},
        "evaluation": {"batch_size": 4, "sampler": SAMPLER},
        "judge": {"guards": {"other": domain | {"test_size": 4, "test_data": files["guard"]}}},
    }


def load(config: dict[str, object]) -> TrainConfig:
    return TrainConfig.model_validate_json(json.dumps(config))


@pytest.mark.parametrize("name", ["train", "validation", "test", "guard"])
def test_a_long_problem_stops_a_run_before_weights_are_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, 25 rounds of a large model are lost to a validation problem, or all of them to a guard's."""
    config = load(run(tmp_path, "refuse", **{name: [*words(name, 3), LONG]}))
    monkeypatch.setattr("tasks.gdsd.denoiser.weights.read", lambda *arguments: pytest.fail("weights were read"))
    where = ("other", "judge.guards.other") if name == "guard" else (name, "prompts")
    with (
        quick_runs(tmp_path / "data"),
        pytest.raises(DataError, match=rf"1 of 4 {where[0]} prompts are too long.*{where[1]}\.unusable: drop"),
    ):
        gdsd.train(config=config)


def test_long_problems_are_left_out_of_a_run_if_it_says_so(tmp_path: Path) -> None:
    """If it fails, one long problem of a published set keeps all of it from being used."""
    texts = {name: [*words(name, 3), LONG] for name in ("train", "validation", "test", "guard")}
    config = load(run(tmp_path, "drop", **texts))
    with quick_runs(tmp_path / "data"):
        result = gdsd.train(config=config)
    record = json.loads((Path(str(result.folder.path)) / "run.json").read_text())
    assert record["policy"]["unusable"] == 4
    assert record["validations"][0]["protocol"]["problems"] == record["trained"]["protocol"]["problems"] == 3
    assert "4 problems leave no room for an answer" in (Path(str(result.folder.path)) / "report.html").read_text()


def rooms(binding: BindingData) -> list[dict[str, object]]:
    """What rooms a binding gives, one or several."""
    several = binding.collection.bindings if binding.HasField("collection") else [binding]
    return [msgpack.loads(item.scalar.binary.value) for item in several]


def test_each_kind_of_problem_has_the_room_of_its_own_completions(tmp_path: Path) -> None:
    """If it fails, longer answers of evaluations are found to have no room when the first evaluation is due."""
    config = load(run(tmp_path, "drop"))
    longer = config.evaluation.sampler.model_copy(update={"length": 24})
    tests = config.judge.guards["other"].model_copy(update={"domain": DomainChoice(CodeConfig())})
    inputs = {
        "prompts": config.prompts,
        "policy": config.policy,
        "hardware": config.hardware,
        "rollout": config.rollout,
        "evaluation": config.evaluation.model_copy(update={"sampler": longer}),
        "judge": config.judge.model_copy(update={"guards": config.judge.guards | {"tests": tests}}),
        "publish": config.publish,
    }
    nodes = unroll(gdsd.prepare, inputs).nodes
    (given,) = [binding for node in nodes for binding in node.inputs if binding.var == "rooms"]
    asked = ("problems", "length", "least", "unusable", "writes_references")
    assert [tuple(map(room.get, asked)) for room in rooms(given.binding)] == [
        ("train", 8, 2, "drop", True),
        ("validation", 24, 1, "drop", True),
        ("test", 24, 1, "drop", True),
        ("other", 24, 1, "drop", True),
        ("tests", 24, 1, "drop", False),  # those of code, which no policy writes
    ]


def test_all_lengths_of_an_evaluation_have_the_problems_that_fit_the_longest(tmp_path: Path) -> None:
    """If it fails, lengths are compared on different problems, or the longest is refused after the others are done."""
    config = EvaluateConfig.model_validate_json(json.dumps({"lengths": [16, 32, 64]}))
    spec = unroll(gdsd.evaluate_lengths, {"policy": FlyteDirectory(str(tmp_path)), "config": config})
    given = [binding.binding for node in spec.nodes for binding in node.inputs if binding.var == "room"]
    assert [room["length"] for binding in given for room in rooms(binding)] == [64, 64, 64]
