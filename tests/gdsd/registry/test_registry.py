"""The registry of promoted policies: what it promises to writers at once, to killed ones and to readers."""

import hashlib
import itertools
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import RegistryError, StaleError
from tasks.gdsd.records import Estimate
from tasks.gdsd.registry.condition import damage
from tasks.gdsd.registry.kept import Change, Night, Origin, to_json
from tasks.gdsd.registry.registry import Registry
from tasks.gdsd.registry.store import Store, require_shared

NIGHT = datetime(2026, 11, 24, 2, tzinfo=UTC)
GAIN = Estimate(mean=0.5, low=0.4, high=0.6)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of a bucket of moto's server, which checks If-None-Match as S3 does."""
    import logging

    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{address}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        s3fs.S3FileSystem().mkdir("policies")
        yield "s3://policies"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place without a registry."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
    return str(tmp_path / "registry") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


def make_policy(folder: Path, content: str) -> Path:
    """A folder of the shape of a checkpoint; the registry does not look inside."""
    (folder / "adapter").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content.encode() * 1000)
    (folder / "adapter/weights").write_bytes(content.encode())
    return folder


def add(
    registry: Registry, folder: Path, parent: str | None = None, experiment: str = "sudoku", run: str = "runs/first"
) -> str:
    return registry.add(
        folder,
        parent=parent,
        made=NIGHT,
        origin=Origin(experiment=experiment, gain=GAIN, reason="better"),
        run=run,
        versions={"torch": "2"},
        evidence={"config": TrainConfig(), "solved": GAIN},
    )


def promote(registry: Registry, folder: Path, content: str) -> str:
    """Adds a policy and makes it the champion."""
    champion = registry.champion()
    entry = add(registry, make_policy(folder, content), champion)
    registry.promote(entry, against=champion, who="night", why="better")
    return entry


def test_a_promoted_policy_comes_back_whole_with_its_evidence(url: str, tmp_path: Path) -> None:
    """If it fails, the champion cannot be served, or nobody can say why it is the champion."""
    registry = Registry(url)
    assert not registry.exists() and registry.champion() is None and registry.history() == []
    entry = promote(registry, tmp_path / "first", "a")
    again = Registry(url)  # as another process sees it
    assert again.exists() and again.champion() == entry and again.entries() == [entry]
    fetched = again.fetch(entry, tmp_path / "fetched")
    assert (fetched / "model.safetensors").read_bytes() == b"a" * 1000
    assert (fetched / "adapter/weights").read_bytes() == b"a"
    said = again.entry(entry)
    assert said.parent is None and said.made == NIGHT and said.versions == {"torch": "2"}
    assert said.origin == Origin(experiment="sudoku", gain=GAIN, reason="better")
    assert again.run_folder(entry) == "runs/first"
    assert said.evidence["config"] == TrainConfig().model_dump(mode="json")
    assert not list(tmp_path.glob(".*")), "nothing half-fetched is left behind"


def test_changes_are_a_history_that_any_entry_comes_back_in(url: str, tmp_path: Path) -> None:
    """If it fails, a bad champion cannot be undone, or nobody sees who did it."""
    registry = Registry(url)
    first, second = (promote(registry, tmp_path / name, name) for name in "ab")
    change = registry.roll_back(registry.find(first[:8]), who="ann", why="answers got slow")
    assert registry.champion() == first and change.previous == second
    said = [
        (change.sequence, change.action, change.entry, change.previous, change.who, change.why)
        for change in registry.history()
    ]
    assert said == [
        (1, "promoted", first, None, "night", "better"),
        (2, "promoted", second, first, "night", "better"),
        (3, "rolled back", first, second, "ann", "answers got slow"),
    ]
    assert registry.entry(second).parent == first, "an entry that was rolled back stays"


