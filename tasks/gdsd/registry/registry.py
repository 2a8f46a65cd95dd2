"""A registry of promoted policies, in a folder or an object store.

    registry.json            the format; written once
    entries/<id>/policy/     a checkpoint as it was promoted, which `evaluate` scores too
    entries/<id>/entry.json  its files with their digests, and what speaks for it; written last
    log/<8 digits>.json      one change of the champion each: who, when, why, and from which to which
    evaluations/<id>/        what a champion reached later

What it guarantees, whoever writes at the same time and whenever a writer is killed:

1. An id is the SHA-256 of entry.json, which has the SHA-256 of every file: an id names a policy and its evidence, and
   neither can change under it. What is read is compared with them.
2. An entry without entry.json is not there. Writing it again completes it.
3. The champion is what the log's last record names. A record is created only where there is none, so that records are
   never lost, overwritten or out of order: of two changes at once one comes first, and the other sees it.
4. A policy is promoted only in place of the champion that it was judged against. Where another one has come, it is
   stale, and refused. A promotion that was recorded is not recorded twice.
5. Nothing is deleted. `roll_back` makes any entry the champion again, by a further record.

The evidence is kept as it was written, and never read as today's records: they may have changed since.
"""

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError, field_validator

from tasks.gdsd.errors import RegistryError, StaleError
from tasks.gdsd.records import EvalReport, Record
from tasks.gdsd.registry.store import Store

MARKER, MARK = "registry.json", b'{"format": 1}\n'
SHORT = 12  # characters of an id where people read it
_ID, _RECORD = re.compile(r"^[0-9a-f]{64}$"), re.compile(r"^[0-9]{8}\.json$")


class FileRecord(Record):
    """A file of a policy."""

    sha256: str
    bytes: int


class Entry(Record):
    """A policy in the registry, and what speaks for it."""

    format: Literal[1] = 1
    files: dict[str, FileRecord]  # by their names in the policy's folder
    parent: str | None  # id of the champion that it was trained from and judged against; None for the first one
    made: datetime  # when its run was started
    versions: dict[str, str]  # of the libraries that its weights depend on
    evidence: dict[str, JsonValue]  # as it was then: decision, base and trained reports, config

    @field_validator("files")
    @classmethod
    def _check_names(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or not path.parts or ".." in path.parts or str(path) != name:
                raise ValueError(f"{name!r} leads out of the policy's folder")
        return files


class Change(Record):
    """A record of the log: one change of the champion."""

    format: Literal[1] = 1
    sequence: int
    action: Literal["promoted", "rolled back"]
    entry: str
    previous: str | None  # the champion before; None for the first one
    who: str
    why: str
    when: datetime
    nonce: str  # by which a writer knows its own record


class LaterEvaluation(Record):
    """What an entry reached after its promotion."""

    format: Literal[1] = 1
    entry: str
    when: datetime
    summary: list[str]
    reports: list[JsonValue]  # as they were then


Model = TypeVar("Model", bound=BaseModel)


class Registry:
    """The registry at a path or URL.

    Args:
        url: see `Store`.
        options: see `Store`.
    """

    def __init__(self, url: str, options: Mapping[str, object] | None = None):
        self._store = Store(url, options)
        self.url = self._store.url

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

    # The log

    def head(self) -> Change | None:
        """Returns the last change, which names the champion; None before the first one."""
        sequence = max(self._sequences(), default=0)
        change = self._change(sequence) if sequence else None
        # A store may list late what it has, but it never denies a name.
        while (later := self._change(sequence + 1)) is not None:
            change, sequence = later, sequence + 1
        if sequence and change is None:
            raise RegistryError(f"{self._store.address(_log(sequence))} was listed, but cannot be read; try again")
        return change

    def champion(self) -> str | None:
        """Returns the champion's id, None before the first promotion."""
        head = self.head()
        return None if head is None else head.entry

    def history(self) -> list[Change]:
        """Returns every change, the oldest first."""
        head = self.head()
        changes = [self._change(sequence) for sequence in range(1, 1 + (0 if head is None else head.sequence))]
        missing = [sequence for sequence, change in enumerate(changes, 1) if change is None]
        if missing:
            raise RegistryError(f"{self.url} lacks records {missing} of its log, which nothing here deletes")
        return [change for change in changes if change is not None]

    def promote(self, entry: str, *, against: str | None, who: str, why: str) -> Change:
        """Makes an entry the champion in place of the one that it was judged against.

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
                    f"{entry[:SHORT]} was judged against {_name(against)}, but the champion of {self.url} is now "
                    f"{_name(champion)}; it was not promoted. Start another run, which will be judged against that one"
                )
            if (made := self._append(head, "promoted", entry, who, why)) is not None:
                return made

    def roll_back(self, entry: str, *, who: str, why: str) -> Change:
        """Makes an entry the champion, whichever is now.

        Raises:
            RegistryError: it is the champion already, or not whole.
        """
        self.verify(entry)
        while True:
            head = self.head()
            if head is None:
                raise RegistryError(f"{self.url} has no champion, so there is nothing to roll back; promote one")
            if head.entry == entry:
                raise RegistryError(f"{entry[:SHORT]} is the champion of {self.url} already")
            if (made := self._append(head, "rolled back", entry, who, why)) is not None:
                return made

    def _append(
        self, head: Change | None, action: Literal["promoted", "rolled back"], entry: str, who: str, why: str
    ) -> Change | None:
        """Adds a record behind the last one, and returns it; None where somebody else has been faster."""
        self.require_writable()
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
        if self._store.create(_log(change.sequence), _json(change)) or self._change(change.sequence) == change:
            return change
        return None

    def _sequences(self) -> list[int]:
        return [int(name[:8]) for name in self._store.names("log") if _RECORD.match(name)]

    def _change(self, sequence: int) -> Change | None:
        return self._read(Change, _log(sequence))

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
        return _parse(Entry, data, self._store.address(name))

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
            parent: id of the champion that it was trained from and judged against.
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
        data = _json(entry)
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
        self._store.write(name, _json(kept))
        return self._store.address(name)

    def evaluations(self) -> list[LaterEvaluation]:
        """Returns what champions reached later, the oldest first."""
        names = [
            f"evaluations/{entry}/{name}"
            for entry in self._store.names("evaluations")
            for name in self._store.names(f"evaluations/{entry}")
        ]
        found = [self._read(LaterEvaluation, name) for name in names]
        return sorted((one for one in found if one is not None), key=lambda one: one.when)

    def _read(self, model: type[Model], name: str) -> Model | None:
        data = self._store.read(name)
        return None if data is None else _parse(model, data, self._store.address(name))


def _log(sequence: int) -> str:
    return f"log/{sequence:08d}.json"


def _name(entry: str | None) -> str:
    return "an empty registry" if entry is None else entry[:SHORT]


def _json(record: Record) -> bytes:
    return (record.model_dump_json(indent=2) + "\n").encode()


def _parse(model: type[Model], data: bytes, address: str) -> Model:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise RegistryError(f"{address} cannot be read by this version: {error}") from error
