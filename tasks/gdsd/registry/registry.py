"""A registry of promoted policies, in a folder or an object store.

    registry.json            the format; written once
    entries/<id>/policy/     a checkpoint as it was promoted, which `evaluate` takes too
    entries/<id>/entry.json  its files with their digests, and what speaks for it; written last
    log/<8 digits>.json      one change of the champion each: who, when, why, and from which to which
    entries/<id>/run.json    the folder of the run that made it
    entries/<id>/log/        copies of the log's records that made this entry the champion
    evaluations/<id>/        what a champion reached later
    nights/<time>-<experiment>.json  how each night ended, also where it changed nothing

What it guarantees, whoever writes at the same time and whenever a writer is killed:

1. An id is the SHA-256 of entry.json, which has the SHA-256 of every file: an id names a policy and its evidence, and
   neither can change under it. What is read is compared with them.
2. An entry without entry.json is not there. Writing it again completes it. A night whose entry is there is that entry.
3. The champion is what the log's last record names. A record is created only where there is none, so that records are
   never overwritten or out of order: of two changes at once one comes first, and the other sees it. A record that
   somebody else has deleted or damaged is found, and read from its copy.
4. A policy is promoted only in place of the champion that it was compared with. Where another one has come, the policy
   is stale, and refused. A promotion that was recorded is not recorded again, whatever came after it.
5. Nothing is deleted. `roll_back` makes any entry the champion again, by a further record.

The evidence is kept as it was written. It is never read as today's records, which may have changed since.
"""

import hashlib
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel

from tasks.gdsd.errors import RegistryError, StaleError
from tasks.gdsd.registry.evaluations import Evaluations
from tasks.gdsd.registry.kept import SHORT, Change, Entry, FileRecord, Origin, Run, from_json, read, to_json
from tasks.gdsd.registry.log import Log
from tasks.gdsd.registry.nights import Nights
from tasks.gdsd.registry.store import Store

logger = logging.getLogger(__name__)

MARKER, MARK = "registry.json", b'{"format": 1}\n'
_ENTRY = re.compile(r"^entries/([0-9a-f]{64})/entry\.json$")


