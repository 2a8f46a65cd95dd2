"""A reward model or a judge behind HTTP, chosen in the configuration alone; problems are read from data."""

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.gdsd.domains.base import Answer, Domain, DomainConfig, Problem, Remedies, Verdict
from tasks.gdsd.domains.service_servers import PLACEHOLDER, OpenaiConfig, PostConfig, Score, Server
from tasks.gdsd.errors import DataError

__all__ = ["OpenaiConfig", "PostConfig", "RewardService", "Service", "ServiceConfig"]


class ServiceConfig(DomainConfig):
    """Problems read from data, whose answers a server scores: a reward model, or a judge."""

    name: Literal["service"] = "service"
    server: Server = Field(description="the server that scores answers, chosen by its `name`")
    prompt: str = Field(
        "{problem}",
        max_length=100_000,
        description="what the policy is asked; {problem} stands for the problem, and all else is taken as it is",
    )
    solved_from: float | None = Field(
        None,
        description="score of the server, between its low and high, from which a problem is solved; null: none is, so "
        "that rounds are chosen by the reward, and the gate promotes nothing",
    )
    reference_is_answer: bool = Field(
        True,
        description="whether a reference, where there is one, is a right answer: then the check of verdicts has it "
        "scored, and a tiny policy can be warm-started by it",
    )
    varies: bool = Field(
        False,
        description="whether scores may differ when they are asked for again; else the check of verdicts refuses a "
        "server whose scores do",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "{problem}" not in self.prompt:
            raise ValueError("prompt has no {problem}, so that the policy would not see what it is asked")
        if self.solved_from is not None and not self.server.low <= self.solved_from <= self.server.high:
            raise ValueError(
                f"solved_from {self.solved_from:g} is no score of the server's, which go from {self.server.low:g} to "
                f"{self.server.high:g}; choose one of these, or set server.low and server.high"
            )
        return self

    def rule(self) -> Self:
        """Returns the same, with a server that is asked in the default way."""
        return self.model_copy(update={"server": self.server.rule()})


class RewardService:
    """A server that scores answers, to be asked by a domain."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def scores(self, answers: Sequence[Answer]) -> list[Score]:
        """Returns the score of each answer, from 0 to 1 or None, in order.

        Raises:
            ServiceError: the server refuses all requests, or sends what is no score of this range, or its key is
                missing.
            SilentServiceError: it answered no request, and may later.
        """
        from tasks.gdsd.domains import service_client  # only here, since it imports an HTTP client

        return service_client.scores(self.server, answers)


class Service(Domain):
    """Problems of any kind whose answers a server scores.

    Part `score` is the server's score, scaled from its range to 0 to 1; None where it gave none.
    """

    parts = {"score": 1.0}
    columns = ("problem", "reference")
    optional = ("reference",)
    example = Answer("name a colour", "blue", "blue")
    reference_pattern = r"(?s)^.*$"
    reference_form = "a text"
    remedies = Remedies(
        right="a reference to each problem, where `reference_is_answer` is true",
        unsolved="lower `solved_from`, or set `reference_is_answer: false` if the references are no right answers",
        varying="set `varies: true` of the domain in the configuration, such as prompts.domain.varies, if the server "
        "cannot help it",
        unrewarded="A server gives a wrong answer its lowest score, and none only to what it cannot judge",
        slow="`server.parallel` is how many requests are sent at a time",
    )

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self.reference_is_answer = config.reference_is_answer
        self.solves = config.solved_from is not None
        self.varies = config.varies
        self.service = RewardService(config.server)

    def read(self, row: Mapping[str, object]) -> Problem:
        """Takes the problem, and the reference; where there is none, it is empty.

        Raises:
            DataError: one of them is no text.
        """
        reference = row.get("reference")
        found = {"problem": row.get("problem"), "reference": "" if reference is None else reference}
        for name, value in found.items():
            if not isinstance(value, str):
                raise DataError(f"{name} must be a text, not {value!r:.60}")
        return Problem(str(found["problem"]), str(found["reference"]))

    def phrase(self, problem: str) -> str:
        """Returns the configured prompt with the problem in it."""
        return self.config.prompt.replace("{problem}", problem)

    def fault(self, problem: str, reference: str) -> str | None:
        """Says what is wrong with a problem of a table, or None."""
        if not problem.strip():
            return "the problem is empty"
        server = self.config.server
        shown = isinstance(server, OpenaiConfig) and "reference" in PLACEHOLDER.findall(server.template)
        return "there is no reference, which server.template shows to the judge" if shown and not reference else None

    def solution(self, problem: str, reference: str) -> str | None:
        """Returns the reference, where it is an answer."""
        return reference if self.reference_is_answer and reference else None

    def verify(self, problem: str, reference: str, answer: str) -> Verdict:
        """Asks the server for the score of one answer.

        Raises:
            ServiceError: the server cannot be used.
        """
        return self.verify_all([Answer(problem, reference, answer)])[0]

    def verify_all(self, items: Sequence[Answer]) -> list[Verdict]:
        """Asks the server for the scores of all answers.

        Raises:
            ServiceError: the server cannot be used.
        """
        threshold = None if self.config.solved_from is None else self.config.server.scaled(self.config.solved_from)
        return [
            Verdict(
                parts={"score": score.value},
                solved=None if score.value is None else threshold is not None and score.value >= threshold,
                remark=score.remark,
            )
            for score in self.service.scores(items)
        ]
