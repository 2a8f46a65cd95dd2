"""The commands that an operator uses on a registry whose log somebody has damaged."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks import nights, registry
from tasks.gdsd.registry.kept import Night
from tasks.gdsd.registry.registry import Registry
from tests.gdsd.registry.conftest import GAIN, NIGHT, spoil
from tests.gdsd.registry.test_damage import copy, ledger, record

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
