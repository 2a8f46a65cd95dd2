"""The loop without Flyte: it is the pipeline's, and it refuses what would train on something else."""

import math
import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest
import torch
from flytekit.types.file import FlyteFile

from tasks.distill import distill_epoch
from tasks.gdsd import library, tables
from tasks.gdsd.config.compute import ComputeConfig
from tasks.gdsd.config.objective import GdsdConfig
from tasks.gdsd.config.policy import AdapterConfig, TinyModelConfig, WarmStartConfig
from tasks.gdsd.config.prompts import Room
from tasks.gdsd.config.sampler import ExactConfig, RolloutEngine
from tasks.gdsd.config.train import RewardConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.domains import make
from tasks.gdsd.errors import ConfigError, DataError, NonFiniteError
from tasks.gdsd.library.prompts import table as as_table
from tasks.gdsd.records import EpochStats
from tasks.policy import prepare_policy
from tasks.prompts import prepare_prompts
from tasks.reward import reward_rollouts
from tasks.rollout import generate_rollouts
from tests.gdsd.epochs import same, weights
from tests.gdsd.official import write_llada

PROMPTS = library.PromptConfig(train_size=8, validation_size=2, test_size=2)
SAMPLER = library.SamplerConfig()
CONFIG = library.DistillConfig(learning_rate=1e-2, warmup_steps=0)
PLAIN = library.PolicyConfig(
    tiny=TinyModelConfig(hidden_size=16, intermediate_size=16, layers=1, heads=2),
    warm_start=WarmStartConfig(steps=30, batch_size=32, learning_rate=1e-2),  # enough for rewards that differ
)
COUNT, GROUP, SEED = 4, 3, 5


@pytest.fixture(scope="module")
def train() -> list[library.Prompt]:
    return library.problems(PROMPTS).train


@pytest.fixture
def policy(train: list[library.Prompt]) -> library.PolicyState:
    return library.start(PLAIN, train)


def moved(first: library.PolicyState, second: library.PolicyState) -> bool:
    return not torch.equal(weights(first), weights(second))


def by_tasks(
    folder: Path, config: library.PolicyConfig, rounds: int
) -> Iterator[tuple[Path, pa.Table, EpochStats | None]]:
    """The base and each round of a run, by the pipeline's tasks: the checkpoint, its completions, and the updates."""
    splits = prepare_prompts.task_function(PROMPTS, COUNT)
    files = [splits.train, splits.validation, splits.test]
    rooms = [Room(problems=split, length=SAMPLER.length) for split in tables.SPLITS]
    made = prepare_policy.task_function(config, *files, [], rooms)
    policy = base = made.checkpoint
    yield Path(os.fspath(base)), tables.REWARDED.empty_table(), None
    engine = RolloutEngine(ExactConfig())
    for index in range(rounds):
        asked = (policy, made.train, SAMPLER, engine, COUNT, GROUP, 5, index, SEED)
        shards = [generate_rollouts.task_function(shard, 2, *asked) for shard in range(2)]
        rewarded = reward_rollouts.task_function(shards, PROMPTS.domain, PROMPTS.domain.rule(), GROUP, RewardConfig())
        file = FlyteFile(os.fspath(rewarded.table))
        policy, stats = distill_epoch.task_function(policy, base, file, CONFIG, GROUP, index, SEED)
        yield Path(os.fspath(policy)), tables.read(Path(os.fspath(file)), tables.REWARDED), stats


