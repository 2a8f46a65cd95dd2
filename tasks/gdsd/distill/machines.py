"""Machines that share a piece of work: they meet at an address, at a store that one of them holds, and agree there.

Each machine runs the same program. They share nothing else: no disk, and no knowledge of which one has failed.
"""

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousParameters
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from tasks.gdsd.distill.failures import FailureReport
from tasks.gdsd.errors import PassingError
from tasks.gdsd.records import Record

COME_SECONDS = 1800  # for a machine that is rented and has yet to fetch its image
HEAR_SECONDS = 3600  # for a process or machine that is busy with whole weights at a slow store; see `listening`
# Where all machines refuse alike, each ends by itself, and the one with the first process last: it may still write
# evidence. This comes after the five minutes that torch's launcher waits for the others before a machine can tell.
GRACE_SECONDS = 60


class VanishedError(PassingError, RuntimeError):
    """A machine was taken away, or never came: nothing is wrong with the work, which may be tried again."""


class ElsewhereError(RuntimeError):
    """What came of the work, good or bad, is another machine's to tell."""


class Told(Record):
    """How a piece of work ended on a machine."""

    first: bool = False  # whether the first of all processes ran there
    failure: FailureReport | None = None
    gone: bool = False  # it is being taken away

    @property
    def refused(self) -> bool:
        return self.failure is not None and self.failure.kind == "refusal"

    @property
    def broken(self) -> bool:
        """Whether its processes ended in disorder, so that those of other machines wait for them."""
        return self.gone or (self.failure is not None and not self.refused)


