"""Asks a server for the scores of answers: several requests at a time, again where that may help, and in bounded time.

Equal answers are asked for once. What has no score in the end is None, unless the server answered nothing at all.
"""

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from typing import NamedTuple

import anyio
from anyio.from_thread import start_blocking_portal
from httpx2 import AsyncClient, HTTPStatusError, Limits, Timeout, TransportError

from tasks.gdsd import transient
from tasks.gdsd.domains import service_servers
from tasks.gdsd.domains.base import Answer, shown
from tasks.gdsd.domains.service_servers import Hidden, OpenaiConfig, Score, Server
from tasks.gdsd.errors import ServiceError, SilentServiceError

logger = logging.getLogger(__name__)

WAIT_S, LONGEST_WAIT_S = 1.0, 30.0  # before the second attempt, and at most; each wait is twice the one before
LONGEST_ASKED_S = 120.0  # that a server is left alone for because it asks for it
LOST = 8  # requests that failed, after which a server that has answered none is not asked further
MOST = 2**20  # bytes of a reply
KEY = re.compile("[!-~]+")  # what a header of a request can carry
MISDIRECTED = frozenset({*range(300, 400), 404, 405, 410, 421})  # statuses that every request would get


def scores(server: Server, answers: Sequence[Answer]) -> list[Score]:
    """Returns the score of each answer, from 0 to 1 or None, in order.

    Raises:
        ServiceError: see `RewardService.scores`.
        SilentServiceError: see there.
    """
    distinct = list(dict.fromkeys(answers))
    size = service_servers.batch_size(server)
    batches = [distinct[first : first + size] for first in range(0, len(distinct), size)]
    asking = _Asking(server, _key(server.key))
    found: dict[Answer, Score] = {}
    # A loop of its own, in a thread, serves notebooks too, where one is running; what is left at an error is ended.
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(asking.client):
        futures = {portal.start_task_soon(asking.ask, batch): batch for batch in batches}
        try:
            for answer, score in shown(_arriving(futures), len(distinct)):
                found[answer] = score
        finally:
            for future in futures:
                future.cancel()
    if asking.silence is not None and not asking.answered:
        raise asking.stopped(asking.silence)
    if without := [score.remark for score in found.values() if score.value is None]:
        logger.warning(
            "%s: %d of %d answers have no score, such as: %.400s%s",
            server.url,
            len(without),
            len(found),
            without[0],
            "" if asking.failure is None else f"; the last failure{asking.failure.details}",
        )
    return [found[answer] for answer in answers]


def _arriving(futures: dict[Future[list[Score]], list[Answer]]) -> Iterator[tuple[Answer, Score]]:
    for future in as_completed(futures):
        yield from zip(futures[future], future.result(), strict=True)


def _key(name: str | None) -> str | None:
    """Returns the key that a variable holds.

    Raises:
        ServiceError: it holds none.
    """
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise ServiceError(
            f"the service's key should be in the environment variable {name}, which is not set; set it, on a cluster "
            "in the template of pods (docs/cluster.md), or leave key out"
        )
    if not KEY.fullmatch(key):  # the client would say so with the key in its words
        raise ServiceError(f"{name} has a blank, a line's end or a letter that no key has; set it anew")
    return key


class _Failed(NamedTuple):
    """Why a request has no reply. What is said of it is published with the answers, so that it names no address."""

    said: str  # behind `the server`
    passing: bool  # whether it may be another one later
    details: str = ""  # behind that, which may name the address
    remedy: str = ""


