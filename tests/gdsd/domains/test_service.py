"""Rewards by HTTP: what a server is asked, what its replies are worth, and what becomes of a run where it fails."""

import itertools
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pyarrow as pa
import pytest

from tasks.gdsd import tables
from tasks.gdsd.config.at_home import public
from tasks.gdsd.config.prompts import PromptConfig
from tasks.gdsd.domains import Answer, DomainChoice, Verdict, make, service_client
from tasks.gdsd.domains.service import PostConfig, ServiceConfig
from tasks.gdsd.errors import ConfigError, DataError, ServiceError, SilentServiceError
from tasks.gdsd.prompts.problems import check_problems, make_prompts
from tasks.gdsd.prompts.quality import check_prompts
from tasks.gdsd.records import RolloutStats
from tasks.gdsd.report import verdicts as pages
from tasks.gdsd.reward import rewards
from tasks.gdsd.reward.probes import Probed, probe
from tasks.gdsd.transient import may_pass
from tests.gdsd import series

KEY = "sk-not-to-be-seen"
TEMPLATE = "Question: {problem}\nRight: {reference}\nAnswer: {answer}"


class Asked(NamedTuple):
    path: str
    headers: Mapping[str, str]
    body: dict[str, object]


class Reply(NamedTuple):
    body: object = None  # bytes as they are, anything else as JSON
    status: int = 200
    headers: Mapping[str, str] = {}
    slowly: float = 0.0  # seconds before each byte


