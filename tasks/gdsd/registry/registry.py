"""A registry of promoted policies, in a folder or an object store.

    registry.json            the format; written once
    entries/<id>/policy/     a checkpoint as it was promoted, which `evaluate` takes too
    entries/<id>/entry.json  its files with their digests, and what speaks for it; written last
    log/<8 digits>.json      one change of the champion each: who, when, why, and from which to which
    evaluations/<id>/        what a champion reached later
    nights/<time>.json       how each night ended, also where it changed nothing

What it guarantees, whoever writes at the same time and whenever a writer is killed:

1. An id is the SHA-256 of entry.json, which has the SHA-256 of every file: an id names a policy and its evidence, and
   neither can change under it. What is read is compared with them.
2. An entry without entry.json is not there. Writing it again completes it.
3. The champion is what the log's last record names. A record is created only where there is none, so that records are
   never lost, overwritten or out of order: of two changes at once one comes first, and the other sees it.
4. A policy is promoted only in place of the champion that it was compared with. Where another one has come, the policy
   is stale, and refused. A promotion that was recorded is not recorded twice.
5. Nothing is deleted. `roll_back` makes any entry the champion again, by a further record.

The evidence is kept as it was written. It is never read as today's records, which may have changed since.
"""

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from tasks.gdsd.errors import RegistryError, StaleError
from tasks.gdsd.records import EvalReport
from tasks.gdsd.registry.kept import SHORT, Change, Entry, FileRecord, LaterEvaluation, from_json, read, to_json
from tasks.gdsd.registry.log import Log
from tasks.gdsd.registry.nights import Nights
from tasks.gdsd.registry.store import Store

MARKER, MARK = "registry.json", b'{"format": 1}\n'
_ID = re.compile(r"^[0-9a-f]{64}$")