def test_a_promotion_is_recorded_once_and_only_against_the_champion(url: str, tmp_path: Path) -> None:
    """If it fails, a policy replaces one that it was never compared with, or a rerun fails or undoes a rollback.

    A damaged policy is not promoted, and it takes nothing from a promotion that was recorded.
    """
    registry = Registry(url)
    first = promote(registry, tmp_path / "a", "a")
    late = add(registry, make_policy(tmp_path / "late", "late"), first)
    second = promote(registry, tmp_path / "b", "b")
    with pytest.raises(StaleError, match=f"compared with {first[:12]}, but the champion of .* is now {second[:12]}"):
        registry.promote(late, against=first, who="night", why="better")
    with pytest.raises(StaleError, match="compared with an empty registry"):
        registry.promote(late, against=None, who="night", why="better")
    assert registry.champion() == second and len(registry.history()) == 2
    again = registry.promote(second, against=first, who="night", why="better")
    assert again == registry.history()[-1] and len(registry.history()) == 2
    registry.roll_back(first, who="ann", why="bad")
    for policy in (second, late):
        spoil(registry, f"entries/{policy}/policy/model.safetensors", "deleted")
    assert registry.promote(second, against=first, who="night", why="better") == again, "nothing else is read for it"
    with pytest.raises(RegistryError, match="is missing"):
        registry.promote(late, against=first, who="night", why="better")
    assert registry.champion() == first and len(registry.history()) == 3


def test_the_same_policy_and_evidence_are_one_entry(tmp_path: Path) -> None:
    """If it fails, each retry stores the weights anew, or two policies share an id."""
    registry, folder = Registry(str(tmp_path / "registry")), make_policy(tmp_path / "a", "a")
    entry = add(registry, folder)
    assert entry == add(registry, folder) == add(registry, folder, run="runs/second"), "two runs of a night"
    assert registry.run_folder(entry) == "runs/first"
    (folder / "adapter/weights").write_bytes(b"b")
    others = {add(registry, folder), add(registry, folder, "f" * 64)}
    assert len(registry.entries()) == 3 and others < set(registry.entries())


def place(registry: Registry, entry: str, name: str) -> Path:
    return Path(registry.policy(entry)).parent / name


@pytest.mark.parametrize("damage", ["truncated", "missing", "other", "entry"])
def test_damage_is_found_by_whoever_reads(damage: str, tmp_path: Path) -> None:
    """If it fails, damaged weights are trained on, evaluated, or made the champion."""
    registry = Registry(str(tmp_path / "registry"))
    first, second = promote(registry, tmp_path / "a", "a"), promote(registry, tmp_path / "b", "b")
    path = place(registry, first, "entry.json" if damage == "entry" else "policy/model.safetensors")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": b"a" * 999, "other": b"b" * 1000, "entry": b"{}"}[damage])
    words = {"missing": "is missing", "truncated": "999 bytes instead of 1000", "other": "is not what it was"}
    for read in (
        lambda: registry.verify(first),
        lambda: registry.fetch(first, tmp_path / "fetched"),
        lambda: registry.roll_back(first, who="ann", why="back"),
    ):
        with pytest.raises(RegistryError, match=words.get(damage, "was changed or damaged")):
            read()
    assert not (tmp_path / "fetched").exists() and registry.champion() == second


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    """If it fails, an entry that somebody else has written overwrites files of whoever fetches it."""
    registry = Registry(str(tmp_path / "registry"))
    entry = promote(registry, tmp_path / "a", "a")
    path = place(registry, entry, "entry.json")
    said = json.loads(path.read_text())
    said["files"]["../../stolen"] = said["files"].pop("adapter/weights")
    data = json.dumps(said).encode()
    forged = hashlib.sha256(data).hexdigest()
    shutil.copytree(path.parent, path.parent.with_name(forged))
    place(registry, forged, "entry.json").write_bytes(data)
    with pytest.raises(RegistryError, match="leads out of the policy's folder"):
        registry.fetch(forged, tmp_path / "fetched")


def mortal(act: Callable[..., object], lives: Iterator[int]) -> Callable[..., object]:
    """An operation on files before which its process is killed once it has no life left."""

    def acted(*arguments: object) -> object:
        if next(lives, None) is None:
            raise KeyboardInterrupt
        return act(*arguments)

    return acted