class Machines:
    """This machine and the others that share its work, once all have come."""

    def __init__(self, endpoint: str, count: int, patience: float = COME_SECONDS) -> None:
        """Waits for the others.

        Args:
            endpoint: host and port of the machine that holds the store.
            count: how many machines there are.
            patience: seconds for all to come.

        Raises:
            VanishedError: they have not.
        """
        host, port = parse_rendezvous_endpoint(endpoint, default_port=29400)
        deadline = time.monotonic() + patience
        self.endpoint, self.count = f"{host}:{port}", count
        try:
            self.address = _own_address(host, port, deadline)
            # The launcher's own connection to the same address finds this store there, which outlives its failures.
            parameters = RendezvousParameters(
                "c10d", self.endpoint, "gdsd", 1, 1, read_timeout=max(1, round(deadline - time.monotonic()))
            )
            _, self._store = create_backend(parameters)
            self.number = self._store.add("arrived", 1) - 1
            if self.number == count - 1:
                self._store.set("complete", "")
            self._store.wait(["complete"], timedelta(seconds=max(1.0, deadline - time.monotonic())))
        except (OSError, RuntimeError, RendezvousConnectionError) as error:
            raise VanishedError(
                f"{count} machines share this work, and not all have come to {endpoint} within {patience:.0f} s; see "
                f"whether the cluster has as many of the kind, and lower distill.compute.nodes if not ({error})"
            ) from error
        self._talks = 0

    @property
    def talk(self) -> str:
        """A name for what comes next, the same on all machines."""
        return f"talk-{self._talks}"

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Ends the work on all machines where one fails inside, which the others would wait for.

        They hear of it once all machines are through or have failed. One that is killed inside says nothing: the
        others end after HEAR_SECONDS, if the operator that started them all does not end them before.

        Raises:
            ElsewhereError: another machine has failed, and says why.
            VanishedError: see `tell`.
        """
        try:
            yield
        except Exception as error:
            with suppress(VanishedError):
                self.tell(Told(failure=FailureReport.of(error)))
            raise
        failed = [number for number, one in enumerate(self.tell(Told())) if one.failure is not None]
        if failed:
            raise ElsewhereError(f"machine {failed[0] + 1} of {self.count} has failed, and says why")

    @contextmanager
    def listening(self, end: Callable[[], None]) -> Iterator[None]:
        """Calls `end` each second once a machine has crashed, is being taken away, or refused GRACE_SECONDS ago.

        Processes on this one may not notice by themselves, and would wait for its processes until they lose patience.
        """
        keys = [f"{self.talk}/{number}" for number in range(self.count)]
        over = threading.Event()

        def listen() -> None:
            latest = math.inf
            while not over.wait(1):
                told = self._told_so_far(keys)
                if any(one.refused for one in told):
                    latest = min(latest, time.monotonic() + GRACE_SECONDS)
                if time.monotonic() > latest or any(one.broken for one in told):
                    end()

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield
        finally:
            over.set()
            listener.join()

    def _told_so_far(self, keys: Sequence[str]) -> list[Told]:
        try:
            return [Told.model_validate_json(self._store.get(key)) for key in keys if self._store.check([key])]
        except RuntimeError:  # of the machine that holds the store
            return [Told(gone=True)]

    def agree(self, mine: Told) -> FailureReport | None:
        """Tells the others how the work ended here; returns how it failed, if it did, where this machine is to say so.

        Raises:
            ElsewhereError: another machine is to say how the work ended.
            VanishedError: see `tell`.
        """
        told = self.tell(mine)
        speaks = speaker(told)
        if speaks is None:
            return cause(told)
        if speaks != self.number:
            raise ElsewhereError(f"machine {speaks + 1} of {self.count} has what came of the work")
        return mine.failure

    def tell(self, mine: Told) -> list[Told]:
        """Tells the others how this machine's part ended, and returns what all have told, in the order of arrival.

        Raises:
            VanishedError: a machine has told nothing, or the one that holds the store is gone.
        """
        talk = self.talk
        self._talks += 1
        keys = [f"{talk}/{number}" for number in range(self.count)]
        patience = timedelta(seconds=HEAR_SECONDS)
        try:
            self._store.set(keys[self.number], mine.model_dump_json())
            self._store.wait(keys, patience)
            told = [Told.model_validate_json(self._store.get(key)) for key in keys]
            heard = self._store.add(f"{talk}/heard", 1)
        except RuntimeError as error:
            raise self._vanished(mine) from error
        if any(one.gone for one in told):
            raise self._vanished(mine)
        # The one that holds the store must not leave before all have heard; who is behind it has heard already.
        with suppress(RuntimeError):
            if heard == self.count:
                self._store.set(f"{talk}/left", "")
            self._store.wait([f"{talk}/left"], patience)
        return told

    def leave(self) -> None:
        """Tells the others that this machine is being taken away, and waits for nobody."""
        with suppress(RuntimeError):
            self._store.set(f"{self.talk}/{self.number}", Told(gone=True).model_dump_json())

    def _vanished(self, mine: Told) -> VanishedError:
        return VanishedError(
            f"a machine of {self.count} is gone; the work can be tried again. Machine {self.number + 1} at "
            f"{self.address} says: {'nothing was wrong here' if mine.failure is None else mine.failure.story}"
        )


def speaker(told: Sequence[Told]) -> int | None:
    """Returns the machine that tells the user how the work ended, or None where all say the same about a failure.

    All processes raise the same errors of the project, so that the first one's is enough; it may have left evidence.
    Where one leaves the others alone with such an error, theirs is a crash that means nothing.
    """
    refused = [number for number, one in enumerate(told) if one.refused]
    if refused:
        return min(refused, key=lambda number: not told[number].first)
    if any(one.failure is not None for one in told):
        return None
    return next(number for number, one in enumerate(told) if one.first)


def cause(told: Sequence[Told]) -> FailureReport:
    """Returns the failure that came before all others, with its machine."""
    failed = [(number, one.failure) for number, one in enumerate(told, 1) if one.failure is not None]
    number, first = min(failed, key=lambda item: item[1].seconds)
    return first.model_copy(update={"story": f"machine {number} of {len(told)}: {first.story}"})


def _own_address(host: str, port: int, deadline: float) -> str:
    """Returns the address under which a host that may not be known yet reaches this machine."""
    while True:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)  # sends nothing
                found: str = probe.getsockname()[0]
                return found
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
