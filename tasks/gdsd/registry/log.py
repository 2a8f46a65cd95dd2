"""The registry's log: the changes of the champion, to which any number of writers may add at once."""

import re
import uuid
from datetime import UTC, datetime
from typing import Literal

from tasks.gdsd.errors import RegistryError
from tasks.gdsd.registry.kept import Change, read, to_json
from tasks.gdsd.registry.store import Store

_RECORD = re.compile(r"^[0-9]{8}\.json$")


class Log:
    """The log in a store. A record is created only where there is none, so of two at once one comes first."""

    def __init__(self, store: Store):
        self._store = store

    def head(self) -> Change | None:
        """Returns the last change, which names the champion; None before the first one."""
        sequence = max((int(name[:8]) for name in self._store.names("log") if _RECORD.match(name)), default=0)
        change = self._read(sequence) if sequence else None
        # A store may list late what it has, but it never denies a name.
        while (later := self._read(sequence + 1)) is not None:
            change, sequence = later, sequence + 1
        if sequence and change is None:
            raise RegistryError(f"{self._store.address(_name(sequence))} was listed, but cannot be read; try again")
        return change

    def history(self) -> list[Change]:
        """Returns every change, the oldest first."""
        head = self.head()
        changes = [self._read(sequence) for sequence in range(1, 1 + (0 if head is None else head.sequence))]
        missing = [sequence for sequence, change in enumerate(changes, 1) if change is None]
        if missing:
            raise RegistryError(f"{self._store.url} lacks records {missing} of its log, which nothing here deletes")
        return [change for change in changes if change is not None]

    def append(
        self, head: Change | None, action: Literal["promoted", "rolled back"], entry: str, who: str, why: str
    ) -> Change | None:
        """Adds a record behind the last one, and returns it; None where somebody else has been faster."""
        change = Change(
            sequence=1 if head is None else head.sequence + 1,
            action=action,
            entry=entry,
            previous=None if head is None else head.entry,
            who=who,
            why=why,
            when=datetime.now(UTC),
            nonce=uuid.uuid4().hex,
        )
        # An object store may answer twice to one request: a writer that is refused knows its own record.
        created = self._store.create(_name(change.sequence), to_json(change))
        return change if created or self._read(change.sequence) == change else None

    def _read(self, sequence: int) -> Change | None:
        return read(self._store, Change, _name(sequence))


def _name(sequence: int) -> str:
    return f"log/{sequence:08d}.json"
