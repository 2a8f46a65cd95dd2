"""Epochs that several processes share: real ones, on the CPU with gloo, against the same epoch in one process."""

import logging
import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tasks.gdsd import tables
from tasks.gdsd.config.objective import EspoConfig, ObjectiveConfig, Wd1Config
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.denoiser import checkpoint
from tasks.gdsd.denoiser.load import load_folder
from tasks.gdsd.distill.epoch import Epoch, train
from tasks.gdsd.distill.failures import ProcessError
from tasks.gdsd.distill.launcher import launch
from tasks.gdsd.distill.memory import OutOfMemoryError
from tasks.gdsd.errors import CheckpointError, ConfigError, NonFiniteError, StorageError
from tasks.gdsd.files import digest
from tests.gdsd.conftest import build
from tests.gdsd.epochs import CONFIG, GROUP, computed, configured, rewarded, run, weights
from tests.gdsd.shared_epochs import (
    Case,
    Outcome,
    assert_close,
    do,
    do_all,
    start_of,
    train_with_1_token,
    train_with_300_tokens,
)
from tests.gdsd.shared_machines import break_last, patience, refuse, refuse_late

ROOT = Path(__file__).resolve().parents[3]
PROCESSES = 2


def of(objective: ObjectiveConfig) -> DistillConfig:
    return CONFIG.model_copy(update={"objective": objective})


GROUP_BASELINE = configured({"baseline": "group"})
PULLED = configured({"reference_weight": 0.3, "trust_region": 0.05, "mask_source": "trajectory"})
FSDP = {"processes": PROCESSES, "sharding": "fsdp"}
SAME = {
    "gdsd": Case(),
    "gdsd group adapter": Case(GROUP_BASELINE, adapter=True),
    "gdsd top 5": Case(configured({"readout": "centred_topk", "top_k": 5})),
    "gdsd path": Case(configured({"mask_source": "path", "mask_pairs": 1, "path_states": 3, "share_masks": True})),
    "espo own masks": Case(of(EspoConfig(mask_pairs=2, share_masks=False))),
    "wd1": Case(of(Wd1Config())),
    "gdsd in another order": Case(groups=(2, 4, 0, 1, 3)),
    "one group for two processes": Case(groups=(1,)),
    "nothing to learn": Case(groups=(3, 4)),
    "gdsd again": Case(PULLED, epochs=2),
    "smallest micro-batches, recomputed": Case(computed(micro_batch_tokens=1, gradient_checkpointing=True)),
    "fsdp": Case(computed(**FSDP)),
    "fsdp group": Case(computed(GROUP_BASELINE, **FSDP, micro_batch_tokens=500)),
    "fsdp adapter again": Case(computed(PULLED, **FSDP, gradient_checkpointing=True), adapter=True, epochs=2),
    "fsdp adapter goes on": Case(computed(PULLED, **FSDP), adapter=True, goes_on=True, epochs=2),
    "fsdp one group": Case(computed(**FSDP), groups=(1,)),
    "fsdp clipped": Case(computed(configured(max_grad_norm=0.01), **FSDP)),
}
BROKEN = {
    "not finite": Case(broken="gradient 0"),
    "never finite": Case(configured(max_skipped=1), broken="gradient 0"),
    "short in forward": Case(broken="forward 1"),
    "short always": Case(broken="always"),
    "fsdp not finite": Case(computed(**FSDP), broken="gradient 0"),
    "fsdp never finite": Case(computed(configured(max_skipped=1), **FSDP), broken="gradient 0"),
}
Outcomes = dict[str, list[Outcome]]


def alone(case: Case) -> Case:
    """The same epoch in one process, which has all the weights."""
    return replace(case, config=computed(case.config))


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evidence")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, evidence: Path) -> Outcomes:
    """All cases, done by two processes once: what each of them has in the end."""
    folder, cases = tmp_path_factory.mktemp("outcomes"), SAME | BROKEN
    for name in ("never finite", "fsdp never finite"):
        cases[name] = replace(cases[name], evidence=evidence / name)
    launch(do_all, (tuple(cases.values()), folder), PROCESSES)
    return {
        name: [torch.load(folder / f"{index}-{rank}.pt", weights_only=False) for rank in range(PROCESSES)]
        for index, name in enumerate(cases)
    }