class Registry:
    """The registry at a path or URL.

    Args:
        url: see `Store`.
        options: see `Store`.
    """

    def __init__(self, url: str, options: Mapping[str, object] | None = None):
        self._store = Store(url, options)
        self.url = self._store.url
        self.log, self.nights, self.evaluations = Log(self._store), Nights(self._store), Evaluations(self._store)

    def require_writable(self) -> None:
        """Makes sure that this registry can be written to as it promises; the first call makes one.

        Raises:
            RegistryError: it cannot.
        """
        self._store.require_exclusive(MARKER, MARK)

    def exists(self) -> bool:
        """Says whether anybody has begun a registry here."""
        return self._store.read(MARKER) is not None or bool(self._store.names("entries"))

    # The champion

    def champion(self) -> str | None:
        """Returns the champion's id, None before the first promotion."""
        head = self.log.head()
        return None if head is None else head.entry

    def history(self) -> list[Change]:
        """Returns every change of the champion that is known, the oldest first."""
        return self.log.history()

    def promote(self, entry: str, *, against: str | None, who: str, why: str) -> Change:
        """Makes an entry the champion in place of the one that it was compared with.

        An entry that was made the champion before, by a writer that was killed, is left where it is now.

        Raises:
            StaleError: that one is not the champion any more.
            RegistryError: the entry is not whole, or the champion is not known.
        """
        while True:
            places = self.log.places()
            changes = [place.change for place in places if place.change is not None]
            if (before := next((change for change in changes if change.entry == entry), None)) is not None:
                self.log.copy()
                return before
            end = places[-1] if places else None
            head = self.log.known(end)
            champion = None if head is None else head.entry
            if champion != against:
                raise StaleError(
                    f"{entry[:SHORT]} was compared with {_name(against)}, but the champion of {self.url} is now "
                    f"{_name(champion)}; it was not promoted. {StaleError.REMEDY}, which will be compared "
                    "with that one"
                )
            self.verify(entry)
            self.require_writable()
            if (made := self.log.append(end, "promoted", entry, who, why)) is not None:
                return made

    def roll_back(self, entry: str, *, who: str, why: str) -> Change:
        """Makes an entry the champion, whichever is now, also where the log that says so is lost.

        Raises:
            RegistryError: it is the champion already, or not whole.
        """
        self.verify(entry)
        while True:
            end = self.log.end()
            if end is not None and end.change is not None and end.change.entry == entry:
                raise RegistryError(f"{entry[:SHORT]} is the champion of {self.url} already")
            self.require_writable()
            if (made := self.log.append(end, "rolled back", entry, who, why)) is not None:
                return made

    # Entries

    def entries(self) -> list[str]:
        """Returns the ids of all whole entries, also of those that never were champion."""
        return [found[1] for name in self._store.files("entries") if (found := _ENTRY.match(name))]

    def of_night(self, experiment: str, due: datetime) -> str | None:
        """Returns the entry that a night of an experiment has made, None where there is none.

        Two runs of one night at once may have made two. Then it is the one that became champion, if any did.
        """
        made = []
        for identity in self.entries():
            try:
                entry = self.entry(identity)
            except RegistryError as error:  # of another night, as good as surely, which must not end this one
                logger.warning("an entry is passed over: %s", error)
                continue
            if entry.origin is not None and (entry.origin.experiment, entry.made) == (experiment, due):
                made.append(identity)
        champions = [change.entry for change in self.history() if change.entry in made] if made else []
        return next(iter([*champions, *made]), None)

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
        if not _ENTRY.match(name):
            raise RegistryError(f"{self.url} has no entry {entry!r}")
        if (data := self._store.read(name)) is None:
            raise RegistryError(f"{self._store.address(name)} is missing; {_remedy(self, entry)}")
        if (found := hashlib.sha256(data).hexdigest()) != entry:
            raise RegistryError(
                f"{self._store.address(name)} has the digest {found[:SHORT]}: it was changed or damaged; "
                f"{_remedy(self, entry)}"
            )
        try:
            return from_json(Entry, data, self._store.address(name))
        except RegistryError as error:
            raise RegistryError(f"{error}; use the version that wrote it") from None

    def policy(self, entry: str) -> str:
        """Returns the path or URL of an entry's policy folder."""
        return self._store.address(f"entries/{entry}/policy")

    def run_folder(self, entry: str) -> str | None:
        """Returns the path or URL of the folder of an entry's run, None where that was not kept or is damaged."""
        try:
            run = read(self._store, Run, f"entries/{entry}/run.json")
        except RegistryError as error:  # which must not end a night that is promoted
            logger.warning("it is not known where a run's folder is: %s", error)
            return None
        return None if run is None else run.folder

    def add(
        self,
        folder: Path,
        *,
        parent: str | None,
        made: datetime,
        origin: Origin,
        run: str,
        versions: Mapping[str, str],
        evidence: Mapping[str, BaseModel],
    ) -> str:
        """Puts a policy and its evidence into the registry, without making it the champion, and returns its id.

        The same policy with the same evidence is the same entry, however often and by however many runs it is added.

        Args:
            folder: a checkpoint.
            parent: id of the champion that it was trained from and compared with.
            made: when its run was due.
            run: path or URL of its run's folder.
        """
        self.require_writable()
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        entry = Entry(
            files={name: _record(path) for name, path in paths.items()},
            parent=parent,
            made=made,
            origin=origin,
            versions=dict(versions),
            evidence={name: record.model_dump(mode="json") for name, record in evidence.items()},
        )
        data = to_json(entry)
        identity = hashlib.sha256(data).hexdigest()
        if self._store.read(f"entries/{identity}/entry.json") is None:
            for name, path in paths.items():
                self._store.upload(f"entries/{identity}/policy/{name}", path)
            self._store.write(f"entries/{identity}/run.json", to_json(Run(folder=run)))
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
            RegistryError: the folder exists or cannot be written, or a file is missing or not what it was.
        """
        files = self.entry(entry).files
        partial = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
        try:
            if folder.exists():
                raise RegistryError(f"{folder} exists; name a folder that does not")
            for name, file in files.items():
                path = partial / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as target:
                    target.writelines(self._pieces(entry, name, file))
            os.rename(partial, folder)
        except OSError as error:
            size = sum(file.bytes for file in files.values())
            raise RegistryError(
                f"{entry[:SHORT]} of {self.url} cannot be copied to {folder} ({type(error).__name__}: {error}); name a "
                f"new folder where you may write, on a disk with room for its {size:,} bytes"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
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
            raise _missing(self, entry, name) from None
        if digest.hexdigest() != file.sha256:
            raise RegistryError(
                f"{self._store.address(place)} is not what it was: {size} bytes instead of {file.bytes}, digest "
                f"{digest.hexdigest()[:SHORT]} instead of {file.sha256[:SHORT]}; {_remedy(self, entry)}"
            )


def require_files(registry: Registry, entry: str) -> None:
    """Makes sure that an entry's policy has all its files, which are not read.

    Raises:
        RegistryError: one is missing, or the entry is not whole.
    """
    there = set(registry._store.files(f"entries/{entry}/policy"))
    for name in registry.entry(entry).files:
        if f"entries/{entry}/policy/{name}" not in there:
            raise _missing(registry, entry, name)


def _name(entry: str | None) -> str:
    return "an empty registry" if entry is None else entry[:SHORT]


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        return FileRecord(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)


def _missing(registry: Registry, entry: str, name: str) -> RegistryError:
    address = registry._store.address(f"entries/{entry}/policy/{name}")
    return RegistryError(f"{address} is missing, although its entry names it; {_remedy(registry, entry)}")


def _remedy(registry: Registry, damaged: str) -> str:
    """Says what can be done about an entry that is not whole."""
    others = ", ".join(entry[:SHORT] for entry in registry.entries() if entry != damaged)
    other = f"roll back to another entry, of {others}" if others else "begin a registry at another address"
    return f"bring the file back from a backup of the store, or {other}"