class Server(ThreadingHTTPServer):
    """A server on the loopback that keeps what it is asked."""

    daemon_threads = True

    def __init__(self, reply: Callable[[Asked], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.asked: list[Asked] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/judge"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = Asked(self.path, self.headers, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        with self.server.lock:
            self.server.asked.append(asked)
            self.server.busy += 1
            self.server.most_busy = max(self.server.busy, self.server.most_busy)
        try:
            reply = self.server.reply(asked)
        finally:
            with self.server.lock:
                self.server.busy -= 1
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in [body[place : place + 1] for place in range(len(body))] if reply.slowly else [body]:
            if self.server.closing.wait(reply.slowly):
                return
            self.wfile.write(piece)

    def log_message(self, format: str, *args: object) -> None:
        pass


Start = Callable[[Callable[[Asked], Reply]], Server]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts servers, which end with the test; waits between attempts are short."""
    monkeypatch.setattr(service_client, "WAIT_S", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    started: list[Server] = []

    def go(reply: Callable[[Asked], Reply]) -> Server:
        started.append(Server(reply))
        return started[-1]

    yield go
    for server in started:
        server.closing.set()
        server.shutdown()
        server.server_close()


def lengths(asked: Asked) -> Reply:
    """Scores answers by their number of characters in tenths, and gives none to an empty one."""
    found = asked.body["answers"]
    assert isinstance(found, list)
    return Reply({"scores": [len(each["answer"]) / 10 or None for each in found]})


def scoring(score: Callable[[Answer], float | None]) -> Callable[[Asked], Reply]:
    """A program that scores each answer by itself."""

    def reply(asked: Asked) -> Reply:
        found = asked.body["answers"]
        assert isinstance(found, list)
        return Reply({"scores": [score(Answer(each["problem"], each["reference"], each["answer"])) for each in found]})

    return reply


def likeness(answer: Answer) -> float:
    """Scores the reference by 1, and all else by a little for its length."""
    return 1.0 if answer.text == answer.reference else min(len(answer.text), 9) / 100


def says(*texts: str, **choice: object) -> Callable[[Asked], Reply]:
    """A judge that says these texts, one after the other."""
    left = iter(texts)
    return lambda asked: Reply({"choices": [{"message": {"content": next(left)}, "finish_reason": "stop"} | choice]})


def post(url: str, **fields: object) -> dict[str, object]:
    return {"name": "post", "url": url, **fields}


def openai(url: str, **fields: object) -> dict[str, object]:
    return {"name": "openai", "url": url, "model": "judge", "template": TEMPLATE, **fields}


def choice(server: dict[str, object], **fields: object) -> DomainChoice:
    return DomainChoice.model_validate_json(json.dumps({"name": "service", "server": server, **fields}))


def verdicts(server: dict[str, object], *answers: str, **fields: object) -> list[Verdict]:
    return make(choice(server, **fields)).verify_all([Answer("p", "r", text) for text in answers])


def scores(server: dict[str, object], *answers: str) -> list[float | None]:
    return [verdict.parts["score"] for verdict in verdicts(server, *answers)]


# What is asked


def test_a_program_gets_equal_answers_once_and_in_batches(start: Start) -> None:
    """If it fails, each copy of an answer costs a request, or scores go to other answers than their own."""
    server = start(lengths)
    answers = ["a", "bb", "a", "ccc", "", "a", "dddd", "bb"]
    assert scores(post(server.url, batch=2, parallel=1), *answers) == [0.1, 0.2, 0.1, 0.3, None, 0.1, 0.4, 0.2]
    assert [asked.body for asked in server.asked] == [
        {"answers": [{"problem": "p", "reference": "r", "answer": text} for text in pair]}
        for pair in (["a", "bb"], ["ccc", ""], ["dddd"])
    ]
    assert {asked.path for asked in server.asked} == {"/judge"}
    assert "Authorization" not in server.asked[0].headers
    assert scores(post(server.url)) == [] and len(server.asked) == 3


def test_a_judge_gets_its_template_filled_in(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a judge sees another answer than the policy's, or is not asked at temperature 0."""
    server = start(says("Well done.\nScore: 7"))
    monkeypatch.setenv("GDSD_JUDGE_KEY", f" {KEY}\n")
    config = openai(server.url, key="GDSD_JUDGE_KEY", template='{problem}|{reference}|{answer}|{"score": 1}')
    (verdict,) = verdicts(config, "{problem} \ud800", solved_from=7.0)
    (asked,) = server.asked
    assert (asked.path, asked.headers["Authorization"]) == ("/judge/chat/completions", f"Bearer {KEY}")
    assert asked.body == {
        "model": "judge",
        "messages": [{"role": "user", "content": 'p|r|{problem} \ud800|{"score": 1}'}],
        "temperature": 0.0,
        "max_tokens": 512,
    }
    assert verdict.parts == {"score": 0.7} and verdict.solved is True
    assert verdict.remark == "Well done.\nScore: 7"
    other = start(says("Score: 7"))
    scores(openai(other.url, request={"max_completion_tokens": 9}), "a")
    assert set(other.asked[0].body) == {"model", "messages", "max_completion_tokens"}


def test_requests_are_sent_together_up_to_the_limit(start: Start) -> None:
    """If it fails, a judge is asked for one answer after the other, or for more at a time than it can bear."""
    meeting = threading.Barrier(3)

    def reply(asked: Asked) -> Reply:
        meeting.wait(30)  # each waits until there are three of them
        return says("Score: 1")(asked)

    server = start(reply)
    assert scores(openai(server.url, parallel=3), *"abcdef") == [0.1] * 6
    assert server.most_busy == 3


# What a reply is worth


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("Score: 7", 0.7),
        ("Not a Score: 3, but **Score:** 3. Score: 10", 1.0),
        ("**Score: 7.5**", 0.75),
        ("Score: `0`.", 0.0),
        ("Score:\n\n 7/10", 0.7),
        ("Score: 7 / 10, well done", 0.7),
        ("Score: +7", 0.7),
        ("Score: 7/100", None),  # of another range
        ("Score: 11", None),
        ("Score: -1", None),
        ("Score: 7,5", None),
        ("Score: 7.1.2", None),
        ("Score: 12345678901", None),
        ("Score: nan", None),
        ("Score: 1e1", None),
        ("_Score: 7_", 0.7),
        ("Score: 7-8", None),
        ("Score: 7/10.5", None),
        ("Score: 7/12345678901", None),
        ("Score: 7. 2 lines are bad", 0.7),
        ("Score: seven", None),
        ("Score: 9 Score:", None),
        ("7", None),
        ("", None),
    ],
)
def test_a_score_is_read_from_a_judges_words(said: str, value: float | None, start: Start) -> None:
    """If it fails, another number than the judge's score is trained on, or a slip of the judge stops the run."""
    (verdict,) = verdicts(openai(start(says(said)).url), "a")
    assert verdict.parts["score"] == value and verdict.remark is not None and verdict.remark.endswith(said)
    assert verdict.solved is (None if value is None else False)