def test_a_writer_killed_anywhere_leaves_the_champion_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a machine that is taken away at the wrong moment ends the nightly runs, or half a policy is served.

    The writer dies before each of the operations on files that an addition and a promotion are made of, in turn.
    """
    for steps in itertools.count():
        registry, is_alive, lives = Registry(str(tmp_path / f"registry-{steps}")), False, iter(range(steps))
        first, folder = promote(registry, tmp_path / f"a-{steps}", "a"), make_policy(tmp_path / f"b-{steps}", "b")
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            for name in ("replace", "link", "fsync"):
                patch.setattr(os, name, mortal(getattr(os, name), lives))
            registry.promote(add(registry, folder, first), against=first, who="night", why="better")
            is_alive = True
        recorded = len(registry.history()) == 2
        assert recorded or registry.champion() == first
        for entry in registry.entries():
            registry.verify(entry)
        registry.promote(add(registry, folder, first), against=first, who="night", why="better")
        assert registry.champion() == add(registry, folder, first) and len(registry.history()) == 2
        assert all(place.is_copied for place in registry.log.places())
        if is_alive:
            break
    assert steps > 10


def race(url: str, scratch: Path, me: int, wins: int) -> list[str]:
    """Promotes so many policies, each tried anew where another writer was faster; returns their ids."""
    registry, won = Registry(url), list[str]()
    for turn in range(1000):
        champion = registry.champion()
        entry = add(registry, make_policy(scratch / f"{me}-{turn}", f"{me}-{turn}-"), champion)
        with suppress(StaleError):
            registry.promote(entry, against=champion, who=str(me), why=str(turn))
            won.append(entry)
        if len(won) == wins:
            break
    return won


@pytest.mark.parametrize(("racers", "wins"), [pytest.param(4, 5, id="processes"), pytest.param(3, 2, id="threads")])
def test_writers_at_once_lose_and_mix_nothing(
    racers: int, wins: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """If it fails, two runs that end in the same moment cost one of them its policy, or serve a mixture.

    Processes race in a folder, threads in an object store.
    """
    is_process = request.node.callspec.id == "processes"
    url = str(tmp_path / "registry") if is_process else f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
    executor = ProcessPoolExecutor(racers, get_context("spawn")) if is_process else ThreadPoolExecutor(racers)
    with executor as pool:
        writers = [pool.submit(race, url, tmp_path / "scratch", me, wins) for me in range(racers)]
        claimed = [entry for writer in writers for entry in writer.result(120)]
    registry = Registry(url)
    history = registry.history()
    assert [change.sequence for change in history] == list(range(1, racers * wins + 1))
    assert {change.entry for change in history} == {*claimed} and len(claimed) == racers * wins
    assert registry.log.damage() == [] and all(change.follows is not None for change in history[1:])
    before = None
    for change in history:
        assert change.previous == before and registry.entry(change.entry).parent == before
        before = change.entry
    for entry in registry.entries():
        registry.verify(entry)


@pytest.mark.whole
def test_readers_beside_writers_see_whole_entries_and_no_older_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a service that fetches the champion while a run ends gets half a policy, or the one before it."""
    upload = Store.upload

    def slowly(self: Store, name: str, source: Path) -> None:
        time.sleep(0.05)  # weights take long
        upload(self, name, source)

    monkeypatch.setattr(Store, "upload", slowly)
    registry, last, looks, whole = Registry(str(tmp_path / "registry")), 0, 0, set[str]()
    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(race, registry.url, tmp_path / "scratch", me, 5) for me in range(2)]
        while not all(writer.done() for writer in writers):
            head, entries = registry.log.head(), set(registry.entries())
            if head is not None:
                assert head.sequence >= last and head.entry in entries
                last, looks = head.sequence, looks + 1
            for entry in entries - whole:  # in the moment in which it is first seen
                registry.verify(entry)
            whole |= entries
    assert all(len(writer.result()) == 5 for writer in writers) and looks >= 5


