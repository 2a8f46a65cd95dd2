"""Whether a registry is whole, as far as that is seen without reading the policies."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from tasks.gdsd.errors import RegistryError
from tasks.gdsd.registry.kept import SHORT
from tasks.gdsd.registry.registry import Registry, require_files


class Unrecorded(NamedTuple):
    """An entry that was champion at some time, and that the log does not name as one."""

    entry: str
    seen: datetime  # when the latest of what says so was made
    evidence: str


def damage(registry: Registry) -> list[str]:
    """Returns what is lost or damaged that somebody should see to, a sentence each.

    That is in the log, in the entries of champions that were not rolled back from since, and in what says how nights
    ended and what champions reached later.
    """
    found, champions = registry.log.damage(), dict[str, None]()
    found += [_sentence(registry, one) for one in _unrecorded(registry)]
    for change in registry.history():
        if change.action == "rolled back" and change.previous is not None:
            champions.pop(change.previous, None)
        champions[change.entry] = None
    for entry in champions:
        try:
            require_files(registry, entry)
        except RegistryError as error:
            found.append(str(error))
    return [*found, *registry.nights.damage(), *registry.evaluations.damage()]


def require_known(registry: Registry) -> None:
    """Makes sure that the log's last record, which names the champion, is there, and followed by none that is lost.

    Raises:
        RegistryError: it is lost, or an entry was champion later.
    """
    head = registry.log.head()
    for one in _unrecorded(registry):
        if head is None or one.seen > head.when:
            raise RegistryError(f"the champion is not known: {_sentence(registry, one)}")


def _unrecorded(registry: Registry) -> Iterator[Unrecorded]:
    """Yields the champions that entries and nights tell of and the log does not, the oldest first.

    Whoever rolls back says which entry is the champion, so what is older is passed over. The log is read last: what
    tells of a champion is written behind its record.
    """
    told = []
    for entry in registry.entries():
        with suppress(RegistryError):  # of an entry that is damaged, which is reported where it matters
            if (child := registry.entry(entry)).parent is not None:
                told.append(Unrecorded(child.parent, child.made, f"entry {entry[:SHORT]} was trained from it"))
    for night in registry.nights.all():
        if night.champion is not None:
            evidence = f"the night of {night.due:%Y-%m-%d %H:%M} UTC ended with it"
            told.append(Unrecorded(night.champion, night.ended, evidence))
    history = registry.history()
    recorded = {entry for change in history for entry in (change.entry, change.previous)}
    said = max((change.when for change in history if change.action == "rolled back"), default=None)
    latest = {one.entry: one for one in sorted(told, key=lambda one: one.seen)}
    for one in latest.values():
        if one.entry not in recorded and (said is None or one.seen > said):
            yield one


def _sentence(registry: Registry, one: Unrecorded) -> str:
    return (
        f"no record of {registry.url}/log names {one.entry[:SHORT]} as the champion, although {one.evidence}; bring "
        f"the records back from a backup of the store, or say which entry is the champion by {registry.log.command} "
        "rollback ENTRY --reason WHY"
    )
