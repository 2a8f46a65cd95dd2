"""The kinds of server that score answers: where one is, what it is asked, and how a score is read from its reply.

A reply is hostile, and so is an answer that a judge quotes: it is parsed strictly, in time linear in its length.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from tasks.gdsd.domains.base import SLACK, Answer
from tasks.gdsd.errors import ServiceError
from tasks.gdsd.strict import Config

ADDRESS = re.compile(r"https?://([\w.-]+|\[[\da-f:.]+\])(:\d+)?(/[\w.~-]*)*", re.ASCII)
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{2,99}")
PLACEHOLDER = re.compile(r"\{(\w+)\}")
SHOWN = ("problem", "reference", "answer")  # to a judge, by the placeholders of its template
OWN = ("model", "messages", "stream", "n")  # fields of a request that are not the user's
# Between a judge's mark and its number may stand markup, and behind the number what it is out of. A longer number, a
# range such as 7-8 and a number with letters are not read in part.
NUMBER = re.compile(
    r"[\s*_`]*(?P<number>[-+]?\d{1,9}(?:\.\d{1,9})?)(?:\s{0,3}/\s{0,3}(?P<whole>\d{1,9}))?"
    r"(?![^\W_]|[.,\u2013-]\d|\s{0,3}/\s{0,3}\d)",
    re.ASCII,
)
# Fields that say how a server is asked. They decide no score, so that the cache does not know results by them.
ASKING = ("key", "parallel", "attempts", "connect_seconds", "seconds", "minutes")
LONGEST = 200  # bytes of a reply that an error quotes


class Score(NamedTuple):
    """What a server said of an answer."""

    value: float | None  # from 0 to 1; None where it gave no score
    remark: str | None = None  # a judge's own words, or why there is no score


class Hidden:
    """A key that nobody is shown where a server sends it back, also with JSON's escapes and in JSON inside of JSON."""

    def __init__(self, key: str | None) -> None:
        each = (rf"\\{{0,3}}(?:{re.escape(letter)}|u00(?i:{ord(letter):02x}))" for letter in key or "")
        self.pattern = None if key is None else re.compile("".join(each))

    def text(self, said: str) -> str:
        """Returns a text without the key."""
        return said if self.pattern is None else self.pattern.sub("***", said)

    def beginning(self, reply: bytes) -> str:
        """Returns how a reply begins, for an error; the key is taken out before it is cut."""
        return repr(self.text(reply.decode("latin-1")).encode("latin-1")[:LONGEST])