def test_a_promotion_whose_answer_was_lost_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, an object store's client that asks again makes a promotion that worked look refused."""
    registry = Registry(str(tmp_path / "registry"))
    create = Store.create

    def twice(self: Store, name: str, data: bytes) -> bool:
        create(self, name, data)
        return create(self, name, data)

    monkeypatch.setattr(Store, "require_exclusive", lambda *arguments: None)
    monkeypatch.setattr(Store, "create", twice)
    entry = promote(registry, tmp_path / "a", "a")
    assert [change.entry for change in registry.history()] == [entry]


def test_a_place_that_cannot_be_written_as_promised_is_refused_before_training(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a night's training is lost at its end over a typing mistake, or a store that mixes two writers."""
    for name in ("http://example.org/registry", "zip://registry.zip", "s4://bucket"):
        with pytest.raises(RegistryError, match="two writers at once"):
            Registry(name)
    with pytest.raises(RegistryError, match="cannot be written to"):
        Registry("s3://polices/registry").require_writable()
    link, write = MagicMock(side_effect=PermissionError(1, "Operation not permitted")), MemoryFileSystem.pipe_file
    monkeypatch.setattr(os, "link", link)
    with pytest.raises(RegistryError, match="cannot link files"):
        Registry(str(tmp_path / "registry")).require_writable()
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", lambda self, path, value, mode: write(self, path, value))
    with pytest.raises(RegistryError, match="creates a file over another"):
        Registry(f"memory://{uuid.uuid4().hex}").require_writable()


def test_what_is_asked_for_wrongly_is_said_with_what_there_is(tmp_path: Path) -> None:
    """If it fails, an operator under pressure has to guess."""
    registry = Registry(str(tmp_path / "registry"))
    with pytest.raises(RegistryError, match=r"no entry begins with 'abc' in .*; there are: none"):
        registry.find("abc")
    entry = promote(registry, tmp_path / "a", "a")
    others = {add(registry, make_policy(tmp_path / str(index), str(index))) for index in range(16)}
    twice = next(first for first in sorted(others) if sum(other[0] == first[0] for other in {*others, entry}) > 1)
    with pytest.raises(RegistryError, match=f"entries begin with '{twice[0]}'"):
        registry.find(twice[0])
    with pytest.raises(RegistryError, match=r"is the champion of .* already"):
        registry.roll_back(entry, who="ann", why="back")
    with pytest.raises(RegistryError, match=r"has no entry '\.\./\.\./etc'"):
        registry.verify("../../etc")
    with pytest.raises(RegistryError, match="exists; name a folder that does not"):
        registry.fetch(entry, tmp_path)


def test_a_list_that_comes_late_does_not_hide_the_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a store whose lists lag makes a run start from an old champion."""
    registry = Registry(str(tmp_path / "registry"))
    entries = [promote(registry, tmp_path / str(index), str(index)) for index in range(3)]
    names = Store.names
    monkeypatch.setattr(Store, "names", lambda self, folder: names(self, folder)[:1])
    assert registry.champion() == entries[-1] and len(registry.history()) == 3


def written(registry: Registry, name: str) -> bytes:
    data = registry._store.read(name)
    assert data is not None
    return data


def spoil(registry: Registry, name: str, how: str) -> None:
    """Does to a file what a person or a store may do."""
    data = written(registry, name)
    if how == "deleted":
        registry._store._fs.rm_file(registry._store._path(name))
    else:
        registry._store.write(name, {"truncated": data[:40], "empty": b"", "other": data.replace(b"ann", b"bob")}[how])


def ledger(registry: Registry, folder: Path) -> list[Change]:
    """Three changes: two promotions, and a rollback to the first one."""
    first, _ = (promote(registry, folder / name, name) for name in "ab")
    registry.roll_back(first, who="ann", why="answers got slow")
    return registry.history()


def record(sequence: int) -> str:
    return f"log/{sequence:08d}.json"


def copy(change: Change) -> str:
    return f"entries/{change.entry}/{record(change.sequence)}"


@pytest.mark.parametrize(
    ("lost", "how", "words"),
    [
        ([3], "deleted", "is missing"),
        ([3], "truncated", "is damaged: its 40 bytes are no whole JSON"),
        ([2], "deleted", "is missing"),
        ([2], "empty", "is damaged: its 0 bytes"),
        ([1, 2, 3], "deleted", "is missing"),
    ],
)
def test_a_lost_record_is_found_read_from_its_copy_and_mended(
    lost: list[int], how: str, words: str, url: str, tmp_path: Path
) -> None:
    """If it fails, a file that somebody deletes changes the champion without a word, or stops the nights for good."""
    registry = Registry(url)
    history = ledger(registry, tmp_path)
    before = {sequence: written(registry, record(sequence)) for sequence in lost}
    for sequence in lost:
        spoil(registry, record(sequence), how)
    assert registry.champion() == history[-1].entry and registry.history() == history
    found = registry.log.damage()
    assert len(found) == len(lost)
    for sequence, sentence in zip(lost, found, strict=True):
        assert f"{registry.url}/{record(sequence)} {words}" in sentence
        assert sentence.endswith(f"from which python -m tasks.registry {registry.url} mend writes it again")
    # A night that ends before anybody has seen it goes on behind what is lost.
    promote(registry, tmp_path / "c", "c")
    assert [change.sequence for change in registry.history()] == [1, 2, 3, 4]
    assert registry.log.mend() == [f"{registry.url}/{record(sequence)}" for sequence in lost]
    assert {sequence: written(registry, record(sequence)) for sequence in lost} == before
    assert registry.log.damage() == [] and registry.log.mend() == []


def test_a_record_that_was_changed_is_not_the_one_that_the_next_names(tmp_path: Path) -> None:
    """If it fails, history can be rewritten by whoever may write to the store."""
    registry = Registry(str(tmp_path / "registry"))
    history = ledger(registry, tmp_path)
    promote(registry, tmp_path / "c", "c")
    spoil(registry, record(3), "other")
    (sentence,) = registry.log.damage()
    assert "00000003.json is not the record that was written there; its copy is whole" in sentence
    assert registry.history()[2] == history[2] and history[2].who == "ann"


def test_of_a_last_record_and_a_copy_that_differ_neither_is_believed(url: str, tmp_path: Path) -> None:
    """If it fails, whoever may write to the store makes any entry the champion, without a word."""
    registry = Registry(url)
    last = ledger(registry, tmp_path)[-1]
    whole = written(registry, record(3))
    spoil(registry, record(3), "other")
    (sentence,) = registry.log.damage()
    assert f"{registry.url}/{record(3)} and {registry.url}/{copy(last)} differ" in sentence
    assert f"remove the wrong one, and python -m tasks.registry {registry.url} mend writes it again" in sentence
    with pytest.raises(RegistryError, match=r"the champion is not known: .* rollback ENTRY"):
        registry.champion()
    changed = written(registry, record(3))
    assert (
        registry.log.mend() == [] and written(registry, copy(last)) == whole and written(registry, record(3)) == changed
    )
    spoil(registry, record(3), "deleted")
    assert registry.champion() == last.entry and registry.log.mend() == [f"{registry.url}/{record(3)}"]
    assert written(registry, record(3)) == whole and registry.log.damage() == []


def test_what_is_lost_with_its_copy_leaves_a_way_out(url: str, tmp_path: Path) -> None:
    """If it fails, two deleted files end the nights, or a policy is promoted in place of nobody knows which."""
    registry = Registry(url)
    first, second, third = ledger(registry, tmp_path)
    for name in (record(2), copy(second)):
        spoil(registry, name, "deleted")
    assert registry.champion() == first.entry and registry.history() == [first, third]
    (sentence,) = registry.log.damage()
    assert sentence.endswith(
        "00000002.json is missing, and has no whole copy; bring it back from a backup of the store"
    )
    for name in (record(3), copy(third)):
        spoil(registry, name, "truncated")
    late = add(registry, make_policy(tmp_path / "late", "late"), first.entry)
    for ask in (registry.champion, lambda: registry.promote(late, against=first.entry, who="night", why="better")):
        with pytest.raises(
            RegistryError, match=r"the champion is not known: .*00000003\.json is damaged.* rollback ENTRY"
        ):
            ask()
    registry.roll_back(first.entry, who="ann", why="by the mail of the night")
    assert registry.champion() == first.entry and [change.sequence for change in registry.history()] == [1, 4]
    assert registry.log.damage() == [], "whoever rolls back over what is lost knows of it"
    registry.promote(late, against=first.entry, who="night", why="better")
    assert registry.champion() == late and registry.log.damage() == []
    assert [place.sequence for place in registry.log.places() if place.damage is not None] == [2, 3]
    spoil(registry, record(4), "deleted")
    assert len(registry.log.damage()) == 1, "what is lost later is news"


def test_a_log_of_the_version_before_is_read_and_then_guarded(tmp_path: Path) -> None:
    """If it fails, an upgrade ends the nights of a registry that is in use, or leaves its history as it was."""
    registry = Registry(str(tmp_path / "registry"))
    history = ledger(registry, tmp_path)
    for change in history:
        shutil.rmtree(place(registry, change.entry, "log"), ignore_errors=True)
        said = json.loads(written(registry, record(change.sequence)))
        del said["follows"]
        registry._store.write(record(change.sequence), json.dumps(said).encode())
    assert [change.entry for change in registry.history()] == [change.entry for change in history]
    assert registry.log.damage() == []
    promote(registry, tmp_path / "c", "c")
    for sequence in (1, 2, 3, 4):
        spoil(registry, record(sequence), "deleted")
        assert len(registry.history()) == 4 and registry.log.mend() == [f"{registry.url}/{record(sequence)}"]


def test_a_lost_log_does_not_hide_the_entries(tmp_path: Path) -> None:
    """If it fails, a folder deleted by mistake takes the registry out of reach although all policies are there."""
    registry = Registry(str(tmp_path / "registry"))
    first = ledger(registry, tmp_path)[0].entry
    shutil.rmtree(tmp_path / "registry/log")
    shutil.rmtree(place(registry, first, "log"))
    (tmp_path / "registry/registry.json").unlink()
    assert registry.exists() and registry.champion() != first
    for entry in registry.entries():
        shutil.rmtree(place(registry, entry, "log"), ignore_errors=True)
    assert registry.champion() is None
    registry.roll_back(first, who="ann", why="the log is lost")
    assert registry.champion() == first


def test_a_night_is_known_by_its_experiment_and_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If it fails, a night that is repeated is trained and promoted twice, or an old damaged entry ends all nights."""
    registry = Registry(str(tmp_path / "registry"))
    assert registry.of_night("sudoku", NIGHT) is None
    other = add(registry, make_policy(tmp_path / "other", "other"), experiment="countdown")
    ours = [add(registry, make_policy(tmp_path / name, name)) for name in "abc"]
    assert registry.of_night("countdown", NIGHT) == other and registry.of_night("sudoku", NIGHT) in ours
    registry.promote(ours[1], against=None, who="night", why="better")
    assert registry.of_night("sudoku", NIGHT) == ours[1], "of several it is the one that became champion"
    assert registry.of_night("sudoku", NIGHT.replace(second=1)) is None
    place(registry, other, "entry.json").write_bytes(b"{}")
    assert registry.of_night("countdown", NIGHT) is None and registry.of_night("sudoku", NIGHT) == ours[1]
    assert "was changed or damaged" in caplog.text


def test_nights_of_two_experiments_at_one_time_are_two(tmp_path: Path) -> None:
    """If it fails, one of two schedules hides how the other one ended."""
    registry = Registry(str(tmp_path / "registry"))
    ours, other = (
        Night(experiment=name, due=NIGHT, ended=NIGHT, who="f", promoted=False, champion=None, gain=GAIN, reason="no")
        for name in ("countdown", "sudoku")
    )
    for night in (ours, other, other):
        registry.nights.keep(night)
    old = ours.model_copy(update={"experiment": None})
    registry._store.write("nights/20261124T020000Z.json", to_json(old))
    assert sorted(registry.nights.all(), key=lambda night: night.experiment or "") == [old, ours, other]


def test_the_remedy_for_a_damaged_policy_is_one_that_works(tmp_path: Path) -> None:
    """If it fails, an operator is told to roll back to what is not there."""
    registry = Registry(str(tmp_path / "registry"))
    first = promote(registry, tmp_path / "a", "a")
    place(registry, first, "policy/model.safetensors").unlink()
    with pytest.raises(RegistryError, match="from a backup of the store, or begin a registry at another address"):
        registry.verify(first)
    second = add(registry, make_policy(tmp_path / "b", "b"), first)
    with pytest.raises(
        RegistryError, match=f"from a backup of the store, or roll back to another entry, of {second[:12]}"
    ):
        registry.verify(first)


@pytest.mark.parametrize("what", ["entry.json", ""])
def test_a_champion_whose_entry_is_gone_is_missed(what: str, tmp_path: Path) -> None:
    """If it fails, a champion that nobody can serve looks well until the next night fails, without a remedy."""
    registry = Registry(str(tmp_path / "registry"))
    first, second = (promote(registry, tmp_path / name, name) for name in "ab")
    assert damage(registry) == []
    shutil.move(place(registry, second, what), tmp_path / "lost")
    (sentence,) = damage(registry)
    assert sentence == (
        f"{registry.url}/entries/{second}/entry.json is missing; bring the file back from a backup of the store, or "
        f"roll back to another entry, of {first[:12]}"
    )
    with pytest.raises(RegistryError) as refused:
        registry.verify(second)
    assert str(refused.value) == sentence
    registry.roll_back(first, who="ann", why="the champion is lost")
    assert registry.champion() == first and damage(registry) == [], "the remedy ends the alarm"
    if what:
        shutil.move(tmp_path / "lost", place(registry, second, what))
    else:
        shutil.copytree(tmp_path / "lost", place(registry, second, ""), dirs_exist_ok=True)
    registry.roll_back(second, who="ann", why="it is back")
    place(registry, second, "entry.json").write_bytes(b"{}")
    (sentence,) = damage(registry)
    assert f"{second}/entry.json has the digest" in sentence, "a champion again is watched again"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"format": 1, "due', "is damaged: its 18 bytes are no whole JSON; bring the file back"),
        (b'{"format": 2}', r"was written by another version of this project, or changed by hand \(format: "),
    ],
)
def test_a_note_that_cannot_be_read_says_what_to_do(data: bytes, words: str, tmp_path: Path) -> None:
    """If it fails, half a file gives the words of a library, and no remedy."""
    registry = Registry(str(tmp_path / "registry"))
    moment = "20261124T020000Z"
    for name, read in (
        (f"nights/{moment}.json", registry.nights.all),
        (f"nights/{moment}-sudoku.json", registry.nights.all),
        (f"evaluations/{'b' * 64}/{moment}.json", registry.evaluations.all),
    ):
        for stray in (".DS_Store", "a.json.swp"):
            registry._store.write(f"{name.rsplit('/', 1)[0]}/{stray}", b"\x00")
        assert read() == [], "what is no note is none of ours"
        registry._store.write(name, data)
        with pytest.raises(RegistryError, match=f"{name} {words}") as refused:
            read()
        assert "remove it, since nothing else depends on it" in str(refused.value) and "\n" not in str(refused.value)
        spoil(registry, name, "deleted")


@pytest.mark.parametrize(
    "url", ["https://key:hunter2@host/registry", "key:hunter2@host", "s3://key:hunter2@host/regis try"]
)
def test_a_refused_address_is_shown_without_its_key(url: str) -> None:
    """If it fails, a mistyped address writes a key into a log."""
    for refuse in (require_shared, Store) if url.startswith("https") else (require_shared,):
        with pytest.raises(RegistryError) as refused:
            refuse(url)
        assert "hunter2" not in str(refused.value) and "host" in str(refused.value)
