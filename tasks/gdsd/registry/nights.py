"""How each night ended, beside the log: also those that changed nothing, so that it is seen when none has ended."""

import re
from datetime import UTC

from tasks.gdsd.registry.kept import Night, read_all, to_json
from tasks.gdsd.registry.store import Store

_NAME = re.compile(r"^[0-9]{8}T[0-9]{6}Z(-.+)?\.json$")  # an earlier version wrote the time alone


class Nights:
    """The nights in a store, by the time that each was due and its experiment."""

    def __init__(self, store: Store):
        self._store = store

    def keep(self, night: Night) -> None:
        """Keeps how a night ended; the same one again replaces itself."""
        self._store.write(f"nights/{night.due.astimezone(UTC):%Y%m%dT%H%M%SZ}-{night.experiment}.json", to_json(night))

    def all(self) -> list[Night]:
        """Returns every night that has ended, the one that ended last at the end; damaged files are passed over."""
        return sorted(self._read()[0], key=lambda night: night.ended)

    def damage(self) -> list[str]:
        """Returns what is wrong with each file that is damaged, and what can be done."""
        return self._read()[1]

    def _read(self) -> tuple[list[Night], list[str]]:
        names = [f"nights/{name}" for name in self._store.names("nights") if _NAME.match(name)]
        return read_all(self._store, Night, names)
