"""What champions reached after their promotion, beside their entries."""

import re
from datetime import UTC, datetime

from tasks.gdsd.records import EvalReport
from tasks.gdsd.registry.kept import LaterEvaluation, read_all, to_json
from tasks.gdsd.registry.store import Store

_NAME = re.compile(r"^evaluations/[0-9a-f]{64}/[0-9]{8}T[0-9]{6}Z\.json$")


class Evaluations:
    """The later evaluations in a store, by entry and time."""

    def __init__(self, store: Store):
        self._store = store

    def keep(self, entry: str, when: datetime, summary: list[str], reports: list[EvalReport]) -> str:
        """Keeps an evaluation, and returns its address; the same one again replaces itself."""
        name = f"evaluations/{entry}/{when.astimezone(UTC):%Y%m%dT%H%M%SZ}.json"
        kept = LaterEvaluation(
            entry=entry, when=when, summary=summary, reports=[report.model_dump(mode="json") for report in reports]
        )
        self._store.write(name, to_json(kept))
        return self._store.address(name)

    def all(self) -> list[LaterEvaluation]:
        """Returns every evaluation, the oldest first; damaged files are passed over."""
        return sorted(self._read()[0], key=lambda one: one.when)

    def damage(self) -> list[str]:
        """Returns what is wrong with each file that is damaged, and what can be done."""
        return self._read()[1]

    def _read(self) -> tuple[list[LaterEvaluation], list[str]]:
        names = [name for name in self._store.files("evaluations") if _NAME.match(name)]
        return read_all(self._store, LaterEvaluation, names)
