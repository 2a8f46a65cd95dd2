"""The base policy of a run, with and without an adapter."""

import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile

from tasks.distill import distill_epoch
from tasks.gdsd import tables
from tasks.gdsd.config.policy import AdapterConfig, PolicyConfig, TinyModelConfig, WarmStartConfig
from tasks.gdsd.config.prompts import PromptConfig, Room
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.errors import CheckpointError, ConfigError, DataError
from tasks.gdsd.files import digest
from tasks.gdsd.files import digest as content
from tasks.gdsd.prompts.problems import make_prompts
from tasks.policy import Policy, measure_problems, prepare_policy, take_policy
from tests.gdsd import epochs
from tests.gdsd.checkpoints import trained
from tests.gdsd.epochs import rewarded
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
    return prepare_policy.task_function(config, *given(folder, made, lengths, unusable))


def given(
    folder: Path, made: dict[str, pa.Table], lengths: list[int], unusable: str = "refuse"
) -> tuple[FlyteFile, FlyteFile, FlyteFile, list[FlyteFile], list[Room]]:
    """The problems as a task takes them; references are answers, but for those of a guard named `judged`."""
    train, validation, test, *guards = [
        FlyteFile(str(tables.write(table, tables.PROMPTS, folder / f"{name}.parquet"))) for name, table in made.items()
    ]
    rooms = [
        Room(problems=name, length=length, unusable=unusable, writes_references=name != "judged")
        for name, length in zip(made, lengths, strict=True)
    ]
    return train, validation, test, guards, rooms


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
    with pytest.raises(ConfigError, match="a published model, or an earlier run's policy, has its own shape"):
        published(tmp_path, **fields)


@pytest.mark.parametrize("fields", [{"tiny": None}, {"warm_start": None}])
def test_no_model_at_all_is_refused(fields: dict[str, object]) -> None:
    """If it fails, a run ends in an assertion after its prompts were prepared."""
    with pytest.raises(ConfigError, match="neither a model nor both"):
        PolicyConfig.model_validate_json(json.dumps(fields))


# An earlier run's policy


