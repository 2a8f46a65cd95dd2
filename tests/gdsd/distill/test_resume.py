"""Unfinished epochs: the next attempt goes on from the last state, ends as if undisturbed, and takes no other's."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open

from tasks.gdsd.config.objective import Wd1Config
from tasks.gdsd.config.train import DistillConfig
from tasks.gdsd.distill.epoch import Epoch, _keeper, train
from tasks.gdsd.distill.failures import LostProcessError
from tasks.gdsd.distill.launcher import launch
from tasks.gdsd.distill.microbatch import Cut
from tasks.gdsd.distill.resume import FILE, InterimRecord, Keeper, Reached, read, store, write
from tasks.gdsd.errors import CheckpointError
from tasks.gdsd.files import digest
from tasks.gdsd.records import EpochStats
from tests.gdsd.checkpoints import damage
from tests.gdsd.conftest import build
from tests.gdsd.epochs import computed, configured
from tests.gdsd.interims import Interrupted, again, epoch, state, train_and_resume
from tests.gdsd.shared_epochs import breaking

PULLED = configured({"reference_weight": 0.3, "trust_region": 0.05, "baseline": "group"})
TOP = configured({"readout": "centred_topk", "top_k": 5, "trust_region": 0.05})
AVERAGED = PULLED.model_copy(update={"ema_decay": 0.7})
WD1 = PULLED.model_copy(update={"objective": Wd1Config()})
SMALL = {"micro_batch_tokens": 300}
CASES: dict[str, tuple[DistillConfig, bool, bool]] = {  # config, adapter, whether a base is read
    "gdsd": (computed(PULLED, **SMALL), False, True),
    "gdsd adapter": (computed(PULLED, **SMALL), True, False),
    "gdsd averaged": (computed(AVERAGED, **SMALL), True, False),
    "gdsd top 5": (computed(TOP, **SMALL), False, False),
    "wd1": (computed(WD1, **SMALL), False, False),
    "wd1 adapter": (computed(WD1, **SMALL), True, False),
}

REACHED, CUTS = Reached(updates=0, skipped_in_a_row=0), [Cut(tokens=1, first=[1], now=[1])]
QUICK = ("gdsd adapter", "gdsd averaged")


def given(file: Path) -> str:
    """The name of the epoch that a state is of."""
    with safe_open(file, "pt") as opened:
        return InterimRecord.model_validate_json(opened.metadata()["record"]).epoch


def assert_same(found: tuple[Epoch, EpochStats], expected: tuple[Epoch, EpochStats]) -> None:
    """Weights, moments and record, as the bytes that are saved, and what the epoch says of itself, except for times."""
    assert digest(found[0].trained) == digest(expected[0].trained)
    times = {"seconds", "ended_unix_seconds"}
    assert found[1].model_dump(exclude=times) == expected[1].model_dump(exclude=times)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.whole) for name in CASES]
)
def test_an_epoch_goes_on_after_any_update(name: str, tmp_path: Path) -> None:
    """If it fails, a preempted epoch trains another policy than an undisturbed one, or computes its updates again."""
    first = epoch(tmp_path, *CASES[name])
    plain = replace(again(first, "plain", None), send=None)
    expected = plain, train(plain)
    assert_same((first, train(first)), expected)  # saving changes nothing
    assert not (tmp_path / FILE).exists()
    for number in range(1, first.config.inner_steps + 1):
        after = again(first, f"after {number}", state(first, number))
        assert_same((after, train(after)), expected)
        kept = len(list((after.trained.parent / "states").iterdir()))
        assert kept == first.config.inner_steps - number, "no update is made twice"


def test_an_epoch_may_be_interrupted_again_and_again(tmp_path: Path) -> None:
    """If it fails, an epoch ends on a machine that stays, or never."""
    first = epoch(tmp_path, *CASES["gdsd"])
    expected = first, train(first)
    found = None
    for number in range(first.config.inner_steps):  # each attempt takes over a state and makes one update
        attempt = again(first, f"attempt {number}", found, last=1)
        with pytest.raises(Interrupted):
            train(attempt)
        found = state(attempt, 1)
    last = again(first, "last", found)
    stats = train(last)
    assert_same((last, stats), expected)
    assert stats.seconds > 0


@pytest.mark.parametrize("short", [1, 2])
def test_an_epoch_goes_on_with_micro_batches_that_were_halved(
    short: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, the next attempt sums in another order after memory ran short in an update, and rounds otherwise.

    There are 3 micro-batches, and the second one of the update fails.
    """
    first = epoch(tmp_path, computed(configured({"trust_region": 0.05}), micro_batch_tokens=500), False, False)
    broken = f"forward {3 * short - 2}"
    with breaking(broken, []):
        expected = first, train(first)
    assert "going on with micro-batches of" in caplog.text
    sizes = [read(state(first, number), given(state(first, number))).record.cuts[0].now for number in (1, 2)]
    assert [len(now) > 3 for now in sizes] == [short == 1, True]
    for number in (1, 2):
        after = again(first, f"after {number}", state(first, number))
        gone_through: list[int] = []
        with breaking(broken if number < short else None, gone_through):  # the start is as long as an update
            assert_same((after, train(after)), expected)
    cut = read(state(first, 2), given(state(first, 2))).record.cuts[0]
    assert len(cut.first) == (len(cut.now) if short == 1 else 3)
    assert len(gone_through) == len(cut.first) + len(cut.now), "the start as it was read, and the last update"


