"""Domains of tests' own, of which only the verdict is of interest."""

from collections.abc import Mapping
from typing import ClassVar

from tasks.gdsd.domains import Answer, Domain, DomainChoice, Problem


class Scripted(Domain):
    """A domain that takes any text for a problem; what is derived from it says what answers are worth."""

    columns: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[Answer] = Answer("1", "1", "1")

    def read(self, row: Mapping[str, object]) -> Problem:
        raise NotImplementedError

    def phrase(self, problem: str) -> str:
        return problem

    def fault(self, problem: str, reference: str) -> str | None:
        return None


def choice(kind: type[Domain], **weights: float) -> DomainChoice:
    """Chooses a domain as a configuration does, by where its class is."""
    path = f"{kind.__module__}:{kind.__name__}"
    return DomainChoice.model_validate({"name": "custom", "path": path, "weights": weights})
