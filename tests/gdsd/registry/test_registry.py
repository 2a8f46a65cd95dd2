"""The registry of promoted policies: what it promises to writers at once, to killed ones and to readers."""

import hashlib
import itertools
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.errors import RegistryError, StaleError
from tasks.gdsd.registry.condition import damage, require_known
from tasks.gdsd.registry.kept import Night, Origin, to_json
from tasks.gdsd.registry.registry import Registry
from tasks.gdsd.registry.store import Store, require_shared
from tests.gdsd.registry.conftest import GAIN, NIGHT, add, make_policy, place, promote, spoil


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
    with pytest.raises(RegistryError, match="is empty"):
        Registry("")  # which is the working folder to a store
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


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"format": 1, "due', "is damaged: its 18 bytes are no whole JSON; bring the file back"),
        (b'{"format": 2}', r"was written by another version of this project, or changed by hand \(format: "),
    ],
)
def test_a_note_that_cannot_be_read_ends_nothing_and_says_what_to_do(data: bytes, words: str, tmp_path: Path) -> None:
    """If it fails, half a file on which nothing depends ends all nights, or gives the words of a library."""
    registry = Registry(str(tmp_path / "registry"))
    moment = "20261124T020000Z"
    for name, notes in (
        (f"nights/{moment}.json", registry.nights),
        (f"nights/{moment}-sudoku.json", registry.nights),
        (f"evaluations/{'b' * 64}/{moment}.json", registry.evaluations),
    ):
        for stray in (".DS_Store", "a.json.swp"):
            registry._store.write(f"{name.rsplit('/', 1)[0]}/{stray}", b"\x00")
        assert notes.damage() == [], "what is no note is none of ours"
        registry._store.write(name, data)
        assert notes.all() == []
        require_known(registry)  # as a night does
        (said,) = damage(registry)
        assert re.search(f"{name} {words}", said) and "\n" not in said
        assert "remove it, since nothing else depends on it" in said
        spoil(registry, name, "deleted")


def test_nights_are_read_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a year of nights in an object store takes a minute, in each command and in each night."""
    registry = Registry(str(tmp_path / "registry"))
    told = {"experiment": "sudoku", "ended": NIGHT, "who": "f", "promoted": False, "champion": None, "gain": GAIN}
    nights = [Night(due=NIGHT.replace(day=day), reason="no", **told) for day in range(1, 9)]
    for night in nights:
        registry.nights.keep(night)
    together, read = threading.Barrier(len(nights)), Store.read

    def wait(store: Store, name: str) -> bytes | None:
        together.wait(600)
        return read(store, name)

    monkeypatch.setattr(Store, "read", wait)
    assert registry.nights.all() == nights


def test_where_a_run_was_is_not_worth_a_night(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If it fails, half a file on which nothing depends keeps a repeated night from its end."""
    registry = Registry(str(tmp_path / "registry"))
    entry = add(registry, make_policy(tmp_path / "a", "a"))
    spoil(registry, f"entries/{entry}/run.json", "truncated")
    assert registry.run_folder(entry) is None
    assert "run.json is damaged: its 40 bytes are no whole JSON; bring the file back" in caplog.text


@pytest.mark.parametrize(
    "url", ["https://key:hunter2@host/registry", "key:hunter2@host", "s3://key:hunter2@host/regis try"]
)
def test_a_refused_address_is_shown_without_its_key(url: str) -> None:
    """If it fails, a mistyped address writes a key into a log."""
    for refuse in (require_shared, Store) if url.startswith("https") else (require_shared,):
        with pytest.raises(RegistryError) as refused:
            refuse(url)
        assert "hunter2" not in str(refused.value) and "host" in str(refused.value)
