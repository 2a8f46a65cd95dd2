"""The base policy of a run, with and without an adapter."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from flytekit.types.file import FlyteFile

from tasks.gdsd import tables
from tasks.gdsd.config.policy import AdapterConfig, PolicyConfig, TinyModelConfig, WarmStartConfig
from tasks.gdsd.config.prompts import PromptConfig, Room
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.errors import CheckpointError, ConfigError, DataError
from tasks.gdsd.prompts.problems import make_prompts
from tasks.policy import Policy, prepare_policy
from tests.gdsd.official import write_llada

CPU = torch.device("cpu")
PLAIN = PolicyConfig(
    tiny=TinyModelConfig(hidden_size=16, intermediate_size=16, layers=1, heads=2),
    warm_start=WarmStartConfig(steps=3, batch_size=8),
)


def prepare(config: PolicyConfig, folder: Path, length: int = 16) -> Policy:
    made = make_prompts(PromptConfig(train_size=8, validation_size=1, test_size=1))
    return prepare_with(config, folder, made, [length, length, length])


def prepare_with(
    config: PolicyConfig, folder: Path, made: dict[str, pa.Table], lengths: list[int], unusable: str = "refuse"
) -> Policy:
    """Prepares a policy for the problems of three splits, and of guards behind them."""
    files = [
        FlyteFile(str(tables.write(table, tables.PROMPTS, folder / f"{name}.parquet"))) for name, table in made.items()
    ]
    rooms = [Room(problems=name, length=length, unusable=unusable) for name, length in zip(made, lengths, strict=True)]
    return prepare_policy.task_function(config, *files[:3], files[3:], rooms)


def prepared(config: PolicyConfig, folder: Path) -> Path:
    return Path(os.fspath(prepare(config, folder).checkpoint))


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


# A published model


def published(folder: Path, **fields: object) -> PolicyConfig:
    return PolicyConfig.model_validate_json(json.dumps({"model": {"path": str(folder)}} | fields))


def test_a_published_model_is_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, another model than the named one is trained, or each round copies the weights that it only reads."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    model = tmp_path / "llada"
    model.mkdir()
    write_llada(model)
    folder = prepared(published(model, adapter={"rank": 2}), tmp_path)
    state = checkpoint.load(folder, CPU)
    assert state.record.family == "llada" and state.denoiser.has_adapter
    assert not list(folder.glob("model*.safetensors")) and (folder / "base.json").is_file()


def test_a_base_of_4_bits_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a run looks for a model and measures its prompts before it finds that it cannot read it."""
    monkeypatch.setattr("tasks.gdsd.denoiser.quantization.find_spec", lambda name: None)
    config = published(tmp_path, adapter={"rank": 2, "base_bits": 4}, model={"path": "/nowhere", "sha256": "0" * 64})
    with pytest.raises(ConfigError, match="needs bitsandbytes, which is not installed here; run"):
        prepare(config, tmp_path)


def test_a_published_model_that_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, rounds of one run start from different bases."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    model = tmp_path / "llada"
    model.mkdir()
    write_llada(model)
    config = published(model)
    write_llada(model, seed=1)
    with pytest.raises(CheckpointError, match="was pinned and is not to be found"):
        prepared(config, tmp_path)


def test_a_configuration_with_a_model_survives_a_round_trip(tmp_path: Path) -> None:
    """If it fails, a run's own config.yaml cannot be run again."""
    write_llada(tmp_path)
    config = published(tmp_path)
    assert config.tiny is None and config.warm_start is None
    assert PolicyConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("fields", [{"tiny": {}}, {"warm_start": {"steps": 3}}])
def test_a_published_model_with_a_shape_is_refused(fields: dict[str, object], tmp_path: Path) -> None:
    """If it fails, a configuration seems to set what is not used."""
    write_llada(tmp_path)
    with pytest.raises(ConfigError, match="a published model has its own shape and weights"):
        published(tmp_path, **fields)


@pytest.mark.parametrize("fields", [{"tiny": None}, {"warm_start": None}])
def test_no_model_at_all_is_refused(fields: dict[str, object]) -> None:
    """If it fails, a run ends in an assertion after its prompts were prepared."""
    with pytest.raises(ConfigError, match="neither a model nor both"):
        PolicyConfig.model_validate_json(json.dumps(fields))


# Prompts