@pytest.mark.parametrize("way", ["configured", "champion", "fresh adapter"])
def test_a_run_is_pulled_to_the_policy_that_it_began_with(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a run that goes on with an adapter is pulled back to the base of the run before it.

    Before the first update the policy is what it began with, so there is no divergence, and after it there is. The
    adapter that goes on is far from its base.
    """
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    adapter = AdapterConfig(rank=2)
    first = checkpoint.load(prepared(PLAIN.model_copy(update={"adapter": adapter}), tmp_path), CPU).denoiser
    earlier = checkpoint.save(tmp_path / "policy", trained(first))
    if way == "champion":
        files = [FlyteFile(str(tmp_path / f"{name}.parquet")) for name in ("train", "validation", "test")]
        rooms = [Room(problems="any", length=16)] * 3
        begun = take_policy.task_function(FlyteDirectory(str(earlier)), *files, [], rooms)
    else:
        stored = {"configured": "continue", "fresh adapter": "merge"}[way]
        begun = prepare(published(earlier, stored_adapter=stored, adapter=adapter.model_dump()), tmp_path)
    policy = checkpoint.load(Path(os.fspath(begun.checkpoint)), CPU).denoiser
    ids = torch.tensor([policy.encode("12.4=")])
    torch.testing.assert_close(policy(ids), first(ids))
    table = FlyteFile(str(tables.write(rewarded(policy), tables.REWARDED, tmp_path / "rewarded.parquet")))
    config = epochs.configured({"form": "penalty", "reference_weight": 0.1}, inner_steps=2)
    done = distill_epoch.task_function(begun.checkpoint, begun.checkpoint, table, config, epochs.GROUP, 0, 7)
    steps = [step.kl_ref for step in done.stats.steps]
    assert steps[0] == 0.0 and steps[1]
    assert begun.stats.parent == (content(earlier) if way == "champion" else None), "or the report names the wrong way"


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


# Characters

SPLITS = ("train", "validation", "test", "a guard", "judged")


@pytest.mark.parametrize("what", ["prompt", "reference"])
@pytest.mark.parametrize("split", SPLITS)
def test_a_character_that_the_policy_lacks_is_refused_before_the_warm_start_or_left_out(
    split: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, one character stops a run in its tenth round, or a problem is asked that no answer can solve.

    What an answer is only judged with, the policy need not write.
    """
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    made = {name: asked(name, ["1+1", "1+2"]) for name in SPLITS}
    rows = made[split].to_pylist()
    rows[1][what] = "stra\u00dfe"
    made[split] = pa.Table.from_pylist(rows, tables.PROMPTS)
    lengths = [8] * len(SPLITS)
    if split == "judged" and what == "reference":
        assert prepare_with(PLAIN, tmp_path, made, lengths).stats.unusable == 0
        return
    with pytest.raises(DataError) as caught, monkeypatch.context() as patch:
        patch.setattr("tasks.gdsd.distill.warm_start.warm_start", lambda *arguments: pytest.fail("it was trained"))
        prepare_with(PLAIN, tmp_path, made, lengths)
    assert str(caught.value) == (
        f"1 of 2 {split} problems cannot be read or answered:\n  '{split}-1': the {what} has '\u00df' (U+00DF LATIN "
        "SMALL LETTER SHARP S), near 'stra\u00dfe', which the policy's alphabet lacks\n Leave such problems out by "
        "prompts.unusable: drop, or train a new policy by policy.tiny.alphabet: from_data."
    )
    train, validation, test, guards, rooms = given(tmp_path, made, lengths)
    with pytest.raises(DataError, match=re.escape(str(caught.value))):
        measure_problems.task_function(PLAIN, [train, validation, test, *guards], rooms)
    policy = prepare_with(PLAIN, tmp_path, made, lengths, "drop")
    left = [policy.train, policy.validation, policy.test, *policy.guards]
    names = [tables.read(Path(os.fspath(table)), tables.PROMPTS)["id"].to_pylist() for table in left]
    assert names == [[f"{name}-0"] if name == split else [f"{name}-0", f"{name}-1"] for name in SPLITS]


def test_a_reference_longer_than_a_completion_is_refused_before_the_warm_start_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a user searches thousands of problems for the one that cannot be taught, and no option helps.

    What the policy is only asked may have a longer reference.
    """
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    made = {name: asked(name, ["1+1", "1+2"]) for name in ("train", "validation", "test")}
    for name in ("train", "test"):
        rows = made[name].to_pylist()
        rows[1]["reference"] = "1234"
        made[name] = pa.Table.from_pylist(rows, tables.PROMPTS)
    with pytest.raises(DataError) as caught:
        prepare_with(PLAIN, tmp_path, made, [3] * 3)
    assert str(caught.value) == (
        "1 of 2 train problems have a reference that is longer than a completion, which has 3 tokens:\n  'train-1': "
        "the reference has 4 tokens\n Leave such problems out by prompts.unusable: drop, or raise "
        "evaluation.sampler.length."
    )
    assert prepare_with(PLAIN, tmp_path, made, [3] * 3, "drop").stats.unusable == 1


OWN = PLAIN.model_copy(update={"tiny": PLAIN.tiny.model_copy(update={"alphabet": "from_data"})} if PLAIN.tiny else {})


def test_the_alphabet_can_be_that_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a tiny policy cannot be trained on a user's own texts, or the order of rows decides what it is."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    texts = ["\u00c9t\u00e9 e\u0301", "\u6f22\n\u5b57", "na\u00efve", "\U0001f600", "{}"]
    made = {name: asked(name, ["1", text]) for name, text in zip(SPLITS, texts, strict=True)}
    rows = made["judged"].to_pylist()
    rows[1]["reference"] = "assert f(X)"  # of which a policy writes nothing
    made["judged"] = pa.Table.from_pylist(rows, tables.PROMPTS)
    lengths = [8] * len(SPLITS)
    first = Path(os.fspath(prepare_with(OWN, tmp_path, made, lengths).checkpoint))
    vocabulary = checkpoint.load(first, CPU).denoiser.tokenizer.get_vocab()
    assert set(vocabulary) - {"<end>", "<pad>", "<mask>"} == set("".join(texts) + "1")
    turned = made | {"validation": made["validation"].take([1, 0])}
    again = Path(os.fspath(prepare_with(OWN, tmp_path, turned, lengths).checkpoint))
    assert digest(first) == digest(again)


def test_new_characters_are_refused_of_a_policy_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a night whose problems have a new character ends in a traceback, or asks what nobody can read."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    made = {name: asked(name, ["\u00e9"]) for name in SPLITS[:3]}
    base = prepare_with(OWN, tmp_path, made, [4, 4, 4]).checkpoint
    assert take_policy.task_function(base, *given(tmp_path, made, [4, 4, 4])).stats.prompt_tokens_longest == 1
    made["test"] = asked("test", ["\u00e9", "\u00e8"])
    said = r"'test-1': the prompt has '\u00e8' .* train a new policy by policy.tiny.alphabet: from_data\.$"
    with pytest.raises(DataError, match=re.compile(said, re.DOTALL)):
        take_policy.task_function(base, *given(tmp_path, made, [4, 4, 4]))


def asked(split: str, prompts: list[str]) -> pa.Table:
    rows = [
        {"id": f"{split}-{row}", "prompt": prompt, "problem": prompt, "reference": "1"}
        for row, prompt in enumerate(prompts)
    ]
    return pa.Table.from_pylist(rows, tables.PROMPTS)