@pytest.mark.parametrize("adapter", [None, AdapterConfig(rank=2)], ids=["all weights", "an adapter"])
def test_rounds_are_those_of_the_pipeline(
    adapter: AdapterConfig | None, train: list[library.Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, what a researcher finds out here does not hold in a run with the same configuration and seed."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    config = PLAIN.model_copy(update={"adapter": adapter})
    policy = library.start(config, train, SAMPLER.length)
    before = deepcopy(policy)
    (folder, _, _), *rounds = by_tasks(tmp_path, config, rounds=2)
    assert same(policy, library.load(folder))
    for number, (folder, table, expected) in enumerate(rounds, start=1):
        rollouts = library.sample(
            policy, library.pick(policy, train, COUNT, SEED), SAMPLER, group_size=GROUP, seed=SEED
        )
        judged = library.judge(PROMPTS.domain, rollouts)
        rewards = [judgement.reward for judgement in judged]
        stats = library.update(policy, rollouts, rewards, CONFIG, base=None if adapter else before, seed=SEED)
        rows = {(row["prompt_id"], row["sample"]): row for row in table.to_pylist()}
        assert len(rows) == len(rollouts) == COUNT * GROUP
        for rollout, judgement in zip(rollouts, judged, strict=True):
            row = rows[rollout.prompt_id, rollout.sample]
            own = vars(replace(rollout, uncertainty=row["uncertainty"]))  # whose last digits depend on the batch
            assert own == {name: row[name] for name in own}
            assert judgement.reward == pytest.approx(row["reward"]) and judgement.solved == row["solved"]
            assert judgement.parts["cells"] == pytest.approx(row["reward_cells"])
        assert expected is not None and stats.steps == expected.steps and stats.round == number
        trained = library.load(folder)
        policy.record = policy.record.model_copy(update={"parent": trained.record.parent})  # it was saved there
        assert same(policy, trained) and moved(policy, before)


def test_what_was_saved_goes_on_as_if_it_had_not_been(
    train: list[library.Prompt], policy: library.PolicyState, tmp_path: Path
) -> None:
    """If it fails, a loop that is taken up on another day trains otherwise, or overwrites what it began with."""
    base = deepcopy(policy)
    one_round(policy, train, base)
    library.save(policy, tmp_path / "policy")
    again = library.load(str(tmp_path / "policy"))
    for each in (policy, again):
        one_round(each, train, base)
    assert same(policy, again) and policy.record.round == 2
    with pytest.raises(FileExistsError, match="name another folder"):
        library.save(policy, tmp_path / "policy")


def one_round(
    policy: library.PolicyState, train: list[library.Prompt], base: library.PolicyState | None, **options: object
) -> EpochStats:
    """A round whose reward is of the caller's own making."""
    rollouts = library.sample(policy, train[:COUNT], SAMPLER, group_size=GROUP)
    rewards = [rollout.completion.count("1") / 16 for rollout in rollouts]
    return library.update(policy, rollouts, rewards, CONFIG.model_copy(update=options), base=base)


def test_the_order_of_rollouts_changes_nothing(train: list[library.Prompt], policy: library.PolicyState) -> None:
    """If it fails, rewards go to other answers than their own where a caller shuffles or filters groups."""
    rollouts = library.sample(policy, train[:COUNT], SAMPLER, group_size=GROUP)
    rewards = [float(index % 5) for index in range(len(rollouts))]
    trained = []
    for order in (range(len(rollouts)), reversed(range(len(rollouts)))):
        copy, places = deepcopy(policy), list(order)
        library.update(copy, [rollouts[at] for at in places], [rewards[at] for at in places], CONFIG, base=policy)
        trained.append(copy)
    assert same(*trained) and moved(trained[0], policy)


def test_rewards_count_as_they_do_in_the_pipeline(train: list[library.Prompt], policy: library.PolicyState) -> None:
    """If it fails, an answer that could not be judged counts as a bad one, or a setting has no effect."""
    rollouts = library.sample(policy, train[:1], SAMPLER, group_size=GROUP)

    def trained(rewards: list[float | None], **options: bool) -> library.PolicyState:
        copy = deepcopy(policy)
        library.update(copy, rollouts, rewards, CONFIG, base=policy, **options)
        return copy

    plain = trained([1.0, 0.0, 0.25])
    assert moved(plain, trained([1.0, 0.0, 0.25], scale_by_std=True))
    assert moved(trained([1.0, 0.0, None]), trained([1.0, 0.0, 0.0]))
    idle = trained([0.5, 0.5, 0.5])
    assert idle.record.round == 1 and idle.record.updates == 0  # nothing to compare


def test_a_seed_and_a_round_draw_other_completions(train: list[library.Prompt], policy: library.PolicyState) -> None:
    """If it fails, a second sample is the first one again, or the same call gives another answer."""

    def texts(seed: int = 0) -> list[str]:
        return [rollout.completion for rollout in library.sample(policy, train[:2], SAMPLER, group_size=2, seed=seed)]

    first = texts()
    assert first == texts() != texts(seed=1)
    policy.record = policy.record.model_copy(update={"round": 1})
    assert texts() != first


def test_an_adapter_has_its_base_inside(train: list[library.Prompt]) -> None:
    """If it fails, a policy with an adapter needs a second model, or trains the weights below it."""
    policy = library.start(PLAIN.model_copy(update={"adapter": AdapterConfig(rank=2)}), train)
    before = deepcopy(policy)
    other = deepcopy(policy)
    stats = one_round(policy, train, None)
    assert stats.steps and moved(policy, before)
    one_round(other, train, before)  # whose adapter adds nothing yet
    assert same(other, policy)
    ids = torch.tensor([policy.denoiser.encode("12.4=")])
    with policy.denoiser.base_only(), before.denoiser.base_only():
        assert torch.equal(policy.denoiser(ids), before.denoiser(ids))


@pytest.mark.parametrize("adapter", [None, AdapterConfig(rank=2)], ids=["all weights", "an adapter"])
def test_a_published_model_is_trained_and_kept(adapter: AdapterConfig | None, tmp_path: Path) -> None:
    """If it fails, the loop works for the tiny policy of its page alone."""
    (tmp_path / "model").mkdir()
    write_llada(tmp_path / "model")
    source = library.ModelFolder(path=str(tmp_path / "model"))
    policy = library.start(library.PolicyConfig(model=source, adapter=adapter))
    before = deepcopy(policy)
    rollouts = library.sample(policy, [library.Prompt("mine", "12", "12", "12")], SAMPLER, group_size=GROUP)
    library.update(policy, rollouts, [1.0, 0.0, 0.5], CONFIG, base=None if adapter else before)
    again = library.load(library.save(policy, tmp_path / "policy"))
    assert moved(again, before) and same(again, policy) and again.denoiser.has_adapter == (adapter is not None)


def test_a_tiny_policy_knows_the_characters_that_it_is_asked() -> None:
    """If it fails, a loop with texts of one's own ends at the first character that the plain alphabet lacks."""
    tiny = TinyModelConfig(hidden_size=16, intermediate_size=16, layers=1, heads=2, alphabet="from_data")
    config = library.PolicyConfig(tiny=tiny, warm_start=WarmStartConfig(steps=1, batch_size=2))
    train, other = library.Prompt("a", "Ä?", "", "Z"), library.Prompt("b", "Ö", "", "")
    policy = library.start(config, [train], others=[other])
    assert len(library.sample(policy, [train, other], SAMPLER)) == 2 and policy.denoiser.encode("Z")
    with pytest.raises(DataError):
        library.sample(policy, [replace(other, prompt="ß")], SAMPLER)


@pytest.mark.parametrize(("are_answers", "alphabet"), [(True, "=XZab"), (False, "=ab")])
def test_the_characters_are_those_of_the_pipeline(
    are_answers: bool, alphabet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, the base of a script has another vocabulary than a run's, so neither weights nor draws are equal."""
    monkeypatch.setenv("GDSD_HOME", str(tmp_path / "data"))
    tiny = TinyModelConfig(hidden_size=16, intermediate_size=16, layers=1, heads=2, alphabet="from_data")
    config = library.PolicyConfig(tiny=tiny, warm_start=WarmStartConfig(steps=2 * are_answers, batch_size=2))
    prompts = [library.Prompt(text, f"{text}=", "", answer) for text, answer in (("a", "X"), ("b", "Z"), ("ab", "a"))]
    files = [FlyteFile(str(tables.write(as_table([one]), tables.PROMPTS, tmp_path / one.id))) for one in prompts]
    rooms = [Room(problems=one.id, length=16, writes_references=are_answers) for one in prompts]
    run = prepare_policy.task_function(config, *files, [], rooms)
    policy = library.start(config, prompts[:1], 16, prompts[1:], references_are_answers=are_answers)
    assert same(policy, library.load(os.fspath(run.checkpoint)))
    known = policy.denoiser.tokenizer.get_vocab().keys() - {"<end>", "<pad>", "<mask>"}
    assert "".join(sorted(known)) == alphabet


def test_a_domain_judges_as_an_object_too(train: list[library.Prompt], policy: library.PolicyState) -> None:
    """If it fails, a class of a notebook cannot be tried before it lies in a module."""
    rollouts = library.sample(policy, train[:2], SAMPLER)
    right = [replace(rollout, completion=rollout.reference) for rollout in rollouts]
    for domain in (PROMPTS.domain, make(PROMPTS.domain)):
        found = library.judge(domain, [*rollouts, *right])
        assert [judgement.reward for judgement in found[2:]] == [1.0, 1.0]
        assert [judgement.solved for judgement in found] == [False, False, True, True]
        assert set(found[0].parts) == set(make(PROMPTS.domain).parts)


def test_what_would_train_on_something_else_is_refused(
    train: list[library.Prompt], policy: library.PolicyState
) -> None:
    """If it fails, a mistake of a script shows in the weights, or after hours, and in no message."""
    rollouts = library.sample(policy, train[:2], SAMPLER, group_size=GROUP)
    good, before = [0.5, 1.0, 0.0] * 2, deepcopy(policy)
    two = ComputeConfig(processes=2)
    free = GdsdConfig(reference_weight=0)
    refused: list[tuple[list[library.Rollout], list[float | None], dict[str, object], str]] = [
        (rollouts, good[:-1], {}, "6 rollouts and 5 rewards"),
        ([], [], {}, "0 rollouts"),
        (rollouts[:-1], good[:-1], {}, "not groups of 3"),
        (rollouts[:-1] + rollouts[:1], good, {}, "not groups of"),
        (rollouts, [*good[:-1], math.nan], {}, "1 rewards are not finite, the first nan of rollout 5"),
        (
            rollouts,
            cast(list[float | None], list(torch.tensor(good))),
            {},
            r"not torch.Tensor; of a tensor give rewards",
        ),
        (rollouts, good, {"compute": two}, "asks for 2 processes"),
        (rollouts, good, {"objective": GdsdConfig()}, "give `base`"),
    ]
    for some, rewards, options, words in refused:
        config = CONFIG.model_copy(update={"objective": free} | options)
        with pytest.raises((ConfigError, DataError), match=words):
            library.update(policy, some, rewards, config)
    with pytest.raises(DataError, match=r"prompt 'long' has 2041 tokens, and with completions of 16 .* the 2048"):
        library.sample(policy, [library.Prompt("long", "1" * 2041, "1", "1")], SAMPLER)
    with pytest.raises(ConfigError, match="give `train`"):
        library.start(PLAIN)
    with pytest.raises(ConfigError, match="references that are answers"):
        library.start(PLAIN, train, references_are_answers=False)
    assert same(policy, before)


def test_an_update_that_is_not_finite_is_said(train: list[library.Prompt], policy: library.PolicyState) -> None:
    """If it fails, a loop goes on with weights of NaN."""
    rollouts = library.sample(policy, train[:1], SAMPLER, group_size=GROUP)
    next(policy.denoiser.parameters()).data.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="3 updates in a row were not finite in round 1"):
        library.update(policy, rollouts, [1.0, 0.0, 0.5], CONFIG, base=policy)


def test_objects_have_the_names_of_the_tables() -> None:
    """If it fails, what is read in samples and rollouts of a run has another name here."""
    assert [field.name for field in fields(library.Prompt)] == tables.PROMPTS.names
    assert [field.name for field in fields(library.Rollout)] == tables.ROLLOUTS.names


def test_everything_offered_is_there() -> None:
    """If it fails, a name of the page cannot be imported."""
    assert set(library.__all__) <= set(vars(library)) and checkpoint.PolicyState is library.PolicyState