def test_prompts_are_measured_in_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a person plans a run for prompts of another length. The tiny tokenizer's tokens are letters."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    stats = prepare(PLAIN, tmp_path).stats
    lengths = [len(prompt) for prompt in tables.read(tmp_path / "train.parquet", tables.PROMPTS)["prompt"].to_pylist()]
    assert stats.prompt_tokens_longest == max(lengths)
    assert stats.prompt_tokens_mean == pytest.approx(sum(lengths) / len(lengths))


def test_prompts_that_leave_no_room_are_refused_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a model reads positions it was not trained for, or says so after 16 GB were downloaded.

    A Sudoku has 17 letters. Some digits are one token together, and the template has 8 tokens of its own.
    """
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    model = tmp_path / "llada"
    model.mkdir()
    write_llada(model, max_sequence_length=64)
    config = published(model)
    longest = prepare(config, tmp_path).stats.prompt_tokens_longest
    assert prepare(config, tmp_path, length=64 - longest).stats.prompt_tokens_longest == longest
    monkeypatch.setattr("tasks.gdsd.denoiser.weights.read", lambda *arguments: pytest.fail("weights were read"))
    with pytest.raises(DataError, match=rf"the longest, 'train-\d+', has {longest} tokens, .*made for 64"):
        prepare(config, tmp_path, length=65 - longest)


@pytest.mark.parametrize("split", ["train", "validation", "test", "a guard"])
def test_a_problem_without_room_is_refused_before_weights_are_read_or_left_out(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a run of days ends at its first validation, or after its last one, because of one long problem.

    A prompt of 40 letters has no room beside 30 in a model of 64; one of 10 letters has. The template has 8 tokens.
    """
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    model = tmp_path / "llada"
    model.mkdir()
    write_llada(model, max_sequence_length=64)
    texts = {name: ["q" * 10, "s" * 10] for name in ("train", "validation", "test", "a guard")}
    made = {name: asked(name, prompts) for name, prompts in texts.items()}
    lengths = [30] * 4
    monkeypatch.setattr("tasks.gdsd.denoiser.weights.read", lambda *arguments: pytest.fail("weights were read"))
    made[split] = asked(split, ["q" * 10, "r" * 40])
    with pytest.raises(
        DataError, match=rf"1 of 2 {split} prompts are too long: the longest, '{split}-1'.*unusable: drop"
    ):
        prepare_with(published(model), tmp_path, made, lengths)
    monkeypatch.undo()
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    policy = prepare_with(published(model), tmp_path, made, lengths, "drop")
    left = [policy.train, policy.validation, policy.test, *policy.guards]
    names = [tables.read(Path(os.fspath(table)), tables.PROMPTS)["id"].to_pylist() for table in left]
    assert names == [[f"{name}-0"] if name == split else [f"{name}-0", f"{name}-1"] for name in made]
    assert policy.stats.unusable == 1
    made[split] = asked(split, ["r" * 40])
    with pytest.raises(DataError, match="Without them 0 are left, but at least 1 are needed"):
        prepare_with(published(model), tmp_path, made, lengths, "drop")


def test_each_table_has_the_room_of_its_own_completions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, validation answers that are longer than the rollouts' have no room when they are due."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    model = tmp_path / "llada"
    model.mkdir()
    write_llada(model, max_sequence_length=64)
    made = {name: asked(name, ["q" * 10]) for name in ("train", "validation", "test")}
    with pytest.raises(DataError, match=r"1 of 1 validation prompts are too long.*completions of 60"):
        prepare_with(published(model), tmp_path, made, [16, 60, 16])


def test_a_prompt_that_the_policy_cannot_read_is_refused_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, one character stops a run in its tenth round. The tiny family does not know the sharp s."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    made = {name: asked(name, ["1+1"]) for name in ("train", "validation", "test")}
    made["test"] = asked("test", ["1+1", "\u00df"])
    with pytest.raises(DataError, match=r"1 of 2 test prompts cannot be read:\n  'test-1': .*does not know"):
        prepare_with(PLAIN, tmp_path, made, [4, 4, 4])
    test = prepare_with(PLAIN, tmp_path, made, [4, 4, 4], "drop").test
    assert tables.read(Path(os.fspath(test)), tables.PROMPTS)["id"].to_pylist() == ["test-0"]


def asked(split: str, prompts: list[str]) -> pa.Table:
    rows = [
        {"id": f"{split}-{row}", "prompt": prompt, "problem": prompt, "reference": "1"}
        for row, prompt in enumerate(prompts)
    ]
    return pa.Table.from_pylist(rows, tables.PROMPTS)
