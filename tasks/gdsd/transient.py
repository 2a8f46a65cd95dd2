"""Which errors may go away by themselves, so that another try is worth it: lost connections, busy servers, lost GPUs.

Errors of a library are known by the names of their classes, so that nothing is imported to look at one. Not all that
torch reports of memory and of GPUs has a class of its own. For that alone an error's words are read, and only here.
"""

import errno
import socket
import sqlite3
from collections.abc import Iterator, Mapping

from tasks.gdsd.errors import GdsdError, PassingError

NAMES = frozenset(
    {
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",  # half an answer
        "azure.core.exceptions.IncompleteReadError",
        "azure.core.exceptions.ServiceRequestError",
        "azure.core.exceptions.ServiceResponseError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
        "botocore.exceptions.IncompleteReadError",
        "httpx.TransportError",
        "httpx2.TransportError",
        "requests.exceptions.ChunkedEncodingError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.Timeout",
        "torch.distributed.DistBackendError",
        "torch.distributed.DistNetworkError",
        "urllib3.exceptions.IncompleteRead",
        "urllib3.exceptions.ProtocolError",
        "urllib3.exceptions.TimeoutError",
    }
)
NEVER = frozenset({"huggingface_hub.errors.OfflineModeIsEnabled"})  # a setting, though by its class a lost connection
ERRNOS = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,  # S3 asks for fewer requests
        errno.EHOSTUNREACH,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EREMOTEIO,  # an error inside of S3
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
# What torch's allocator of the machine's memory, and CUDA's libraries, say in a plain RuntimeError.
SHORTAGE = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})  # by another process
STATUS = frozenset({408, 425, 429})  # beside 500 and above


def may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed, by an error or the cause that it names.

    An error of the project does so only by its cause, or as a `PassingError`; the shortage of memory does not.
    """
    return any(_passes(link) for link in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def _passes(error: BaseException) -> bool:
    names = _names(error)
    if isinstance(error, GdsdError | PassingError) or names & NEVER:
        return isinstance(error, PassingError)
    if names & NAMES or isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return True
    if isinstance(error, OSError) and error.errno in ERRNOS:
        return True
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in LOCKED
    status = _status(error)
    if status is not None:
        return status >= 500 or status in STATUS
    return _lost_gpu(error, names)


def _status(error: BaseException) -> int | None:
    """The HTTP status that a client's error has in it, wherever that library keeps it."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # of botocore
        found = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")]
    else:
        found = [getattr(response, "status_code", None)]
        found += [getattr(error, name, None) for name in ("status_code", "status", "code")]  # of Azure, aiohttp, Google
    return next((status for status in found if isinstance(status, int) and 100 <= status < 600), None)


def _lost_gpu(error: BaseException, names: set[str]) -> bool:
    """Whether a GPU stopped to answer; a wrong index, which it reports likewise, would be as wrong the next time."""
    said = str(error)
    of_gpu = "torch.AcceleratorError" in names or (isinstance(error, RuntimeError) and "CUDA error" in said)
    if not of_gpu or "device-side assert" in said:
        return False
    return not is_shortage(error)


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on a GPU or in the machine."""
    if isinstance(error, MemoryError) or "torch.OutOfMemoryError" in _names(error):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SHORTAGE)


def _names(error: BaseException) -> set[str]:
    """The full names of an error's classes."""
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
