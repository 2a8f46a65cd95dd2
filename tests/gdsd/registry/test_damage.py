"""What of a registry's log and entries is lost, cut short or changed: it is found, and there is a way out."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.gdsd.errors import RegistryError
from tasks.gdsd.registry.condition import damage, require_known
from tasks.gdsd.registry.kept import Change, Night
from tasks.gdsd.registry.registry import Registry
from tests.gdsd.registry.conftest import GAIN, NIGHT, add, make_policy, place, promote, spoil, written


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


@pytest.mark.parametrize("lost", ["all", "last"])
@pytest.mark.parametrize("witness", ["night", "child"])
def test_a_log_that_was_deleted_with_its_copies_is_missed(witness: str, lost: str, tmp_path: Path) -> None:
    """If it fails, the registry reads as an empty or an older one, and the next night starts from the wrong base."""
    registry = Registry(str(tmp_path / "registry"))
    first, second = (promote(registry, tmp_path / name, name) for name in "ab")
    ended = registry.history()[-1].when
    if witness == "night":
        told = {"experiment": "sudoku", "who": "execution f0", "gain": GAIN, "reason": "better"}
        for due, champion in ((NIGHT, first), (NIGHT + timedelta(days=1), second)):
            registry.nights.keep(Night(due=due, ended=ended, promoted=True, champion=champion, **told))
        said = f"no record of {registry.url}/log names {{}} as the champion, although the night of "
    else:
        due = ended + timedelta(seconds=1)
        child = add(registry, make_policy(tmp_path / "child", "child"), second, made=due)
        said = f"no record of {registry.url}/log names {{}} as the champion, although entry {{}} was trained from it"
    assert damage(registry) == []
    require_known(registry)
    for change in registry.history() if lost == "all" else registry.history()[-1:]:
        for name in (record(change.sequence), copy(change)):
            spoil(registry, name, "deleted")
    missed = {"all": [first, second], "last": [second]}[lost]
    found = damage(registry)
    assert len(found) == len(missed)
    by = {first: second, second: child} if witness == "child" else {}
    for entry, sentence in zip(missed, found, strict=True):
        assert sentence.startswith(said.format(entry[:12], by.get(entry, "")[:12]))
    with pytest.raises(RegistryError, match=r"^the champion is not known: no record .* rollback ENTRY --reason WHY$"):
        require_known(registry)
    registry.roll_back(second, who="ann", why="by the mail of the night")
    if witness == "night":
        assert damage(registry) == [], "whoever rolls back knows of it"
    require_known(registry)


def test_a_champion_without_one_of_its_files_is_missed(url: str, tmp_path: Path) -> None:
    """If it fails, a champion that nobody can load looks well until the next night fails."""
    registry = Registry(url)
    champion = promote(registry, tmp_path / "a", "a")
    assert damage(registry) == []
    spoil(registry, f"entries/{champion}/policy/model.safetensors", "deleted")
    (sentence,) = damage(registry)
    assert sentence.startswith(f"{registry.policy(champion)}/model.safetensors is missing, although its entry names it")
