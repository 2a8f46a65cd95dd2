"""The kinds of problem that a policy can train on: a row or a seed comes in; problems, prompts and verdicts go out.

Each domain has a file and is chosen here by its name. Read `base` first, then `countdown`.
"""

from typing import Annotated, Self

from pydantic import ConfigDict, RootModel, Tag, model_validator

from tasks.gdsd.domains import custom
from tasks.gdsd.domains.base import Answer, Domain, Problem, Verdict
from tasks.gdsd.domains.code import Code, CodeConfig
from tasks.gdsd.domains.countdown import Countdown, CountdownConfig
from tasks.gdsd.domains.custom import CustomConfig
from tasks.gdsd.domains.gsm8k import Gsm8k, Gsm8kConfig
from tasks.gdsd.domains.math import Math, MathConfig
from tasks.gdsd.domains.service import Service, ServiceConfig
from tasks.gdsd.domains.sudoku import Sudoku, SudokuConfig
from tasks.gdsd.strict import StrictJson, by_name

__all__ = ["Answer", "Domain", "DomainChoice", "Problem", "Verdict", "make", "require_as_imported"]


Configuration = Annotated[
    Annotated[SudokuConfig, Tag("sudoku")]
    | Annotated[CountdownConfig, Tag("countdown")]
    | Annotated[Gsm8kConfig, Tag("gsm8k")]
    | Annotated[MathConfig, Tag("math")]
    | Annotated[CodeConfig, Tag("code")]
    | Annotated[ServiceConfig, Tag("service")]
    | Annotated[CustomConfig, Tag("custom")],
    by_name("sudoku"),
]


class DomainChoice(RootModel[Configuration], StrictJson):
    """One of the domains with its options: what is asked, in which words, and what an answer is worth."""

    model_config = ConfigDict(frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    @property
    def name(self) -> str:
        """The domain's name, for a user's own its path."""
        return self.root.path if isinstance(self.root, CustomConfig) else self.root.name

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each part of the reward; the domain's own where none are configured."""
        parts = make(self).parts
        return {
            part: self.root.weights.get(part, 0.0) if self.root.weights else weight for part, weight in parts.items()
        }

    def rule(self) -> Self:
        """Returns what decides problems and verdicts, by which the cache knows results: not how a server is asked."""
        return self.model_copy(update={"root": self.root.rule()})

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = make(self).parts
        if unknown := sorted(set(self.root.weights) - set(parts)):
            raise ValueError(f"weights has {', '.join(unknown)}, but the reward's parts are {', '.join(parts)}")
        if not any((self.root.weights or parts).values()):
            raise ValueError("weights are all 0, so that no answer is better than another; give a part some weight")
        return self


def make(choice: DomainChoice) -> Domain:
    """Returns the domain of a configuration."""
    match choice.root:
        case SudokuConfig() as config:
            return Sudoku(config)
        case CountdownConfig() as config:
            return Countdown(config)
        case Gsm8kConfig() as config:
            return Gsm8k(config)
        case MathConfig() as config:
            return Math(config)
        case CodeConfig() as config:
            return Code(config)
        case ServiceConfig() as config:
            return Service(config)
        case CustomConfig() as config:
            return custom.make(config)


def require_as_imported(choice: DomainChoice) -> None:
    """Refuses a domain of a person's own whose code cannot be used as this process has imported it.

    Raises:
        ConfigError: see `custom.require_as_imported`.
    """
    if isinstance(choice.root, CustomConfig):
        custom.require_as_imported(choice.root)