class ServerConfig(Config):
    """Base of the kinds of server: where it is, what its numbers mean, and how long it is waited for."""

    name: str
    url: str = Field(description="http or https, host, port and path; a user, password or query in it is refused")
    key: str | None = Field(
        None,
        description="name of the environment variable that holds the server's key, such as GDSD_JUDGE_KEY; it is sent "
        "as `Authorization: Bearer`. null: no key is sent",
    )
    version: str | None = Field(
        None,
        max_length=100,
        description="a name for the rule or the model behind url, which the server is not told; a change asks anew for "
        "scores that the cache has",
    )
    low: float = Field(0.0, ge=-1e9, le=1e9, description="the server's lowest score, which is a reward of 0")
    high: float = Field(1.0, ge=-1e9, le=1e9, description="the server's highest score, which is a reward of 1")
    outside: Literal["refuse", "clip"] = Field(
        "refuse",
        description="scores beyond low and high. clip: they count as the nearer of the two; refuse: a program's stops "
        "the run, and a judge's is no score",
    )
    parallel: int = Field(8, ge=1, le=256, description="requests at a time")
    attempts: int = Field(
        4, ge=1, le=20, description="of a request that fails for a reason that may pass, with growing waits between"
    )
    connect_seconds: float = Field(10.0, gt=0, le=600, description="for a connection")
    seconds: float = Field(60.0, gt=0, le=3600, description="for a whole request, from its start to the reply's end")
    minutes: float = Field(
        60.0, gt=0, le=100, description="for all answers of a task; those without a score by then have none"
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        # The value is not shown: what is refused may be a key.
        if not ADDRESS.fullmatch(url) or len(url) > 500:
            raise ValueError(
                "this must be http:// or https://, a host, and if need be a port and a path, such as "
                "http://localhost:8000/v1. A user, password or query is refused, since the url is in every record of "
                "the run; key names the variable that holds a key"
            )
        _ = urlsplit(url).port  # which refuses one out of range
        return url.rstrip("/")

    @field_validator("key")
    @classmethod
    def _check_key(cls, key: str | None) -> str | None:
        if key is not None and not VARIABLE.fullmatch(key):
            raise ValueError(
                "this must be the name of an environment variable in capitals, such as GDSD_JUDGE_KEY, and never a key "
                "itself"
            )
        return key

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, but they are {self.low:g} and {self.high:g}")
        return self

    def rule(self) -> Self:
        """Returns what decides scores: the same server, asked in the default way."""
        return self.model_copy(update={name: type(self).model_fields[name].default for name in ASKING})

    def scaled(self, number: float) -> float | None:
        """Returns a number of the server as a reward from 0 to 1; None where it is out of range and refused."""
        value = (number - self.low) / (self.high - self.low)
        inside = -SLACK <= value <= 1 + SLACK
        return min(1.0, max(0.0, value)) if inside or self.outside == "clip" else None


class PostConfig(ServerConfig):
    """A program that takes several answers in a request and replies with a number for each."""

    name: Literal["post"] = "post"
    batch: int = Field(16, ge=1, le=4096, description="answers in a request")


class OpenaiConfig(ServerConfig):
    """A language model behind an OpenAI-compatible server, such as vLLM's, which judges in words."""

    name: Literal["openai"] = "openai"
    model: str = Field(min_length=1, max_length=300, description="the model's name there")
    template: str = Field(
        max_length=100_000,
        description="what the judge is asked; {problem}, {reference} and {answer} stand for these, and all else is "
        "taken as it is",
    )
    mark: str = Field(
        "Score:",
        min_length=1,
        max_length=100,
        description="what stands before the score in the judge's reply; the last one counts",
    )
    low: float = Field(
        0.0, ge=-1e9, le=1e9, description="the lowest score that template asks for, which is a reward of 0"
    )
    high: float = Field(
        10.0, ge=-1e9, le=1e9, description="the highest score that template asks for, which is a reward of 1"
    )
    request: dict[str, bool | int | float | str] = Field(
        {"temperature": 0.0, "max_tokens": 512},
        description="further fields of each request, in place of the default's",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = PLACEHOLDER.findall(self.template)
        if unknown := [name for name in named if name not in SHOWN]:
            raise ValueError(
                f"template has {{{unknown[0]:.40}}}, but what it can have is {{problem}}, {{reference}} and {{answer}}"
            )
        if "answer" not in named:
            raise ValueError("template has no {answer}, so that the judge would not see what it judges")
        if own := sorted(set(self.request) & set(OWN)):
            raise ValueError(f"request has {own[0]}, which is not free to choose; leave it out")
        return self


Server = Annotated[PostConfig | OpenaiConfig, Field(discriminator="name")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _ScoreList(_Strict):
    """What a program replies."""

    scores: list[float | None]


class _Message(_Strict):
    content: str | None = None


class _Alternative(_Strict):
    message: _Message
    finish_reason: str | None = None


class _ChatReply(_Strict):
    """What an OpenAI-compatible server replies, as far as it is read."""

    choices: list[_Alternative] = Field(min_length=1)


def address(server: Server) -> str:
    """Returns the URL that requests go to."""
    return f"{server.url}/chat/completions" if isinstance(server, OpenaiConfig) else server.url


def batch_size(server: Server) -> int:
    """Returns how many answers go into a request."""
    return server.batch if isinstance(server, PostConfig) else 1


def ask(server: Server, answers: Sequence[Answer]) -> dict[str, JsonValue]:
    """Returns the body of the request that has answers scored, at most `batch_size` of them."""
    if isinstance(server, PostConfig):
        return {"answers": [dict(zip(SHOWN, answer, strict=True)) for answer in answers]}
    (answer,) = answers
    own = dict(zip(SHOWN, answer, strict=True))
    # In one pass, so that an answer with a placeholder in it stays what it is.
    question = PLACEHOLDER.sub(lambda found: own[found[1]], server.template)
    return {"model": server.model, "messages": [{"role": "user", "content": question}], **server.request}


def read(server: Server, reply: bytes, answers: int, hidden: Hidden) -> list[Score]:
    """Reads the scores of a reply: one for each answer of the request.

    Raises:
        ServiceError: the reply is not what such a server sends, or a program's score is out of range.
    """
    if isinstance(server, OpenaiConfig):
        return [_judged(server, _parsed(_ChatReply, server, reply, hidden).choices[0], hidden)]
    scores = _parsed(_ScoreList, server, reply, hidden).scores
    if len(scores) != answers:
        raise ServiceError(f"{server.url} sent {len(scores)} scores for {answers} answers; it must send one for each")
    return [_counted(server, number) for number in scores]


Kind = TypeVar("Kind", _ScoreList, _ChatReply)


def _parsed(kind: type[Kind], server: ServerConfig, reply: bytes, hidden: Hidden) -> Kind:
    try:
        return kind.model_validate_json(reply)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        form = (
            '{"scores": [0.5, null]}, a number or null for each answer' if kind is _ScoreList else "a chat completion"
        )
        raise ServiceError(
            f"{server.url} sent {hidden.beginning(reply)}, which is not {form}: {where and f'{where}: '}"
            f"{first['msg']:.200}"
        ) from None


def _counted(server: PostConfig, number: float | None) -> Score:
    """The score that a program gave."""
    if number is None:
        return Score(None, "the service gave no score")
    value = server.scaled(number)
    if value is None:
        raise ServiceError(
            f"{server.url} gave the score {number:g}, but the configuration says {server.low:g} to {server.high:g}; "
            "correct low and high, or let outside: clip take the nearer of them"
        )
    return Score(value)


def _judged(server: OpenaiConfig, choice: _Alternative, hidden: Hidden) -> Score:
    """The score that a judge wrote; it writes what it likes, so that what is no score is no error."""
    said = hidden.text(choice.message.content or "")
    if choice.finish_reason == "length":  # its last number may be one of the words before the score
        return Score(None, f"the judge's reply was cut off at its limit of tokens: {said}")
    _, mark, behind = said.rpartition(server.mark)
    found = NUMBER.match(behind) if mark else None
    value = None
    if found is not None and (found["whole"] is None or float(found["whole"]) == server.high):
        value = server.scaled(float(found["number"]))
    if value is None:
        wanted = f"number from {server.low:g} to {server.high:g} behind {server.mark!r}"
        return Score(None, f"the judge wrote no {wanted}: {said}")
    return Score(value, said)