def test_a_judge_that_is_cut_off_or_says_nothing_gave_no_score(start: Start) -> None:
    """If it fails, a number in the middle of a judge's thoughts is trained on."""
    for server in (start(says("Score: 1", finish_reason="length")), start(says("", message={"content": None}))):
        assert scores(openai(server.url), "a") == [None]
    assert scores(openai(start(says('{"score": 0.5, "why": "x"}')).url, mark='"score":', high=1.0), "a") == [0.5]


@pytest.mark.parametrize(
    ("fields", "given", "value"),
    [
        ({"low": -10.0, "high": 10.0}, 5, 0.75),
        ({"low": -10.0, "high": 10.0}, -10, 0.0),
        ({}, 1.0000001, 1.0),  # rounding
        ({"outside": "clip"}, 7.5, 1.0),
        ({"outside": "clip"}, -7.5, 0.0),
        ({"high": 5.0}, "Score: 4", 0.8),
        ({"low": 1.0, "high": 5.0}, "Score: 1/5", 0.0),
        ({"outside": "clip"}, "Score: 11", 1.0),
        ({"mark": "[["}, "Score: 3 [[4]]", 0.4),
    ],
)
def test_a_score_is_scaled_from_the_declared_range(
    fields: dict[str, object], given: object, value: float, start: Start
) -> None:
    """If it fails, rewards are not between 0 and 1, or a score's worth is not what the configuration says."""
    if isinstance(given, str):
        assert scores(openai(start(says(given)).url, **fields), "a") == [value]
    else:
        assert scores(post(start(lambda asked: Reply({"scores": [given]})).url, **fields), "a") == [value]


BODIES = {
    "no JSON": (b"<html>", "b'<html>', which is not {\"scores\": .*: "),
    "nothing": (b"", "which is not"),
    "NaN": (b'{"scores": [NaN]}', r"scores\.0: .*finite number"),
    "infinite": (b'{"scores": [1e999]}', r"scores\.0: .*finite number"),
    "a text": (b'{"scores": ["1"]}', r"scores\.0: .*valid number"),
    "a truth value": (b'{"scores": [true]}', r"scores\.0: .*valid number"),
    "another field": (b'{"rewards": [1]}', "scores: .*required"),
    "too deep": (b'{"scores": ' + b"[" * 100_000, "which is not"),
    "too few": (b'{"scores": []}', "sent 0 scores for 1 answers; it must send one for each"),
    "too many": (b'{"scores": [1, 1]}', "sent 2 scores for 1 answers"),
    "out of range": (b'{"scores": [1.5]}', "gave the score 1.5, but the configuration says 0 to 1; correct low and"),
    "without end": (b'{"scores": [' + b"1," * 2**20, "sent more than 1048576 bytes"),
}


@pytest.mark.parametrize(("body", "said"), BODIES.values(), ids=list(BODIES))
def test_a_reply_that_is_no_list_of_scores_stops_the_run_at_once(body: bytes, said: str, start: Start) -> None:
    """If it fails, a run trains on what a broken service sends, or asks it again and again."""
    server = start(lambda asked: Reply(body))
    with pytest.raises(ServiceError, match=said) as caught:
        scores(post(server.url), "a")
    assert not may_pass(caught.value) and len(server.asked) == 1
    assert len(str(caught.value)) < 700 and "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [{"choices": []}, {"choices": [{"text": "Score: 1"}]}, {"scores": [1]}])
def test_what_is_no_chat_completion_stops_the_run_at_once(body: object, start: Start) -> None:
    """If it fails, an address of another kind of server looks like a judge that gives no scores."""
    with pytest.raises(ServiceError, match="which is not a chat completion: choices"):
        scores(openai(start(lambda asked: Reply(body)).url), "a")


def test_a_compressed_reply_is_not_unpacked(start: Start) -> None:
    """If it fails, a small reply can fill the memory."""
    server = start(lambda asked: Reply(b"\x1f\x8b", headers={"Content-Encoding": "gzip"}))
    with pytest.raises(ServiceError, match="sent a compressed reply"):
        scores(post(server.url), "a")
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


# What fails


