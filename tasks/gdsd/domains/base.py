"""What every domain provides."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tasks.gdsd.config import PromptConfig


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of one answer; None where it cannot judge, which is never the same as zero."""

    reward: float | None
    solved: bool | None


class Domain(Protocol):
    """Makes problems, phrases the prompt, and verifies an answer."""

    def problems(self, config: PromptConfig) -> Iterator[tuple[str, str]]:
        """Yields distinct (problem, reference) pairs, deterministic by `config.seed`."""

    def phrase(self, problem: str) -> str:
        """Returns the prompt that the policy reads."""

    def fault(self, problem: str, reference: str) -> str | None:
        """Says what is wrong with a problem from a file, or None."""

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        """Judges an answer; never raises, whatever the answer."""
