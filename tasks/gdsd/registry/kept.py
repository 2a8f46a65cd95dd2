"""What the registry keeps as JSON: entries, changes of the champion, later evaluations, and how nights ended."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal, TypeVar

from pydantic import JsonValue, StringConstraints, ValidationError, field_validator

from tasks.gdsd.errors import RegistryError
from tasks.gdsd.records import Estimate, Record
from tasks.gdsd.registry.store import Store

AT_ONCE = 16  # files that are read; an object store takes its time for each of a year of nights
SHORT = 12  # characters of an id where people read it
Id = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Kept = TypeVar("Kept", bound=Record)


class FileRecord(Record):
    """A file of a policy."""

    sha256: str
    bytes: int


class Origin(Record):
    """The run of `retrain` that an entry comes from. The entry's time and this experiment say which night it was."""

    experiment: str  # name of its configuration
    gain: Estimate  # of the share of solved test problems
    reward: Estimate | None = None  # its gain on them; None in an entry of an earlier version
    reason: str  # of the gate


class Run(Record):
    """Where an entry's run left what it has: beside the entry, since two runs of a night make the same one."""

    format: Literal[1] = 1
    folder: str  # path or URL, which may be gone since


class Entry(Record):
    """A policy in the registry, and what speaks for it."""

    format: Literal[1] = 1
    files: dict[str, FileRecord]  # by their names in the policy's folder
    parent: str | None  # id of the champion that it was trained from and compared with; None for the first one
    made: datetime  # when its run was due
    origin: Origin | None = None  # None in an entry of an earlier version
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
    follows: str | None = None  # SHA-256 of the record before; None in the first one, and in those of earlier versions
    action: Literal["promoted", "rolled back"]
    entry: Id
    previous: str | None  # the champion before; None for the first one
    who: str
    why: str
    when: datetime
    nonce: str  # by which a writer knows its own record

    def is_over_a_hole(self) -> bool:
        """Whether the record before was lost already when this one was made: only a rollback goes over it."""
        return self.sequence > 1 and self.previous is None


class LaterEvaluation(Record):
    """What an entry reached after its promotion."""

    format: Literal[1] = 1
    entry: str
    when: datetime
    summary: list[str]
    reports: list[JsonValue]  # as they were then


class Night(Record):
    """How a run of `retrain` ended, whether or not it changed the champion."""

    format: Literal[1] = 1
    experiment: str | None = None  # None in a night of an earlier version
    due: datetime
    ended: datetime
    who: str
    promoted: bool
    champion: str | None  # afterwards
    gain: Estimate  # of the share of solved test problems over the champion before, or the first base
    reward: Estimate | None = None  # its gain likewise; None in a night of an earlier version
    reason: str  # of the gate

    def outcome(self) -> str:
        """Says whether its policy was promoted, and by how much it solves more and gets more reward."""
        now = "there is no champion yet" if self.champion is None else f"champion {self.champion[:SHORT]}"
        verb = "promoted" if self.promoted else "not promoted"
        reward = "" if self.reward is None else f", {self.reward.signed()} reward"
        return f"{verb}, {self.gain.points()} points of solved test problems{reward}; {now}"


def to_json(record: Record) -> bytes:
    """Returns a record as it is kept."""
    return (record.model_dump_json(indent=2) + "\n").encode()


def from_json(kind: type[Kept], data: bytes, address: str) -> Kept:
    """Reads what was kept at an address.

    Raises:
        RegistryError: it is not whole, or another version has written it; whoever reads it knows what can be done.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        found = error.errors()[0]
        if found["type"] == "json_invalid":
            raise RegistryError(f"{address} is damaged: its {len(data)} bytes are no whole JSON") from None
        place = ".".join(map(str, found["loc"]))
        raise RegistryError(
            f"{address} was written by another version of this project, or changed by hand ({place}: {found['msg']})"
        ) from None


def read(store: Store, kind: type[Kept], name: str) -> Kept | None:
    """Returns what is kept under a name and nothing else depends on, None where nothing is."""
    data = store.read(name)
    try:
        return None if data is None else from_json(kind, data, store.address(name))
    except RegistryError as error:
        raise RegistryError(
            f"{error}; bring the file back from a backup of the store, or remove it, since nothing else depends on it"
        ) from None


def read_all(store: Store, kind: type[Kept], names: Iterable[str]) -> tuple[list[Kept], list[str]]:
    """Returns what is kept under names and nothing else depends on, and what is wrong with the others, in words."""

    def read_or_say(name: str) -> Kept | str | None:
        try:
            return read(store, kind, name)
        except RegistryError as error:
            return str(error)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(read_or_say, names))
    return [one for one in found if isinstance(one, kind)], [one for one in found if isinstance(one, str)]
