"""Epochs that several processes share: real ones, on the CPU with gloo, against the same epoch in one process."""

import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.gdsd import tables
from tasks.gdsd.config.objective import EspoConfig, ObjectiveConfig, Wd1Config
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.distill import memory
from tasks.gdsd.distill.epoch import Epoch, train
from tasks.gdsd.distill.failures import ProcessError
from tasks.gdsd.distill.launcher import launch
from tasks.gdsd.distill.microbatch import deal
from tasks.gdsd.errors import CheckpointError, ConfigError, NonFiniteError
from tasks.gdsd.files import digest
from tests.gdsd.conftest import build
from tests.gdsd.epochs import CONFIG, GROUP, computed, configured, run, scored, weights
from tests.gdsd.shared_epochs import Case, Outcome, do, do_all, start_of, train_with_1_token, train_with_300_tokens

PROCESSES = 2


def of(objective: ObjectiveConfig) -> DistillConfig:
    return CONFIG.model_copy(update={"objective": objective})


GROUP_BASELINE = configured({"baseline": "group"})
PULLED = configured({"reference_weight": 0.3, "trust_region": 0.05, "mask_source": "trajectory"})
SAME = {
    "gdsd": Case(),
    "gdsd group": Case(GROUP_BASELINE),
    "gdsd pulled": Case(PULLED),
    "gdsd adapter": Case(PULLED, adapter=True),
    "gdsd group adapter": Case(GROUP_BASELINE, adapter=True),
    "gdsd own masks": Case(configured({"share_masks": False, "weights": "elbo"})),
    "gdsd top 5": Case(configured({"readout": "centred_topk", "top_k": 5})),
    "espo": Case(of(EspoConfig(mask_pairs=2))),
    "wd1": Case(of(Wd1Config())),
    "gdsd in another order": Case(groups=(2, 4, 0, 1, 3)),
    "one group for two processes": Case(groups=(1,)),
    "nothing to learn": Case(groups=(3, 4)),
    "gdsd again": Case(epochs=2),
    "smallest micro-batches": Case(computed(micro_batch_tokens=1)),
    "smallest micro-batches, group": Case(computed(GROUP_BASELINE, micro_batch_tokens=1)),
    "recomputed": Case(computed(GROUP_BASELINE, gradient_checkpointing=True), adapter=True),
}
FSDP = {"processes": PROCESSES, "sharding": "fsdp"}
SAME |= {
    "fsdp": Case(computed(**FSDP)),
    "fsdp group": Case(computed(GROUP_BASELINE, **FSDP, micro_batch_tokens=500)),
    "fsdp pulled": Case(computed(PULLED, **FSDP, micro_batch_tokens=1)),
    "fsdp adapter": Case(computed(PULLED, **FSDP, gradient_checkpointing=True), adapter=True),
    "fsdp wd1": Case(computed(of(Wd1Config()), **FSDP)),
    "fsdp one group": Case(computed(**FSDP), groups=(1,)),
    "fsdp nothing to learn": Case(computed(**FSDP), groups=(3, 4)),
    "fsdp again": Case(computed(PULLED, **FSDP), adapter=True, epochs=2),
    "fsdp clipped": Case(computed(configured(max_grad_norm=0.01), **FSDP)),
}
BROKEN = {
    "not finite": Case(broken="gradient 0"),
    "short in forward": Case(broken="forward 1"),
    "short in backward": Case(PULLED, adapter=True, broken="backward 1"),
    "short always": Case(broken="always"),
    "fsdp not finite": Case(computed(**FSDP), broken="gradient 0"),
    "fsdp never finite": Case(computed(configured(max_skipped=1), **FSDP), broken="gradient 0"),
    "never finite": Case(configured(max_skipped=1), broken="gradient 0"),
}


def alone(case: Case) -> Case:
    """The same epoch in one process, which has all the weights."""
    return replace(case, config=computed(case.config))


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evidence")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, evidence: Path) -> dict[str, list[Outcome]]:
    """All cases, done by two processes once: what each of them has in the end."""
    folder, cases = tmp_path_factory.mktemp("outcomes"), SAME | BROKEN
    for name in ("never finite", "fsdp never finite"):
        cases[name] = replace(cases[name], evidence=evidence / name)
    launch(do_all, (tuple(cases.values()), folder), PROCESSES)
    return {
        name: [torch.load(folder / f"{index}-{rank}.pt", weights_only=False) for rank in range(PROCESSES)]
        for index, name in enumerate(cases)
    }


