"""How each night ended, beside the log: also those that changed nothing, so that it is seen when none has ended."""

from datetime import UTC

from tasks.gdsd.registry.kept import Night, read, to_json
from tasks.gdsd.registry.store import Store


class Nights:
    """The nights in a store, by the time that each was due."""

    def __init__(self, store: Store):
        self._store = store

    def keep(self, night: Night) -> None:
        """Keeps how a night ended; the same one again replaces itself."""
        self._store.write(f"nights/{night.due.astimezone(UTC):%Y%m%dT%H%M%SZ}.json", to_json(night))

    def all(self) -> list[Night]:
        """Returns every night that has ended, the one that ended last at the end."""
        found = [read(self._store, Night, f"nights/{name}") for name in self._store.names("nights")]
        return sorted((one for one in found if one is not None), key=lambda night: night.ended)