def test_what_may_pass_is_tried_again(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """If it fails, a busy server costs answers their reward, or nobody knows why a round takes so long."""
    replies = iter([Reply("later", 429, {"Retry-After": "0"}), Reply("broken", 503), Reply({"scores": [0.5]})])
    server = start(lambda asked: next(replies))
    assert scores(post(server.url), "a") == [0.5] and len(server.asked) == 3
    (said,) = [line for line in caplog.messages if "asked again" in line]
    assert said.startswith(server.url) and said.endswith("it is asked again in 0 s, up to 4 times in all")


def test_a_busy_server_is_left_alone_as_long_as_it_asks(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, `Retry-After` is ignored, and a rate limit takes every attempt; or one of a day stops the run."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(service_client.anyio, "sleep", sleep)
    monkeypatch.setattr(service_client, "WAIT_S", 1.0)
    headers = iter(["7", "", "soon", "86400", "", "", ""])
    server = start(lambda asked: Reply("", 429, {"Retry-After": next(headers)}))
    with pytest.raises(
        SilentServiceError, match=r"does not answer: status 429: .*; set fewer .*server\.attempts \(its only request "
    ):
        scores(post(server.url, attempts=7), "a")
    assert waits == [7.0, 2.0, 4.0, 120.0, 16.0, 30.0]


def test_a_request_that_is_refused_costs_its_own_answers_only(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """If it fails, one answer that is too long for the judge stops the run, or is asked for again and again."""

    def reply(asked: Asked) -> Reply:
        return Reply({"error": "too long"}, 400) if "aaa" in str(asked.body) else says("Score: 5")(asked)

    server = start(reply)
    with caplog.at_level(logging.WARNING):
        good, bad = verdicts(openai(server.url), "a", "aaa")
    assert (good.parts["score"], bad.parts["score"], bad.solved) == (0.5, None, None)
    assert bad.remark == "no score: the server refuses a request: status 400"
    assert len(server.asked) == 2 and f"{server.url}: 1 of 2 answers have no score, such as: no" in caplog.text
    assert 'the last failure: b\'{"error": "too long"}\'' in caplog.text
    assert scores(openai(server.url), "aaa", "aaaa") == [None, None]


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (401, {}, r"does not accept the key \(status 401\): set GDSD_JUDGE_KEY anew$"),
        (403, {}, r"does not accept the key \(status 403\)"),
        (404, {}, r"answers no such requests \(status 404: .*no such model"),
        (307, {"Location": "http://127.0.0.1:9/other"}, r"answers no such requests \(status 307"),
    ],
)
def test_what_every_request_would_get_stops_the_run_at_once(
    status: int, headers: dict[str, str], said: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a wrong key is sent a thousand times, or follows a redirect to somebody else."""
    monkeypatch.setenv("GDSD_JUDGE_KEY", KEY)
    server = start(lambda asked: Reply({"error": "no such model"}, status, headers))
    with pytest.raises(ServiceError, match=said) as caught:
        scores(post(server.url, key="GDSD_JUDGE_KEY", parallel=1, batch=1), *"abcdef")
    assert not may_pass(caught.value) and len(server.asked) == 1
    with pytest.raises(ServiceError, match=said.replace("set GDSD_JUDGE_KEY anew", r"server\.key is not set")):
        scores(post(server.url), "a")


def test_a_request_that_fails_among_others_does_not_tell_to_start_again(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, whoever reads the log of a run that goes on starts it again for nothing."""
    server = start(lambda asked: Reply("", 503) if "aaa" in str(asked.body) else says("Score: 5")(asked))
    with caplog.at_level(logging.WARNING):
        assert scores(openai(server.url, attempts=1), "a", "aaa") == [0.5, None]
    assert "1 of 2 answers have no score, such as: no score: the server does not ans" in caplog.text
    assert "; see why in its own log, or set more server.attempts" in caplog.text
    assert "start the run again" not in caplog.text


def test_a_server_that_is_not_there_stops_the_run_and_may_be_there_later() -> None:
    """If it fails, a run trains on nothing, or on a cluster ends at a restart of its judge."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            SilentServiceError, match=f"{url} does not answer: ConnectError: .*see that it runs"
        ) as caught:
            scores(post(url, attempts=1), "a")
    assert may_pass(caught.value)


def test_a_server_that_never_answers_is_given_up_early(start: Start) -> None:
    """If it fails, a service that is down is asked for every one of thousands of answers before the run stops."""
    server = start(lambda asked: Reply("broken", 500))
    with pytest.raises(
        SilentServiceError, match=r"more server\.attempts \(none of [89] requests was answered, with up to 1 "
    ):
        scores(post(server.url, attempts=1, batch=1, parallel=2), *map(str, range(100)))
    assert service_client.LOST <= len(server.asked) <= service_client.LOST + 1


def test_a_connection_has_a_time_of_its_own() -> None:
    """If it fails, an address that swallows packets takes the whole of a request's time."""
    config = choice(post("http://judge", connect_seconds=3.0)).root
    assert isinstance(config, ServiceConfig)
    timeout = service_client._Asking(config.server, None).client.timeout
    assert (timeout.connect, timeout.read) == (3.0, None)  # the whole request has another one


def test_a_reply_that_never_ends_runs_out_of_time(start: Start) -> None:
    """If it fails, a server that sends a byte now and then holds the run for ever."""
    slow = start(lambda asked: Reply({"scores": [0.5]}, slowly=0.5))
    with pytest.raises(
        SilentServiceError, match=r"does not answer: no whole reply within 1 s; set more server\.seconds or"
    ):
        scores(post(slow.url, seconds=1.0, attempts=1), "a")


def test_answers_without_time_have_no_score(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a slow judge holds a round without end, or the scores that it gave in time are lost."""
    ended = threading.Event()

    def reply(asked: Asked) -> Reply:
        if "'c'" in str(asked.body["messages"]):
            ended.wait(30)
        return says("Score: 5")(asked)

    # At the start of the call and of each request: for the third there is a moment left, for the fourth nothing.
    clock = iter([0.0, 1.0, 2.0, 60 * 60 - 0.1, 60 * 60 + 1.0])
    monkeypatch.setattr(service_client, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    found = verdicts(openai(start(reply).url, parallel=1, minutes=60.0, template="{answer}"), *"abcd")
    ended.set()
    assert [verdict.parts["score"] for verdict in found] == [0.5, 0.5, None, None]
    assert found[3].remark is not None and "had not answered after 60 minutes" in found[3].remark


def test_what_was_the_last_failure_is_said_when_the_time_is_over(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a server that was busy for an hour looks like one that is slow."""
    # At the start of the call and of the request, to which a moment is left.
    clock = iter([0.0, 60 * 60 - 1.0])
    monkeypatch.setattr(service_client, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    server = start(lambda asked: Reply("", 503, {"Retry-After": "9"}))
    with pytest.raises(
        SilentServiceError, match=r"had not answered after 60 minutes.*; it does not answer: status 503"
    ):
        scores(post(server.url), "a")


def test_a_remark_does_not_say_where_the_server_is(start: Start) -> None:
    """If it fails, the address of a company's own judge is in samples and reports, which trackers get."""

    def reply(asked: Asked) -> Reply:
        said = str(asked.body)
        status = 500 if "y" in said else 400
        return Reply("at http://127.0.0.1/judge", status) if "x" in said else Reply({"scores": [None]})

    server = start(reply)
    found = verdicts(post(server.url, batch=1, attempts=1), "o", "x", "xy")
    remarks = [verdict.remark or "" for verdict in found]
    assert remarks[0] == "the service gave no score" and "127.0.0.1" not in "".join(remarks)
    assert [remark.partition(";")[0] for remark in remarks[1:]] == [
        "no score: the server refuses a request: status 400",
        "no score: the server does not answer: status 500",
    ]


def test_an_interruption_ends_the_requests(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, Ctrl-C waits for a judge that thinks."""
    gone = threading.Event()

    def reply(asked: Asked) -> Reply:
        gone.wait(30)
        return Reply({"scores": [1.0]})

    def interrupted(*_: object) -> Iterator[object]:
        raise KeyboardInterrupt
        yield

    server = start(reply)
    monkeypatch.setattr(service_client, "_arriving", interrupted)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        scores(post(server.url), "a")
    assert time.monotonic() - began < 20  # the request may take 60 s
    gone.set()


# The key


@pytest.mark.parametrize(
    ("key", "said"),
    [(None, "GDSD_JUDGE_KEY, which is not set"), ("", "is not set"), (f"{KEY} x", "has a blank, a line's end or")],
)
def test_a_key_that_is_missing_or_none_is_said_without_showing_it(
    key: str | None, said: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, a missing key is noticed by the server alone, or a broken one is in the log."""
    monkeypatch.delenv("GDSD_JUDGE_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("GDSD_JUDGE_KEY", key)
    server = start(lengths)
    with pytest.raises(ServiceError, match=said) as caught:
        scores(post(server.url, key="GDSD_JUDGE_KEY"), "a")
    assert KEY not in str(caught.value) and not server.asked


@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_server_that_sends_the_key_back_does_not_bring_it_into_a_message(
    status: int, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, the key is in the log of every run whose server echoes requests."""
    monkeypatch.setenv("GDSD_JUDGE_KEY", KEY)
    server = start(lambda asked: Reply({"echo": asked.headers["Authorization"]}, status))
    with pytest.raises(ServiceError, match=r"Bearer \*\*\*") as caught:
        scores(post(server.url, key="GDSD_JUDGE_KEY", attempts=1), "a")
    assert KEY not in str(caught.value)


ODD = "/abc/def+ghi=="
ESCAPED = {
    "a slash": ODD.replace("/", r"\/"),
    "by number": "".join(rf"\u{ord(letter):04X}" for letter in ODD),
    "twice": json.dumps(ODD.replace("/", r"\/"))[1:-1],
}


@pytest.mark.parametrize("written", ESCAPED.values(), ids=list(ESCAPED))
def test_a_key_is_hidden_however_json_writes_it(
    written: str, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If it fails, the key is in logs, samples, report and trackers, since the judge's words are shown there."""
    monkeypatch.setenv("GDSD_JUDGE_KEY", ODD)
    content = f'{{"choices": [{{"message": {{"content": "You sent {written}. Score: 5"}}}}]}}'.encode()
    (verdict,) = verdicts(openai(start(lambda asked: Reply(content)).url, key="GDSD_JUDGE_KEY"), "a")
    assert verdict.remark == "You sent ***. Score: 5" and verdict.parts == {"score": 0.5}
    for status in (200, 400, 404):
        echo = f'{{"echo": "{"-" * 170}{written}"}}'.encode()  # an error would cut it
        server = start(lambda asked, status=status, echo=echo: Reply(echo, status))  # type: ignore[misc]
        try:
            verdicts(post(server.url, key="GDSD_JUDGE_KEY"), "a")
            said = caplog.text
        except ServiceError as error:
            said = str(error)
        assert "***" in said and "abc" not in said and "0061" not in said


# The configuration

REFUSED = {
    "a user": ({"url": f"http://me:{KEY}@judge/v1"}, "server.*url: this must be http:// or https://"),
    "a query": ({"url": f"https://judge/v1?key={KEY}"}, "A user, password or query is refused"),
    "a fragment": ({"url": f"https://judge/v1#{KEY}"}, "url: this must be"),
    "a file": ({"url": "file:///etc/passwd"}, "url: this must be"),
    "a port": ({"url": "http://judge:99999"}, "Port out of range"),
    "a key itself": ({"key": KEY}, "key: this must be the name of an environment variable"),
    "no range": ({"low": 1.0, "high": 1.0}, "low must be below high, but they are 1 and 1"),
    "another kind": ({"name": "grpc"}, "'grpc'.*allowed: 'post', 'openai'"),
    "an unknown placeholder": ({"template": "{answer} {anwser}"}, "template has {anwser}, but what it can have"),
    "no answer": ({"template": "{problem}"}, "template has no {answer}"),
    "a field of ours": ({"request": {"n": 2}}, "request has n, which is not free to choose"),
}


@pytest.mark.parametrize(("fields", "said"), REFUSED.values(), ids=list(REFUSED))
def test_a_server_that_cannot_be_is_refused(fields: dict[str, object], said: str) -> None:
    """If it fails, a slip is noticed after the base policy was trained, or a key is in every record of the run."""
    server = openai("http://judge/v1") if "template" in fields or "request" in fields else post("http://judge/v1")
    with pytest.raises(ConfigError, match=said) as caught:
        choice(server | fields)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": "Write."}, r"prompt has no \{problem\}"),
        ({"solved_from": 7.0}, "solved_from 7 is no score of the server's, which go from 0 to 1"),
        ({"weights": {"truth": 1.0}}, "weights has truth, but the reward's parts are score"),
    ],
)
def test_a_domain_that_cannot_be_is_refused(fields: dict[str, object], said: str) -> None:
    """If it fails, every prompt is the same, or no score can ever solve a problem."""
    with pytest.raises(ConfigError, match=said):
        choice(post("http://judge"), **fields)


def test_what_is_published_does_not_say_where_the_server_is() -> None:
    """If it fails, the address of a company's own judge is on the hub."""
    written = {"prompts": {"domain": choice(post("http://judge.corp:8000/x")).model_dump(mode="json")}}
    told = json.dumps(public(written))
    assert "corp" not in told and DomainChoice.model_validate_json(json.dumps(json.loads(told)["prompts"]["domain"]))


# Problems, and a round


def test_problems_are_read_with_and_without_a_reference() -> None:
    """If it fails, a data set of prompts alone cannot be used, or a judge is shown an empty reference."""
    domain = make(choice(post("http://judge"), prompt="Write about {problem}.\n"))
    assert domain.read({"problem": "rain"}) == ("rain", "") and domain.fault("rain", "") is None
    assert domain.read({"problem": "rain", "reference": "wet"}) == ("rain", "wet")
    assert domain.phrase("{problem}") == "Write about {problem}.\n"
    assert domain.fault(" ", "") == "the problem is empty"
    assert (domain.varies, make(choice(post("http://judge"), varies=True)).varies) == (False, True)
    with pytest.raises(DataError, match="problem must be a text, not 7"):
        domain.read({"problem": 7})
    assert make(choice(openai("http://judge"))).fault("rain", "") == (
        "there is no reference, which server.template shows to the judge"
    )


NO_REFERENCE = {
    "no column": "problem\nrain\nsnow\n",
    "empty cells": "problem,reference\nrain,\nsnow,\n",
    "a prompt for the problem": "prompt,reference\nrain,\nsnow,\n",
    "ready-made rows": "id,prompt,problem,reference\nrain,Of rain:,rain,\nsnow,Of snow:,snow,\n",
}


@pytest.mark.parametrize("text", NO_REFERENCE.values(), ids=list(NO_REFERENCE))
def test_a_file_needs_no_references(text: str, tmp_path: Path) -> None:
    """If it fails, a file of problems alone, as the page recommends for a judge, is refused or left out."""
    for split, end in {"train": "", "validation": " in spring", "test": " at night"}.items():
        (tmp_path / f"{split}.csv").write_text(re.sub("rain|snow", rf"\g<0>{end}", text))
    domain = {"name": "service", "server": post("http://judge"), "prompt": "Of {problem}:"}
    sources = {f"{split}_data": {"path": str(tmp_path / f"{split}.csv")} for split in ("train", "validation", "test")}
    written: dict[str, object] = {"domain": domain, "unusable": "drop", **sources}
    config = PromptConfig.model_validate_json(json.dumps(written))
    made = make_prompts(config)
    assert made["train"].select(["prompt", "problem", "reference"]).to_pylist() == [
        {"prompt": f"Of {problem}:", "problem": problem, "reference": ""} for problem in ("rain", "snow")
    ]
    check_prompts(made, config).require()
    check_problems(config, made)


def problems(*references: str) -> pa.Table:
    rows = [
        {"id": f"train-{number}", "prompt": f"q{number}", "problem": f"q{number}", "reference": text}
        for number, text in enumerate(references)
    ]
    return pa.Table.from_pylist(rows, tables.PROMPTS)


def checked(server: dict[str, object], *references: str, **fields: object) -> Probed:
    return probe("train", choice(server, **fields), problems(*references), number=len(references), completions=100)


def test_the_check_asks_for_references_that_are_answers(start: Start) -> None:
    """If it fails, a server that scores right answers badly is found after the training, or tests count as answers."""
    likes = post(start(scoring(likeness)).url)
    found = checked(likes, "four", "five", solved_from=1.0)
    right = [(probe.answer.text, probe.verdict.solved) for probe in found.probes["right"]]
    assert right == [("four", True), ("five", True)] and found.fault is None and found.warnings == []
    for unknown in (checked(likes, "four", "five", reference_is_answer=False), checked(likes, "four", "")):
        assert "right" not in unknown.probes and unknown.fault is None
        assert "names no right answer (a reference to each problem, where `ref" in pages.text([unknown])
    assert make(choice(likes, reference_is_answer=False)).reference_is_answer is False


def test_a_new_version_is_another_configuration_to_the_cache(start: Start) -> None:
    """If it fails, a run compares the base by the server's old rule with the trained policy by its new one."""
    server = start(lengths)
    old, new = (choice(post(server.url, version=version)) for version in (None, "2"))
    assert old.model_dump_json() != new.model_dump_json()
    assert [make(each).verify("p", "r", "a").parts["score"] for each in (old, new)] == [0.1, 0.1]
    assert server.asked[0].body == server.asked[1].body


def test_how_a_server_is_asked_is_no_part_of_what_the_cache_knows() -> None:
    """If it fails, a longer timeout asks for all rounds anew, or another rule is answered with the old one's scores."""
    asked = {"key": "GDSD_KEY", "parallel": 2, "attempts": 2, "connect_seconds": 2.0, "seconds": 2.0, "minutes": 2.0}
    said = {"url": "http://other", "version": "2", "low": -1.0, "high": 2.0, "outside": "clip", "batch": 2}
    assert {"name", *asked, *said} == set(PostConfig.model_fields)
    plain = choice(post("http://judge"))
    assert plain.rule() == plain and choice(post("http://judge", **asked)).rule() == plain
    for name, value in said.items():
        assert choice(post("http://judge") | {name: value}).rule() != plain, name
    for fields in ({"prompt": "now {problem}"}, {"solved_from": 1.0}, {"weights": {"score": 2.0}}):
        assert choice(post("http://judge"), **fields).rule() != plain, fields
    source = {"hub": "some/words", "revision": "0" * 40}
    prompts = {"domain": {"name": "service", "server": post("http://judge", **asked)}, "test_data": source}
    assert PromptConfig.model_validate_json(json.dumps(prompts)).rule().domain == plain


def test_the_check_compares_with_references_also_where_nothing_is_solved(start: Start) -> None:
    """If it fails, a configuration without `solved_from` is refused, or nobody looks at its reward."""
    assert checked(post(start(scoring(likeness)).url), "four", "five").fault is None
    backward = start(scoring(lambda answer: 1 - likeness(answer)))
    names = [warned.name for warned in checked(post(backward.url), "four", "five").warnings]
    assert "empty answers as good as right ones" in names


def test_the_check_speaks_to_who_writes_the_configuration(start: Start) -> None:
    """If it fails, who chose a server is told to change a class."""
    low = checked(post(start(scoring(lambda answer: 0.5)).url), "four", solved_from=1.0).fault
    assert low is not None and "lower `solved_from`, or set `reference_is_answer: false`" in low
    draws = itertools.count()
    vague = checked(post(start(scoring(lambda answer: next(draws) % 97 / 97)).url), "four").fault
    assert vague is not None and "set `varies: true` of the domain in the configuration" in vague
    assert not re.search("`verify|varies = True|method", low + vague)


def rollouts(*completions: str) -> pa.Table:
    rows = [series.rollout(sample=sample, completion=text) for sample, text in enumerate(completions)]
    return pa.Table.from_pylist(rows, tables.ROLLOUTS)


def test_a_round_is_rewarded_and_one_without_any_score_stops(start: Start) -> None:
    """If it fails, an answer without a score counts as a bad one, or a run trains on nothing."""
    server = choice(post(start(lengths).url))
    rewarded = rewards.reward(rollouts("aaaa", "", "aa"), server, 3, scale_by_std=False)
    assert rewarded["reward"].to_pylist() == pytest.approx([0.4, None, 0.2])
    assert rewarded["advantage"].to_pylist() == pytest.approx([0.2, None, -0.2])
    cost = RolloutStats(completions=3, tokens=6, positions=6, seconds=1.0, ended_unix_seconds=1.0)
    assert rewards.summarise(rewarded, server, 3, [cost], [], 0.0).unrewarded == "the service gave no score"
    mute = choice(openai(start(says("Fine.", "Bad.")).url))
    with pytest.raises(
        DataError, match=r"'service' could judge none of 2 rollouts.*: the judge wrote no number from 0"
    ):
        rewards.reward(rollouts(*"ab"), mute, 2, scale_by_std=False)
    with pytest.raises(SilentServiceError):
        gone = choice(post(start(lambda asked: Reply("", 500)).url, attempts=1))
        rewards.reward(rollouts("a", "b"), gone, 2, scale_by_std=False)
