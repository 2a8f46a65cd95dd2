"""The commands that an operator uses on a registry whose log somebody has damaged."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks import nights, registry
from tasks.gdsd.registry.kept import Night
from tasks.gdsd.registry.registry import Registry
from tasks.gdsd.registry.store import Store
from tests.gdsd.registry.conftest import GAIN, NIGHT, spoil
from tests.gdsd.registry.test_damage import copy, ledger, record

ROOT = Path(__file__).resolve().parents[2]
Shown = pytest.CaptureFixture[str]


@pytest.fixture
def kept(tmp_path: Path) -> Registry:
    """A registry with three changes, and a night that has just ended."""
    made = Registry(str(tmp_path / "registry"))
    champion = ledger(made, tmp_path)[-1].entry
    now = datetime.now(UTC)
    made.nights.keep(
        Night(due=NIGHT, ended=now, who="execution f0", promoted=True, champion=champion, gain=GAIN, reason="better")
    )
    return made


@pytest.mark.parametrize("how", ["deleted", "truncated"])
def test_a_hole_is_shown_and_mended(how: str, kept: Registry, capsys: Shown) -> None:
    """If it fails, a deleted file reads "none yet", and nobody hears of it or knows what to do."""
    champion, url = kept.champion(), kept.url
    assert registry.main([url]) == 0 and nights.main(["last", url]) == 0
    whole = capsys.readouterr().out
    spoil(kept, record(3), how)
    assert registry.main([url]) == 1
    said = capsys.readouterr()
    assert f"champion  {champion}" in said.out and said.out in whole
    assert said.err.startswith(f"{url}/log/00000003.json is ") and said.err.count("\n") == 1
    assert nights.main(["last", url]) == 1
    last = capsys.readouterr()
    assert last.err == said.err and last.out.startswith("the night that ended at ") and last.out in whole
    command = said.err.split("from which python -m tasks.registry ")[1].removesuffix(" writes it again\n")
    assert registry.main(command.split()) == 0
    assert capsys.readouterr().out == f"{url}/log/00000003.json is whole again\n1 file was written again\n"
    assert registry.main([url]) == 0 and nights.main(["last", url]) == 0
    assert capsys.readouterr().out == whole
    assert registry.main([url, "mend"]) == 0 and capsys.readouterr().out == "0 files were written again\n"


def test_a_champion_that_is_not_known_is_said_by_hand(kept: Registry, capsys: Shown) -> None:
    """If it fails, two damaged files leave an operator with a registry that nothing can be done with."""
    champion = kept.history()[-1]
    for name in (record(3), copy(champion)):
        spoil(kept, name, "truncated")
    for words in ([], ["mend"]):
        assert registry.main([kept.url, *words]) == 1
        assert "has no whole copy; bring it back from a backup of the store" in capsys.readouterr().err
    assert registry.main([kept.url, "fetch", "policy"]) == 1
    assert "rollback ENTRY --reason WHY" in capsys.readouterr().err
    assert registry.main([kept.url, "rollback", champion.entry[:12], "--reason", "by the mail"]) == 0
    assert kept.champion() == champion.entry
    assert f"rolled back  {champion.entry[:12]}  in place of unknown" in capsys.readouterr().out
    # The hole stays to be seen, and is no alarm any more.
    assert registry.main([kept.url]) == 0 and nights.main(["last", kept.url]) == 0
    said = capsys.readouterr()
    assert f"lost         {kept.url}/{record(3)} is damaged" in said.out and said.err == ""


def test_a_champion_that_was_deleted_is_an_alarm(kept: Registry, capsys: Shown) -> None:
    """If it fails, nobody hears of it before the next night fails."""
    champion = kept.champion()
    assert champion is not None
    Path(kept.policy(champion)).with_name("entry.json").unlink()
    for run in (registry.main, lambda arguments: nights.main(["last", *arguments])):
        assert run([kept.url]) == 1
        said = capsys.readouterr()
        assert said.out and f"{champion}/entry.json is missing; bring the file back" in said.err


def test_a_log_that_is_gone_is_no_new_registry(kept: Registry, capsys: Shown) -> None:
    """If it fails, an operator reads "none yet" above the nights that have promoted."""
    shutil.rmtree(Path(kept.url, "log"))
    for folder in Path(kept.url).glob("entries/*/log"):
        shutil.rmtree(folder)
    assert registry.main([kept.url]) == 1 and nights.main(["last", kept.url]) == 1
    said = capsys.readouterr()
    assert "champion  not known" in said.out and "promoted, " in said.out
    assert said.err.count("bring the records back from a backup of the store") == said.err.count("\n") > 0
    assert registry.main([kept.url, "fetch", "policy"]) == 1 and "is not known" in capsys.readouterr().err


def test_half_a_note_hides_neither_the_champion_nor_that_no_night_ended(kept: Registry, capsys: Shown) -> None:
    """If it fails, an operator is told of a file that is worth nothing, and of nothing else."""
    (note,) = Path(kept.url, "nights").iterdir()
    spoil(kept, f"nights/{note.name}", "truncated")
    damaged = f"{note} is damaged: its 40 bytes are no whole JSON; bring the file back"
    assert registry.main([kept.url]) == 1
    said = capsys.readouterr()
    assert f"champion  {kept.champion()}" in said.out and said.err.startswith(damaged) and said.err.count("\n") == 1
    assert nights.main(["last", kept.url]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(damaged) and f"no night of {kept.url} has ended for 26 hours, and no" in said.err
    assert registry.main([kept.url, "fetch", str(note.with_name("policy"))]) == 0


@pytest.mark.parametrize("place", ["file/policy", "/proc/policy"])
def test_a_folder_that_cannot_be_made_is_refused_in_a_sentence(
    place: str, kept: Registry, tmp_path: Path, capsys: Shown
) -> None:
    """If it fails, a full disk or a mistyped path ends in a screen of code."""
    (tmp_path / "file").touch()
    folder = str(tmp_path / place)
    assert registry.main([kept.url, "fetch", folder]) == 1
    said = capsys.readouterr().err
    assert f"cannot be copied to {folder} (" in said and "name a new folder where you may write" in said


def test_mend_says_before_it_writes_that_it_may_not(kept: Registry, capsys: Shown) -> None:
    """If it fails, a registry that may only be read is half mended, or the answer is a screen of code."""
    spoil(kept, record(1), "deleted")
    partial = Path(kept.url, "partial")
    shutil.rmtree(partial)
    partial.touch()
    assert registry.main([kept.url, "mend"]) == 1
    assert f"{kept.url} cannot be written to" in capsys.readouterr().err


def test_what_a_store_raises_is_a_sentence(
    kept: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    """If it fails, an outage or a lost right is a hundred lines in a mail of cron. A fault of our own still is."""
    commands = (
        (registry, []),
        (registry, ["mend"]),
        (registry, ["fetch", str(tmp_path / "policy")]),
        (registry, ["rollback", "a", "--reason", "slow"]),
    )

    def fail(error: Exception) -> None:
        def files(store: Store, folder: str) -> list[str]:
            raise error

        monkeypatch.setattr(Store, "files", files)

    class SlowDown(Exception):
        """Of some library."""

    long = SlowDown("try\nlater\n" * 1000)
    monkeypatch.setattr(Store, "read", lambda store, name: (_ for _ in ()).throw(long))
    for command in (registry, nights):  # which ask first whether there is one
        assert command.main([kept.url] if command is registry else ["last", kept.url]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"{kept.url!r} cannot be read or written (SlowDown: try later try later")
        assert said.count("\n") == 1 and len(said) < 1000
    monkeypatch.undo()
    for error in (SlowDown("try\nlater"), PermissionError("try later")):
        fail(error)
        for command, words in (*commands, (nights, None)):
            assert command.main(["last", kept.url] if words is None else [kept.url, *words]) == 1
            said = capsys.readouterr().err
            assert said.startswith(f"{kept.url!r} cannot be read or written ({type(error).__name__}: try later); check")
            assert said.count("\n") == 1
    fail(KeyError("a"))
    with pytest.raises(KeyError):
        registry.main([kept.url])


def test_an_operator_without_a_name_has_a_number(
    kept: Registry, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    """If it fails, nothing can be rolled back from a container whose user is not in its list."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nameless)
    second = kept.history()[1].entry
    assert registry.main([kept.url, "rollback", second, "--reason", "slow"]) == 0
    assert f"by user {os.getuid()}: slow" in capsys.readouterr().out


def test_the_commands_leave_no_temporary_files(kept: Registry, tmp_path: Path) -> None:
    """If it fails, each line of a crontab leaves two folders for ever."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    words = (["tasks.registry", kept.url], ["tasks.nights", "last", kept.url])
    commands = [
        subprocess.Popen([sys.executable, "-m", *one], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        for one in words
    ]
    assert [one.wait() for one in commands] == [0, 0]
    assert os.listdir(temporary) == []