class _Asking:
    """One call: its client, its deadline, and what came of it so far. Its methods run in the loop's thread."""

    def __init__(self, server: Server, key: str | None) -> None:
        self.server = server
        self.hidden = Hidden(key)
        self.client = AsyncClient(
            headers={
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",  # a small reply may otherwise unfold to a large one
                **({} if key is None else {"Authorization": f"Bearer {key}"}),
            },
            timeout=Timeout(None, connect=server.connect_seconds),  # the whole has one where it is sent
            limits=Limits(max_connections=server.parallel),
            follow_redirects=False,  # they might lead the key elsewhere
        )
        self.places = anyio.Semaphore(server.parallel)
        self.ends = time.monotonic() + 60 * server.minutes
        self.answered = 0  # requests, by a reply or by a refusal
        self.silent = 0  # requests that failed
        self.silence: _Failed | None = None  # why the last one did
        self.failure: _Failed | None = None  # likewise, or why the last one was refused
        self.refusal: ServiceError | None = None  # after which nothing is asked any more
        self.out = False  # whether the log was told of an outage that no reply has ended

    async def ask(self, answers: Sequence[Answer]) -> list[Score]:
        """Returns the scores of the answers of a request; None, with the reason, where it fails.

        Raises:
            ServiceError: every other request would fail as well.
        """
        async with self.places:
            if self.refusal is not None:
                raise self.refusal
            try:
                return await self._scored(answers)
            except ServiceError as error:
                self.refusal = error
                raise

    async def _scored(self, answers: Sequence[Answer]) -> list[Score]:
        reply = await self._tried(answers)
        if isinstance(reply, _Failed) and reply.details:
            self.failure = reply
        if isinstance(reply, _Failed) and reply.passing:
            self.silent += 1
            self.silence = reply
            if not self.answered and self.silent >= LOST:
                raise self.stopped(reply)
        else:
            self.answered += 1
        if isinstance(reply, bytes):
            return service_servers.read(self.server, reply, len(answers), self.hidden)
        return [Score(None, f"no score: the server {reply.said}{reply.remedy}")] * len(answers)

    def stopped(self, last: _Failed) -> SilentServiceError:
        """Returns the error of a server that answered nothing, by why it did not answer the last request."""
        tried = f"{self.server.attempts} {'attempt' if self.server.attempts == 1 else 'attempts'}"
        counts = (
            f"its only request was not answered, with up to {tried}"
            if self.silent == 1
            else f"none of {self.silent} requests was answered, with up to {tried} each"
        )
        return SilentServiceError(f"{self.server.url} {last.said}{last.details}{last.remedy} ({counts})")

    async def _tried(self, answers: Sequence[Answer]) -> bytes | _Failed:
        """Returns the reply, or why there is none after all attempts, or when the time is over."""
        content = json.dumps(service_servers.ask(self.server, answers)).encode()
        failed: _Failed | None = None
        with anyio.move_on_after(self.ends - time.monotonic()):
            for attempt in range(1, self.server.attempts + 1):
                try:
                    with anyio.fail_after(self.server.seconds):
                        reply = await self._reply(content)
                    self.out = False
                    return reply
                except (TransportError, HTTPStatusError, TimeoutError) as error:
                    failed, wait = self._failure(error), _asked_wait(error)
                if not failed.passing or attempt == self.server.attempts:
                    return failed
                wait = min(WAIT_S * 2 ** (attempt - 1), LONGEST_WAIT_S) if wait is None else wait
                self._tell_outage(failed, wait)
                await anyio.sleep(wait)
        late = (
            f"had not answered after {self.server.minutes:g} minutes, the time for all answers of a task; give it more "
            "minutes, or let it do more in parallel"
        )
        return _Failed(late, True) if failed is None else _Failed(f"{late}; it {failed.said}", True, failed.details)

    def _tell_outage(self, failed: _Failed, wait: float) -> None:
        """Says that a request is tried again: once for all requests, until one is answered."""
        if not self.out:
            self.out = True
            logger.warning(
                "%s %s%s; it is asked again in %g s, up to %d times in all",
                self.server.url,
                failed.said,
                failed.details,
                wait,
                self.server.attempts,
            )

    async def _reply(self, content: bytes) -> bytes:
        """Returns the body of a reply.

        Raises:
            HTTPStatusError: the status says that there is none.
            ServiceError: it would not be another one for any request.
        """
        url = self.server.url
        async with self.client.stream("POST", service_servers.address(self.server), content=content) as response:
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > MOST:
                    raise ServiceError(f"{url} sent more than {MOST} bytes, which no list of scores has")
        reply = bytes(body)
        status, said = response.status_code, f": {self.hidden.beginning(reply)}" if reply else ""
        if status in (401, 403):
            remedy = "server.key is not set" if self.server.key is None else f"set {self.server.key} anew"
            raise ServiceError(f"{url} does not accept the key (status {status}): {remedy}")
        if status in MISDIRECTED:
            wrong = "url or model" if isinstance(self.server, OpenaiConfig) else "url"
            raise ServiceError(f"{url} answers no such requests (status {status}{said}); correct {wrong}")
        if not response.is_success:
            raise HTTPStatusError(said, request=response.request, response=response)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ServiceError(f"{url} sent a compressed reply, which was not asked for and is not read")
        return reply

    def _failure(self, error: TransportError | HTTPStatusError | TimeoutError) -> _Failed:
        details = ""
        match error:
            case HTTPStatusError(response=response):
                said, details = f"status {response.status_code}", str(error)
                fewer = "set fewer requests at a time (server.parallel) or more server.attempts"
                own = "see why in its own log, or set more server.attempts"
                remedy = fewer if response.status_code == 429 else own
            case TimeoutError():
                said = f"no whole reply within {self.server.seconds:g} s"
                remedy = "set more server.seconds or server.attempts"
            case TransportError():
                said, details = type(error).__name__, self.hidden.text(f": {error}") if str(error) else ""
                remedy = "see that it runs and that server.url is right"
        if transient.may_pass(error):
            return _Failed(f"does not answer: {said}", True, details, f"; {remedy}")
        return _Failed(f"refuses a request: {said}", False, details)


def _asked_wait(error: TransportError | HTTPStatusError | TimeoutError) -> float | None:
    """The seconds that a busy server is left alone for because it asks for it; None where it does not."""
    wait = error.response.headers.get("retry-after", "") if isinstance(error, HTTPStatusError) else ""
    return min(float(wait[:10]), LONGEST_ASKED_S) if wait.isascii() and wait.isdigit() else None