SHARED = {
    "whole": computed(PULLED, processes=2, **SMALL),
    "spread": computed(PULLED, processes=2, sharding="fsdp", **SMALL),
    "spread, averaged": computed(AVERAGED, processes=2, sharding="fsdp", **SMALL),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Epoch, list[EpochStats]]]:
    """Epochs that two processes share, undisturbed and from each state."""
    epochs = {name: epoch(tmp_path_factory.mktemp(name), config, False, True) for name, config in SHARED.items()}
    stats = launch(train_and_resume, tuple(epochs.values()), 2)
    return dict(zip(epochs, zip(epochs.values(), stats, strict=True), strict=True))


@pytest.mark.parametrize("name", SHARED)
def test_processes_go_on_together(name: str, shared: dict[str, tuple[Epoch, list[EpochStats]]]) -> None:
    """If it fails, an epoch on several GPUs starts afresh after each preemption, or the processes drift apart."""
    first, (expected, *resumed) = shared[name]
    for number, stats in enumerate(resumed, 1):
        after = replace(first, trained=first.trained.parent / f"from {number}" / "trained")
        assert_same((after, stats), (first, expected))


def test_a_process_that_is_killed(shared: dict[str, tuple[Epoch, list[EpochStats]]]) -> None:
    """If it fails, a process that the system kills is not tried again, or what it had sent is of no use."""
    first, (expected, *_) = shared["spread"]
    killed = again(first, "killed", None, last=2, kill=True)
    with pytest.raises(LostProcessError, match="was killed"):
        train(killed)
    assert not killed.trained.exists()
    after = again(first, "after a kill", state(killed, 2))
    assert_same((after, train(after)), (first, expected))


# States that are not taken


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "truncated", "garbage", "flipped bit"])
def test_a_damaged_state_is_not_read(how: str, tmp_path: Path) -> None:
    """If it fails, half an upload ends every attempt at an epoch, or noise goes on being trained."""
    file, weights, moments = tmp_path / FILE, {"w": torch.arange(100.0)}, {"w": torch.ones(100)}
    write(file, InterimRecord(epoch="e" * 64, reached=REACHED, cuts=CUTS), weights, moments)
    found = read(file, "e" * 64)
    assert torch.equal(found.weights["w"], weights["w"]) and torch.equal(found.moments["w"], moments["w"])
    flip(file) if how == "flipped bit" else damage(file, how)
    with pytest.raises(CheckpointError, match=re.escape(str(file))):
        read(file, "e" * 64)


def starts_afresh(first: Epoch, after: Epoch, why: str, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether an attempt does what one does that has found nothing, and says why."""
    plain = replace(again(first, f"plain {after.trained.parent.name}", None), seed=after.seed)
    with caplog.at_level(logging.WARNING):
        assert_same((after, train(after)), (plain, train(plain)))
    (said,) = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    return why in said and "starts afresh" in said


def test_an_epoch_starts_afresh_where_its_state_is_of_no_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If it fails, a policy is trained by updates that belong to none of its inputs, or by noise."""
    first = epoch(tmp_path, *CASES["gdsd top 5"])
    train(first)
    other = replace(again(first, "other", state(first, 2)), seed=8)
    assert starts_afresh(first, other, "of another epoch", caplog)
    caplog.clear()
    flip(state(first, 2))
    assert starts_afresh(again(first, "second", None), again(first, "damaged", state(first, 2)), "is damaged", caplog)


def test_a_state_is_of_all_that_its_epoch_follows_from(tmp_path: Path) -> None:
    """If it fails, an epoch goes on from a state of other inputs, and its policy is cached under its own."""
    first = epoch(tmp_path, *CASES["gdsd"])
    rewarded = first.rewarded.with_name("other.parquet")
    rewarded.write_bytes(first.rewarded.read_bytes() + b"x")
    others = [
        replace(first, seed=8),
        replace(first, round_index=2),
        replace(first, group_size=2),
        replace(first, config=first.config.model_copy(update={"learning_rate": 2e-3})),
        replace(first, base=None),
        replace(first, rewarded=rewarded),
    ]
    keepers = [_keeper(one, "policy") for one in (first, *others)] + [_keeper(first, "other policy")]
    assert len({one.epoch for one in keepers if one is not None}) == len(others) + 2
    assert _keeper(replace(first, send=None), "policy") is None


# When and where states go


def keeper(folder: Path, minutes: float, send: Callable[[Path], None]) -> Keeper:
    return Keeper("e" * 64, minutes, folder / FILE, None, send)


def test_states_are_kept_no_more_often_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, an epoch of short updates spends its time on uploads."""
    now, sent = [0.0], []
    monkeypatch.setattr("tasks.gdsd.distill.resume.time.monotonic", lambda: now[0])
    accelerator, denoiser = Accelerator(cpu=True), build()
    optimizer = torch.optim.AdamW([parameter for _, parameter in denoiser.trainable()])
    kept = keeper(tmp_path, 10, sent.append)
    for minute in range(31):
        now[0] = 60.0 * minute + 1
        if kept.due(accelerator):
            kept.keep(REACHED, CUTS, denoiser, optimizer, accelerator)
            assert list(tmp_path.iterdir()) == [], "the machine's disk is wanted for the policy"
    assert len(sent) == 3
    assert keeper(tmp_path, 0, sent.append).due(accelerator)


def test_a_state_that_cannot_be_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If it fails, what is there for safety ends an epoch that could have gone on, or a mistake in it is never seen."""

    def send(file: Path) -> None:
        raise errors.pop()

    errors = [TypeError("a bug"), ConnectionResetError("by peer")]
    store(tmp_path, send)
    assert "could not be sent" in caplog.text
    with pytest.raises(TypeError):
        store(tmp_path, send)