class Registry:
    """The registry at a path or URL.

    Args:
        url: see `Store`.
        options: see `Store`.
    """

    def __init__(self, url: str, options: Mapping[str, object] | None = None):
        self._store = Store(url, options)
        self.url = self._store.url
        self.log, self.nights = Log(self._store), Nights(self._store)

    def require_writable(self) -> None:
        """Makes sure that this registry can be written to as it promises; the first call makes one.

        Raises:
            RegistryError: it cannot.
        """
        self._store.require_exclusive(MARKER, MARK)

    def exists(self) -> bool:
        """Says whether anybody has begun a registry here.

        Raises:
            RegistryError: that cannot be found out.
        """
        try:
            return self._store.read(MARKER) is not None
        except Exception as error:  # each store's library raises what it likes
            raise RegistryError(
                f"{self.url} cannot be read ({type(error).__name__}: {error}); check the address and your right to read"
            ) from error

    # The champion

    def champion(self) -> str | None:
        """Returns the champion's id, None before the first promotion."""
        head = self.log.head()
        return None if head is None else head.entry

    def history(self) -> list[Change]:
        """Returns every change of the champion, the oldest first."""
        return self.log.history()

    def promote(self, entry: str, *, against: str | None, who: str, why: str) -> Change:
        """Makes an entry the champion in place of the one that it was compared with.

        Raises:
            StaleError: that one is not the champion any more, or the entry has been champion and was replaced since.
            RegistryError: the entry is not whole.
        """
        self.verify(entry)
        while True:
            history = self.history()
            head = history[-1] if history else None
            if head is not None and head.entry == entry:
                return head  # the writer was killed after recording it
            if any(change.entry == entry for change in history):
                raise StaleError(
                    f"{entry[:SHORT]} was champion of {self.url} and was replaced since; rollback makes it the "
                    "champion again"
                )
            champion = None if head is None else head.entry
            if champion != against:
                raise StaleError(
                    f"{entry[:SHORT]} was compared with {_name(against)}, but the champion of {self.url} is now "
                    f"{_name(champion)}; it was not promoted. Start another run, which will be compared with that one"
                )
            self.require_writable()
            if (made := self.log.append(head, "promoted", entry, who, why)) is not None:
                return made

    def roll_back(self, entry: str, *, who: str, why: str) -> Change:
        """Makes an entry the champion, whichever is now.

        Raises:
            RegistryError: it is the champion already, or not whole.
        """
        self.verify(entry)
        while True:
            head = self.log.head()
            if head is None:
                raise RegistryError(f"{self.url} has no champion, so there is nothing to roll back; promote one")
            if head.entry == entry:
                raise RegistryError(f"{entry[:SHORT]} is the champion of {self.url} already")
            self.require_writable()
            if (made := self.log.append(head, "rolled back", entry, who, why)) is not None:
                return made

    # Entries

    def entries(self) -> list[str]:
        """Returns the ids of all whole entries, also of those that never were champion."""
        found = [name for name in self._store.names("entries") if _ID.match(name)]
        return [name for name in found if self._store.read(f"entries/{name}/entry.json") is not None]

    def find(self, prefix: str) -> str:
        """Returns the id that begins so.

        Raises:
            RegistryError: there is none, or more than one.
        """
        entries = self.entries()
        found = [entry for entry in entries if prefix and entry.startswith(prefix)]
        if len(found) != 1:
            what = f"{len(found)} entries begin with" if found else "no entry begins with"
            known = ", ".join(entry[:SHORT] for entry in (found or entries)) or "none"
            raise RegistryError(f"{what} {prefix!r} in {self.url}; there are: {known}")
        return found[0]

    def entry(self, entry: str) -> Entry:
        """Returns what an entry says of its policy.

        Raises:
            RegistryError: there is none, or it is not what its id stands for.
        """
        name = f"entries/{entry}/entry.json"
        data = self._store.read(name) if _ID.match(entry) else None
        if data is None:
            raise RegistryError(f"{self.url} has no entry {entry!r}")
        if (found := hashlib.sha256(data).hexdigest()) != entry:
            raise RegistryError(
                f"{self._store.address(name)} has the digest {found[:SHORT]}: it was changed or damaged"
            )
        return from_json(Entry, data, self._store.address(name))

    def policy(self, entry: str) -> str:
        """Returns the path or URL of an entry's policy folder."""
        return self._store.address(f"entries/{entry}/policy")

    def add(
        self,
        folder: Path,
        *,
        parent: str | None,
        made: datetime,
        versions: Mapping[str, str],
        evidence: Mapping[str, BaseModel],
    ) -> str:
        """Puts a policy and its evidence into the registry, without making it the champion, and returns its id.

        The same policy with the same evidence is the same entry, however often and by however many it is added.

        Args:
            folder: a checkpoint.
            parent: id of the champion that it was trained from and compared with.
            made: when its run was started.
        """
        self.require_writable()
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        files = {}
        for name, path in paths.items():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[name] = FileRecord(sha256=digest, bytes=path.stat().st_size)
        entry = Entry(
            files=files,
            parent=parent,
            made=made,
            versions=dict(versions),
            evidence={name: record.model_dump(mode="json") for name, record in evidence.items()},
        )
        data = to_json(entry)
        identity = hashlib.sha256(data).hexdigest()
        if self._store.read(f"entries/{identity}/entry.json") is None:
            for name, path in paths.items():
                self._store.upload(f"entries/{identity}/policy/{name}", path)
            self._store.write(f"entries/{identity}/entry.json", data)
        return identity

    def verify(self, entry: str) -> None:
        """Reads every file of an entry's policy and compares it with the entry.

        Raises:
            RegistryError: one is missing or not what it was.
        """
        for name, file in self.entry(entry).files.items():
            for _ in self._pieces(entry, name, file):
                pass

    def fetch(self, entry: str, folder: Path) -> Path:
        """Copies an entry's policy into a new local folder, which is there only when it is whole.

        Raises:
            RegistryError: the folder exists, or a file is missing or not what it was.
        """
        if folder.exists():
            raise RegistryError(f"{folder} exists; name a folder that does not")
        files = self.entry(entry).files
        partial = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
        try:
            for name, file in files.items():
                path = partial / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as target:
                    target.writelines(self._pieces(entry, name, file))
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return folder

    def _pieces(self, entry: str, name: str, file: FileRecord) -> Iterator[bytes]:
        """Yields a file of a policy, and fails at its end if it is not the one of the entry."""
        place = f"entries/{entry}/policy/{name}"
        digest, size = hashlib.sha256(), 0
        try:
            for piece in self._store.stream(place):
                digest.update(piece)
                size += len(piece)
                yield piece
        except FileNotFoundError:
            raise RegistryError(f"{self._store.address(place)} is missing, although its entry names it") from None
        if digest.hexdigest() != file.sha256:
            raise RegistryError(
                f"{self._store.address(place)} is not what it was: {size} bytes instead of {file.bytes}, digest "
                f"{digest.hexdigest()[:SHORT]} instead of {file.sha256[:SHORT]}; roll back to another entry"
            )

    # What champions reached later

    def keep_evaluation(self, entry: str, when: datetime, summary: list[str], reports: list[EvalReport]) -> str:
        """Keeps an evaluation beside its entry, and returns its address; the same one again replaces itself."""
        name = f"evaluations/{entry}/{when.astimezone(UTC):%Y%m%dT%H%M%SZ}.json"
        kept = LaterEvaluation(
            entry=entry, when=when, summary=summary, reports=[report.model_dump(mode="json") for report in reports]
        )
        self._store.write(name, to_json(kept))
        return self._store.address(name)

    def evaluations(self) -> list[LaterEvaluation]:
        """Returns what champions reached later, the oldest first."""
        names = [
            f"evaluations/{entry}/{name}"
            for entry in self._store.names("evaluations")
            for name in self._store.names(f"evaluations/{entry}")
        ]
        found = [read(self._store, LaterEvaluation, name) for name in names]
        return sorted((one for one in found if one is not None), key=lambda one: one.when)


def _name(entry: str | None) -> str:
    return "an empty registry" if entry is None else entry[:SHORT]