def assert_close(found: Outcome, expected: Outcome) -> None:
    assert found.stats is not None and expected.stats is not None
    assert found.weights.keys() == expected.weights.keys()
    assert max(float((found.weights[name] - weight).abs().max()) for name, weight in expected.weights.items()) < 1e-5
    assert found.moments.keys() == expected.moments.keys()
    for name, moment in expected.moments.items():
        torch.testing.assert_close(found.moments[name], moment, rtol=1e-3, atol=1e-5)
    for step, wanted in zip(found.stats.steps, expected.stats.steps, strict=True):
        reported = wanted.model_dump(exclude_none=True)
        assert step.model_dump(exclude_none=True) == pytest.approx(reported, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", SAME)
def test_two_processes_train_what_one_trains(name: str, outcomes: dict[str, list[Outcome]]) -> None:
    """If it fails, the number of devices is a hidden setting of the training.

    Each process computes some groups only, so if a process's groups were left out, counted twice or averaged on their
    own, weights would differ by the order of the learning rate, 1e-3.
    """
    first, expected = outcomes[name][0], do(alone(SAME[name]))
    assert_close(first, expected)
    assert first.stats is not None and expected.stats is not None
    assert (
        first.stats.sequences
        == expected.stats.sequences
        == sum(GROUP for group in SAME[name].groups if group in (0, 1, 2))
    )


@pytest.mark.parametrize("name", SAME)
def test_all_processes_have_the_same_bit_for_bit(name: str, outcomes: dict[str, list[Outcome]]) -> None:
    """If it fails, processes drift apart, and the policy that is saved is not the one that the others trained."""
    first, second = outcomes[name]
    assert all(torch.equal(weight, second.weights[key]) for key, weight in first.weights.items())
    assert first.states is not None and second.states is not None and torch.equal(first.states, second.states)
    if name.startswith("fsdp"):
        return  # where only the first has the moments
    assert first.moments.keys() == second.moments.keys()
    assert all(torch.equal(moment, second.moments[key]) for key, moment in first.moments.items())
    assert first.stats is not None and second.stats is not None and first.stats.steps == second.stats.steps


def test_the_order_of_groups_does_not_matter_to_processes(outcomes: dict[str, list[Outcome]]) -> None:
    """If it fails, which groups a process happens to get changes the masks or the sums of the others."""
    first, other = outcomes["gdsd"][0], outcomes["gdsd in another order"][0]
    for name, weight in first.weights.items():
        torch.testing.assert_close(other.weights[name], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["not finite", "fsdp not finite"])
def test_an_update_that_one_process_cannot_take_is_skipped_by_all(
    name: str, outcomes: dict[str, list[Outcome]]
) -> None:
    """If it fails, a bad gradient in one process tears the policies of the processes apart, or destroys all of them.

    The first of three updates is not finite in the second process: all must be where skipping it leaves them.
    """
    first, second = outcomes[name]
    assert first.stats is not None and second.stats is not None and first.stats.steps == second.stats.steps
    assert [step.skipped for step in first.stats.steps] == [True, False, False]
    assert all(torch.equal(weight, second.weights[key]) for key, weight in first.weights.items())
    assert_close(first, do(Case(broken="gradient 0")))


@pytest.mark.parametrize("name", ["never finite", "fsdp never finite"])
def test_all_processes_give_up_together_and_one_leaves_the_evidence(
    name: str, outcomes: dict[str, list[Outcome]], evidence: Path
) -> None:
    """If it fails, processes wait for one that has stopped, or the evidence has one process's part only."""
    for outcome in outcomes[name]:
        assert isinstance(outcome.error, NonFiniteError)
    assert len(load_file(evidence / name / "batch.safetensors")["advantages"]) == 3 * GROUP
    kept = load_folder(evidence / name, "tiny", torch.device("cpu"))
    assert all(torch.equal(one, other) for one, other in zip(kept.parameters(), build().parameters(), strict=True))


def test_spread_weights_are_spread(outcomes: dict[str, list[Outcome]]) -> None:
    """If it fails, sharding is a dead switch, and a model that needs it runs out of memory.

    Of two blocks' weights each process has half, and embeddings, norm and head whole.
    """
    denoiser = build()
    total = sum(parameter.numel() for parameter in denoiser.parameters())
    blocks = sum(parameter.numel() for parameter in denoiser.network.model.layers.parameters())
    assert [outcome.held for outcome in outcomes["gdsd"]] == [total, total]
    assert [outcome.held for outcome in outcomes["fsdp"]] == [total - blocks // 2] * 2


@pytest.mark.parametrize("name", ["short in forward", "short in backward"])
def test_one_process_may_take_smaller_micro_batches(name: str, outcomes: dict[str, list[Outcome]]) -> None:
    """If it fails, a shortage on one device changes the training, or leaves the others waiting."""
    broken = BROKEN[name]
    expected = do(Case(broken.config, broken.groups, broken.adapter))
    for outcome in outcomes[name]:
        assert_close(outcome, expected)


def test_a_shortage_that_nothing_helps_ends_all_processes(outcomes: dict[str, list[Outcome]]) -> None:
    """If it fails, the processes that had enough memory wait for ever for the one that had not."""
    first, second = (outcome.error for outcome in outcomes["short always"])
    assert isinstance(first, memory.OutOfMemoryError) and isinstance(second, memory.OutOfMemoryError)
    assert str(first) == str(second) and "gradient_checkpointing" in str(first)


# From files to files


@pytest.mark.parametrize("adapter", [False, True])
def test_an_epoch_in_two_processes_leaves_the_checkpoint_of_one(adapter: bool, tmp_path: Path) -> None:
    """If it fails, processes write the same files at once, or what is saved is not what all of them trained.

    The reference is read from the base's folder, or found inside the policy with an adapter.
    """
    start = start_of(Case(adapter=adapter))
    policy = checkpoint.save(tmp_path / "policy", start)
    base = None if adapter else checkpoint.save(tmp_path / "base", checkpoint.base_state(build(seed=1)))
    table = tables.write(scored(start.denoiser), tables.SCORED, tmp_path / "scored.parquet")
    found = []
    for processes in (1, PROCESSES):
        trained = tmp_path / f"trained-{processes}"
        config = computed(PULLED, **{"nodes" if adapter else "processes": processes})  # the same on one machine
        epoch = Epoch(policy, base, table, config, GROUP, 0, 7, trained, tmp_path / "evidence")
        stats = train(epoch)
        found.append((checkpoint.load(trained, torch.device("cpu")), stats))
    (alone, expected), (together, stats) = found
    assert stats.sequences == expected.sequences == 3 * GROUP
    assert together.record == alone.record and together.record.parent == digest(policy)
    torch.testing.assert_close(weights(together), weights(alone), rtol=0, atol=1e-5)
    assert together.optimizer.keys() == alone.optimizer.keys() and alone.optimizer
    names = {path.relative_to(tmp_path / "trained-1").as_posix() for path in (tmp_path / "trained-1").rglob("*")}
    assert names == {
        path.relative_to(tmp_path / "trained-2").as_posix() for path in (tmp_path / "trained-2").rglob("*")
    }
    assert not list(tmp_path.glob(".trained*")) and not (tmp_path / "evidence").exists()


@pytest.mark.parametrize("enough", [300, 1])
def test_spread_weights_start_again_where_memory_runs_out(
    enough: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, a shortage under FSDP ends the run, or leaves processes waiting for one that is gone.

    The second process has memory for so many tokens at a time. A completion has up to 100, in four views: with 1 there
    is nothing to be done.
    """
    monkeypatch.setattr("tasks.gdsd.distill.epoch._train", {300: train_with_300_tokens, 1: train_with_1_token}[enough])
    policy = checkpoint.save(tmp_path / "policy", start_of(Case()))
    table = tables.write(scored(build()), tables.SCORED, tmp_path / "scored.parquet")
    config = computed(**FSDP, micro_batch_tokens=1100)
    epoch = Epoch(policy, None, table, config, GROUP, 0, 7, tmp_path / "trained", tmp_path / "evidence")
    if enough == 1:
        with pytest.raises(memory.OutOfMemoryError, match="1 completions in all views"):
            train(replace(epoch, config=computed(**FSDP, micro_batch_tokens=1)))
        return
    with caplog.at_level(logging.WARNING):
        train(epoch)
    said = [record.message for record in caplog.records if record.name == "tasks.gdsd.distill.epoch"]
    assert said == ["400 tokens do not fit the memory; starting again with micro-batches of 200"]
    trained = checkpoint.load(tmp_path / "trained", torch.device("cpu"))
    expected, _ = run(start_of(Case()), scored(build()))
    torch.testing.assert_close(weights(trained), weights(expected), rtol=0, atol=1e-5)


def test_an_error_of_the_project_comes_back_as_itself(tmp_path: Path) -> None:
    """If it fails, a damaged input of a shared epoch shows as the crash of a process, and Flyte tries it again."""
    config = computed(processes=PROCESSES)
    epoch = Epoch(tmp_path / "none", None, tmp_path / "none", config, GROUP, 0, 7, tmp_path / "new", tmp_path / "e")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        train(epoch)


# Dealing and launching


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 8])
def test_every_group_is_dealt_once_and_evenly(processes: int) -> None:
    """If it fails, a group is trained twice or never, or one process computes while the others wait.

    Dealt to the least loaded one, longest first, no two processes differ by more than the longest group.
    """
    lengths = [20 + 7 * group % 50 for group in range(23)]
    hands = deal(lengths, processes)
    assert sorted(group for hand in hands for group in hand) == list(range(23))
    loads = [sum(lengths[group] for group in hand) for hand in hands]
    assert max(loads) - min(loads) <= max(lengths)
    assert all(lengths[one] >= lengths[other] for hand in hands for one, other in pairwise(hand))


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, two processes wait for one GPU and the run hangs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"distill\.compute\.processes 2 exceeds the 1 GPUs"):
        launch(do_all, ((), Path()), 2)


def test_a_crash_in_a_process_ends_the_work_and_says_why() -> None:
    """If it fails, a bug in one of several processes shows as a hang, or without its traceback."""
    with pytest.raises(ProcessError, match=r"(?s)processes failed.*no such folder"):
        launch(do_all, ((Case(),), Path("/no such folder")), PROCESSES)