@pytest.mark.parametrize("name", SAME)
def test_two_processes_train_what_one_trains(name: str, outcomes: Outcomes) -> None:
    """If it fails, the number of devices is a hidden setting of the training, or the processes drift apart.

    Each process computes some groups only, so if a process's groups were left out, counted twice or averaged on their
    own, weights would differ by the order of the learning rate, 1e-3. Among themselves they are equal bit for bit.
    """
    first, second = outcomes[name]
    assert_close(first, do(alone(SAME[name])))
    assert first.stats is not None and first.stats.sequences == GROUP * len({0, 1, 2} & set(SAME[name].groups))
    assert all(torch.equal(weight, second.weights[key]) for key, weight in first.weights.items())
    assert first.states is not None and second.states is not None and torch.equal(first.states, second.states)
    if not name.startswith("fsdp"):  # where only the first has the moments
        assert first.moments.keys() == second.moments.keys()
        assert all(torch.equal(moment, second.moments[key]) for key, moment in first.moments.items())
        assert second.stats is not None and first.stats.steps == second.stats.steps


def test_the_order_of_groups_does_not_matter_to_processes(outcomes: Outcomes) -> None:
    """If it fails, which groups a process happens to get changes the masks or the sums of the others."""
    first, other = outcomes["gdsd"][0], outcomes["gdsd in another order"][0]
    for name, weight in first.weights.items():
        torch.testing.assert_close(other.weights[name], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["not finite", "fsdp not finite"])
def test_an_update_that_one_process_cannot_take_is_skipped_by_all(name: str, outcomes: Outcomes) -> None:
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
    name: str, outcomes: Outcomes, evidence: Path
) -> None:
    """If it fails, processes wait for one that has stopped, or the evidence has one process's part only."""
    for outcome in outcomes[name]:
        assert isinstance(outcome.error, NonFiniteError)
    assert len(load_file(evidence / name / "batch.safetensors")["advantages"]) == 3 * GROUP
    kept = load_folder(evidence / name, "tiny", torch.device("cpu"))
    assert all(torch.equal(one, other) for one, other in zip(kept.parameters(), build().parameters(), strict=True))


