"""The registry's log: the changes of the champion, to which any number of writers may add at once.

Each record names the one before it by its digest. A copy, which is written after the record, lies beside the entry that
becomes the champion by it. So the entries say how many records there must be. What was lost or damaged is read from its
copy, and `mend` writes it again. Of a record and a copy that differ neither is believed, unless a later record says
which is right.
"""

import hashlib
import re
import shlex
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import takewhile
from typing import Literal, NamedTuple

from tasks.gdsd.errors import RegistryError
from tasks.gdsd.registry.kept import Change, from_json, to_json
from tasks.gdsd.registry.store import Store

_RECORD = re.compile(r"^log/([0-9]{8})\.json$")
_COPY = re.compile(r"^entries/[0-9a-f]{64}/log/([0-9]{8})\.json$")


class Place(NamedTuple):
    """A place in the log, and what is known of its record."""

    sequence: int
    change: Change | None  # None where the record is lost
    data: bytes  # of the record, as it was written
    damage: str | None  # what has become of the record since, and what can be done; None where it is whole
    is_copied: bool
    is_accepted: bool  # whether somebody who knew that the record is lost has rolled back over it


class Log:
    """The log in a store. A record is created only where there is none, so of two at once one comes first."""

    def __init__(self, store: Store):
        self._store = store
        self.command = f"python -m tasks.registry {shlex.quote(store.url)}"

    def places(self) -> list[Place]:
        """Returns every place, the oldest first."""
        return list(self._backwards())[::-1]

    def end(self) -> Place | None:
        """Returns the last place; None where nothing was recorded yet."""
        return next(self._backwards(), None)

    def head(self) -> Change | None:
        """Returns the last change, which names the champion; None before the first one.

        Raises:
            RegistryError: its record is lost.
        """
        return self.known(self.end())

    def known(self, end: Place | None) -> Change | None:
        """Returns what is recorded at the last place.

        Raises:
            RegistryError: the record is lost.
        """
        if end is not None and end.change is None:
            raise RegistryError(
                f"the champion is not known: {end.damage}, or say which entry it is by {self.command} rollback ENTRY "
                "--reason WHY"
            )
        return None if end is None else end.change

    def history(self) -> list[Change]:
        """Returns every change that is known, the oldest first."""
        return [place.change for place in self.places() if place.change is not None]

    def damage(self) -> list[str]:
        """Returns what is wrong with each record that is lost or damaged, and what can be done.

        What was lost before somebody rolled back over it is known.
        """
        return [place.damage for place in self.places() if place.damage is not None and not place.is_accepted]

    def append(
        self, end: Place | None, action: Literal["promoted", "rolled back"], entry: str, who: str, why: str
    ) -> Change | None:
        """Adds a record behind the last place, and returns it; None where somebody else has been faster."""
        before = None if end is None else end.change
        change = Change(
            sequence=1 if end is None else end.sequence + 1,
            follows=None if end is None or before is None else _digest(end.data),
            action=action,
            entry=entry,
            previous=None if before is None else before.entry,
            who=who,
            why=why,
            when=datetime.now(UTC),
            nonce=uuid.uuid4().hex,
        )
        name, data = _name(change.sequence), to_json(change)
        # An object store may answer twice to one request: a writer that is refused knows its own record.
        if not self._store.create(name, data) and self._store.read(name) != data:
            return None
        self.copy()
        return change

    def copy(self) -> None:
        """Copies the records after the last copied one: the newest, and those whose writers died or are too old."""
        for place in [*takewhile(lambda place: not place.is_copied, self._backwards())][::-1]:
            if place.change is not None:
                self._store.write(_copy(place.change), place.data)

    def mend(self) -> list[str]:
        """Writes what is not whole again, records from their copies and the other way round; returns the addresses."""
        written = []
        for place in self.places():
            for name in (_name(place.sequence), _copy(place.change)) if place.change is not None else ():
                if self._store.read(name) != place.data:
                    self._store.write(name, place.data)
                    written.append(self._store.address(name))
        return written

    def _backwards(self) -> Iterator[Place]:
        """Yields every place, the last first: what is recorded at one says how the record before has to be."""
        copies = {int(found[1]): name for name in self._store.files("entries") if (found := _COPY.match(name))}
        records = [int(found[1]) for name in self._store.files("log") if (found := _RECORD.match(name))]
        last = max([*records, *copies], default=0)
        # A store may list late what it has, but it never denies a name.
        while self._store.read(_name(last + 1)) is not None:
            last += 1
        digest, is_accepted = None, False
        for sequence in range(last, 0, -1):
            copy = copies.get(sequence)
            change, data, damage = self._place(sequence, copy, digest)
            digest = None if change is None else change.follows
            yield Place(sequence, change, data, damage, copy is not None, is_accepted and change is None)
            if change is not None:
                is_accepted = change.is_over_a_hole()

    def _place(self, sequence: int, copy: str | None, digest: str | None) -> tuple[Change | None, bytes, str | None]:
        """Returns what is recorded at a place, as it was written, and what is wrong there."""
        name, wrong, found, copied = _name(sequence), "", None, None
        try:
            found = self._read(name, sequence, digest)
        except RegistryError as error:
            wrong = str(error)
        if copy is not None and (found is None or digest is None):
            with suppress(RegistryError):
                copied = self._read(copy, sequence, digest)
        if found is not None and copied in (None, found):
            return *found, None
        if found is not None:
            wrong = (
                f"{self._store.address(name)} and {self._store.address(copy or '')} differ, and nothing says which is "
                f"right; remove the wrong one, and {self.command} mend writes it again"
            )
            return None, b"", wrong
        if copied is not None:
            return *copied, f"{wrong}; its copy is whole, from which {self.command} mend writes it again"
        return None, b"", f"{wrong}, and has no whole copy; bring it back from a backup of the store"

    def _read(self, name: str, sequence: int, digest: str | None) -> tuple[Change, bytes]:
        """Reads a record or its copy.

        Raises:
            RegistryError: it is missing, not whole, or not what was written there.
        """
        data, address = self._store.read(name), self._store.address(name)
        if data is None:
            raise RegistryError(f"{address} is missing")
        change = from_json(Change, data, address)
        if change.sequence != sequence or digest not in (None, _digest(data)):
            raise RegistryError(f"{address} is not the record that was written there")
        return change, data


def _name(sequence: int) -> str:
    return f"log/{sequence:08d}.json"


def _copy(change: Change) -> str:
    return f"entries/{change.entry}/log/{change.sequence:08d}.json"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