def test_spread_weights_are_spread(outcomes: Outcomes) -> None:
    """If it fails, sharding is a dead switch, and a model that needs it runs out of memory.

    Of two blocks' weights each process has half, and embeddings, norm and head whole.
    """
    denoiser = build()
    total = sum(parameter.numel() for parameter in denoiser.parameters())
    blocks = sum(parameter.numel() for parameter in denoiser.network.model.layers.parameters())
    assert [outcome.held for outcome in outcomes["gdsd"]] == [total, total]
    assert [outcome.held for outcome in outcomes["fsdp"]] == [total - blocks // 2] * 2


def test_one_process_may_take_smaller_micro_batches(outcomes: Outcomes) -> None:
    """If it fails, a shortage on one device changes the training, or leaves the others waiting."""
    expected = do(Case())
    for outcome in outcomes["short in forward"]:
        assert_close(outcome, expected)


def test_a_shortage_that_nothing_helps_ends_all_processes(outcomes: Outcomes) -> None:
    """If it fails, the processes that had enough memory wait for ever for the one that had not."""
    first, second = (outcome.error for outcome in outcomes["short always"])
    assert isinstance(first, OutOfMemoryError) and isinstance(second, OutOfMemoryError)
    assert str(first) == str(second) and "gradient_checkpointing" in str(first)


# From files to files


def test_an_epoch_in_two_processes_leaves_the_checkpoint_of_one(tmp_path: Path) -> None:
    """If it fails, processes write the same files at once, or what is saved is not what all of them trained."""
    start = start_of(Case(adapter=True))
    policy = checkpoint.save(tmp_path / "policy", start)
    table = tables.write(rewarded(start.denoiser), tables.REWARDED, tmp_path / "rewarded.parquet")
    found, names = [], []
    for nodes in (1, PROCESSES):  # which are all on this machine
        trained = tmp_path / f"trained-{nodes}"
        train(Epoch(policy, None, table, computed(PULLED, nodes=nodes), GROUP, 0, 7, trained, tmp_path / "evidence"))
        found.append(checkpoint.load(trained, torch.device("cpu")))
        names.append(sorted(path.relative_to(trained).as_posix() for path in trained.rglob("*")))
    alone, together = found
    assert together.record == alone.record and together.record.parent == digest(policy)
    torch.testing.assert_close(weights(together), weights(alone), rtol=0, atol=1e-5)
    assert together.optimizer.keys() == alone.optimizer.keys() and alone.optimizer and names[0] == names[1]
    assert not list(tmp_path.glob(".trained*")) and not (tmp_path / "evidence").exists()


def epoch_of(folder: Path, tokens: int) -> Epoch:
    """An epoch with weights that are spread, and micro-batches of so many tokens."""
    policy = checkpoint.save(folder / "policy", start_of(Case()))
    table = tables.write(rewarded(build()), tables.REWARDED, folder / "rewarded.parquet")
    config = computed(**FSDP, micro_batch_tokens=tokens)
    return Epoch(policy, None, table, config, GROUP, 0, 7, folder / "trained", folder / "evidence")


def test_spread_weights_start_again_where_memory_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, a shortage under FSDP ends the run, or leaves processes waiting for one that is gone.

    The second process has memory for 300 tokens at a time, and a completion has up to 100, in four views.
    """
    monkeypatch.setattr("tasks.gdsd.distill.epoch._train", train_with_300_tokens)
    with caplog.at_level(logging.WARNING):
        train(epoch_of(tmp_path, 1100))
    said = [record.message for record in caplog.records if record.name == "tasks.gdsd.distill.epoch"]
    assert said == ["400 tokens do not fit the memory; starting again with micro-batches of 200"]
    trained = checkpoint.load(tmp_path / "trained", torch.device("cpu"))
    expected, _ = run(start_of(Case()), rewarded(build()))
    torch.testing.assert_close(weights(trained), weights(expected), rtol=0, atol=1e-5)


def test_spread_weights_give_up_where_nothing_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, processes start again for ever."""
    monkeypatch.setattr("tasks.gdsd.distill.epoch._train", train_with_1_token)
    with pytest.raises(OutOfMemoryError, match=r"^100 tokens, 1 completions in all views.*gradient_checkpointing"):
        train(epoch_of(tmp_path, 1))


# Launching


def test_an_error_of_the_project_comes_back_as_itself() -> None:
    """If it fails, a damaged input of a shared epoch shows as the crash of a process, and Flyte tries it again.

    One process may find it alone, in its own copy of what all read.
    """
    for work in (refuse, refuse_late):
        with pytest.raises(CheckpointError, match=r"^damaged$"):
            launch(work, "damaged", PROCESSES)


def test_a_crash_in_a_process_ends_the_work_and_says_why() -> None:
    """If it fails, a bug in one of several processes shows as a hang, or without its traceback."""
    with pytest.raises(ProcessError, match=r"(?s)one of 2 processes failed.*process 1: .*KeyError: 'the cause'"):
        launch(break_last, "the cause", PROCESSES)


def test_processes_wait_for_one_that_is_busy_with_a_store() -> None:
    """If it fails, an epoch dies whenever whole weights take longer to store than NCCL waits, which is ten minutes.

    Twelve bytes for each of 8B weights at 30 MB/s take 53 minutes.
    """
    assert launch(patience, "seconds", PROCESSES) == "seconds 3600"


def test_a_server_of_processes_ends_with_a_run_that_is_killed_while_it_loads(tmp_path: Path) -> None:
    """If it fails, a run that is killed at its first epoch leaves a process that goes on to load half a gigabyte."""
    program = tmp_path / "program.py"
    main = "if __name__ == '__main__':\n    from tasks.gdsd.distill.launcher import launch\n    launch(print, 0, 2)\n"
    program.write_text(main)
    run = psutil.Popen([sys.executable, program], env=os.environ | {"PYTHONPATH": str(ROOT)})
    server = None
    try:
        while server is None:
            assert run.poll() is None
            time.sleep(0.01)
            server = next((one for one in run.children() if "forkserver import main" in str(one.cmdline())), None)
        run.kill()
        run.wait()
        with suppress(psutil.NoSuchProcess):
            while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
                assert not any("torch" in place.path for place in server.memory_maps())
                time.sleep(0.01)
    finally:
        for process in (run, server):
            with suppress(psutil.NoSuchProcess):
                if process is not None:
                    process.kill()


def test_a_temporary_folder_with_a_long_path_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If it fails, a run in a deep folder ends in a library's code, which does not say what to do."""
    monkeypatch.setattr(forkserver, "ensure_running", forkserver.ForkServer().ensure_running)
    monkeypatch.setattr("multiprocessing.util.get_temp_dir", lambda: str(tmp_path / ("long" * 25)))
    with pytest.raises(StorageError, match=r"AF_UNIX path too long.*set TMPDIR"):
        launch(refuse, "nothing", PROCESSES)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, two processes wait for one GPU and the run hangs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"distill\.compute\.processes 2 exceeds the 1 GPUs"):
        launch(do_all, ((), Path()), 2)
