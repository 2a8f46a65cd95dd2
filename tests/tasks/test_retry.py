"""What Flyte tries again, as flytekit reports it: what may go away by itself, and nothing else."""

import errno
import socket
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import azure.core.exceptions
import botocore.exceptions
import httpx2
import huggingface_hub.errors
import pytest
import requests
import torch
from flytekit import task
from flytekit.types.file import FlyteFile
from fsspec.implementations.memory import MemoryFileSystem
from gcsfs.retry import HttpError
from yarl import URL

from tasks.flyte.retry import retried
from tasks.gdsd.config.train import TrainConfig
from tasks.gdsd.distill.failures import LostProcessError, ProcessError
from tasks.gdsd.distill.machines import VanishedError
from tasks.gdsd.distill.memory import OutOfMemoryError
from tasks.gdsd.errors import CheckpointError, GdsdError
from tasks.gdsd.transient import may_pass
from tasks.promote import draw_seeds, find_champion
from tests.tasks.pods import attempt


def answered(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://hub"))


def of_requests(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(response=response)


def of_aiohttp(status: int) -> aiohttp.ClientResponseError:
    info = aiohttp.RequestInfo(URL("https://store"), "GET", {}, URL("https://store"))  # type: ignore[arg-type]  # no headers are read
    return aiohttp.ClientResponseError(info, (), status=status)


def of_s3(status: int) -> botocore.exceptions.ClientError:
    answer = {"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(answer, "GetObject")  # type: ignore[arg-type]  # the rest is not read


def of_azure(status: int) -> azure.core.exceptions.HttpResponseError:
    error = azure.core.exceptions.HttpResponseError("x")
    error.status_code = status
    return error


def of_sqlite(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = code
    return error


def because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


PASSING: dict[str, Callable[[], BaseException]] = {
    "connection reset": lambda: ConnectionResetError(errno.ECONNRESET, "reset by peer"),
    "connection refused": lambda: ConnectionRefusedError(),
    "timeout": lambda: TimeoutError(),
    "name not resolved": lambda: socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    "network unreachable": lambda: OSError(errno.ENETUNREACH, "Network is unreachable"),
    "S3 is busy": lambda: OSError(errno.EBUSY, "Please reduce your request rate."),
    "S3 has an error": lambda: OSError(errno.EREMOTEIO, "We encountered an internal error."),
    "disk": lambda: OSError(errno.EIO, "Input/output error"),
    "botocore endpoint": lambda: botocore.exceptions.EndpointConnectionError(endpoint_url="https://store"),
    "botocore closed": lambda: botocore.exceptions.ConnectionClosedError(endpoint_url="https://store"),
    "botocore read": lambda: botocore.exceptions.ReadTimeoutError(endpoint_url="https://store"),
    "botocore half": lambda: botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    "botocore 503": lambda: of_s3(503),
    "aiohttp connect": lambda: aiohttp.ServerDisconnectedError(),
    "aiohttp half": lambda: aiohttp.ClientPayloadError("Response payload is not completed"),
    "aiohttp 500": lambda: of_aiohttp(500),
    "Google 503": lambda: HttpError({"code": 503, "message": "x"}),
    "a database in use": lambda: because(Exception("of a library"), of_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT)),
    "Azure request": lambda: azure.core.exceptions.ServiceRequestError("x"),
    "Azure 503": lambda: of_azure(503),
    "requests connect": lambda: requests.ConnectionError(),
    "requests timeout": lambda: requests.Timeout(),
    "requests 502": lambda: of_requests(502),
    "httpx connect": lambda: httpx2.ConnectError("x"),
    "httpx read": lambda: httpx2.ReadTimeout("x"),
    "hub 504": lambda: huggingface_hub.errors.HfHubHTTPError("x", response=answered(504)),
    "hub 429": lambda: huggingface_hub.errors.HfHubHTTPError("x", response=answered(429)),
    "hub gone, refused by us": lambda: because(
        CheckpointError("x is not in the local cache and the hub cannot be reached"),
        because(huggingface_hub.errors.LocalEntryNotFoundError("x"), httpx2.ConnectError("x")),
    ),
    "GPU lost": lambda: torch.AcceleratorError("CUDA error: unspecified launch failure"),
    "GPU lost in a product": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `x`"),
    "NCCL": lambda: torch.distributed.DistBackendError("NCCL error: unhandled system error"),
    "process killed": lambda: LostProcessError("x"),
    "machine taken away": lambda: VanishedError("x"),
}
ORDINARY: dict[str, Callable[[], BaseException]] = {
    "of the project": lambda: CheckpointError("gdsd.json is missing"),
    "of the project, by a setting": lambda: because(
        CheckpointError("x"), huggingface_hub.errors.OfflineModeIsEnabled("HF_HUB_OFFLINE")
    ),
    "hub 401": lambda: because(
        CheckpointError("x"), huggingface_hub.errors.HfHubHTTPError("x", response=answered(401))
    ),
    "a database that cannot be opened": lambda: of_sqlite(sqlite3.SQLITE_CANTOPEN),
    "an error of a database by somebody else": lambda: sqlite3.OperationalError("x"),
    "hub 404": lambda: huggingface_hub.errors.RepositoryNotFoundError("x", response=answered(404)),
    "botocore 403": lambda: of_s3(403),
    "requests 404": lambda: of_requests(404),
    "Google 403": lambda: HttpError({"code": 403, "message": "x"}),
    "no such file": lambda: FileNotFoundError(errno.ENOENT, "x"),
    "not allowed": lambda: PermissionError(errno.EACCES, "x"),
    "disk full": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "memory": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "memory, said by CUDA": lambda: torch.AcceleratorError("CUDA error: out of memory"),
    "memory, refused by us": lambda: because(OutOfMemoryError("x"), torch.OutOfMemoryError("CUDA out of memory")),
    "wrong index on a GPU": lambda: torch.AcceleratorError("CUDA error: device-side assert triggered"),
    "process failed": lambda: ProcessError("x"),
    "mistake": lambda: TypeError("x"),
    "index": lambda: IndexError("x"),
    "assertion": lambda: AssertionError(),
}


@pytest.mark.parametrize("name", [*PASSING, *ORDINARY])
def test_what_may_pass(name: str) -> None:
    """If it fails, a night's run ends because a server was restarted, or a mistake is paid for four times."""
    assert may_pass((PASSING | ORDINARY)[name]()) == (name in PASSING)


def test_an_error_that_causes_itself_ends() -> None:
    """If it fails, the task that failed hangs."""
    error = ValueError()
    error.__cause__ = error
    assert not may_pass(error)


@task
@retried
def fails(name: str) -> int:
    """Fails as the tables above say; `nothing` does not."""
    if name != "nothing":
        raise (PASSING | ORDINARY)[name]()
    return 3


@pytest.mark.parametrize("name", ["connection reset", "hub gone, refused by us", "of the project", "memory", "mistake"])
def test_flyte_is_told(name: str, tmp_path: Path) -> None:
    """If it fails, Flyte retries nothing, or everything. The cause must be legible in either case."""
    found = attempt(fails, tmp_path, name=name)
    assert found.retried == (name in PASSING) and found.outputs is None
    error = (PASSING | ORDINARY)[name]()
    assert found.error is not None and f"{type(error).__name__}: {error}" in found.error.message
    assert ("worth another attempt" in found.error.message) == (name in PASSING)


@task
@retried
def reads(file: FlyteFile) -> str:
    """Reads an input, which is fetched when it is opened."""
    return Path(file).read_text()


def test_an_input_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a store that is away for a minute ends a run; one that has no such file would be asked again.

    flytekit turns the former into an error that it calls recoverable, but reports as one of the user.
    """
    (tmp_path / "file").write_text("x")
    assert attempt(reads, tmp_path / "there", file=FlyteFile(str(tmp_path / "file"))).outputs is not None
    assert not attempt(reads, tmp_path / "gone", file=FlyteFile("memory://nowhere/file")).retried

    def away(*_: object, **__: object) -> None:
        raise ConnectionResetError("reset by peer")

    for name in ("get", "exists"):
        monkeypatch.setattr(MemoryFileSystem, name, away)
    assert attempt(reads, tmp_path / "away", file=FlyteFile("memory://nowhere/file")).retried


def test_what_works_is_left_alone(tmp_path: Path) -> None:
    """If it fails, a task that may be retried loses its result or its name."""
    assert attempt(fails, tmp_path, name="nothing").outputs is not None
    assert fails.name == "tests.tasks.test_retry.fails" and fails(name="nothing") == 3


def test_a_local_run_shows_the_error_itself() -> None:
    """If it fails, a person reads of an attempt that nobody makes."""
    with pytest.raises(ConnectionResetError, match="reset by peer"):
        fails(name="connection reset")
    with pytest.raises(GdsdError):
        fails(name="of the project")


@pytest.mark.parametrize(
    ("ran", "inputs", "message"),
    [
        (
            find_champion,
            {"registry": "registry", "experiment": "nightly", "kickoff_time": datetime(2026, 11, 24, tzinfo=UTC)},
            "RegistryError: the registry (GDSD_REGISTRY, where nights are ",
        ),
        (
            draw_seeds,
            {"config": TrainConfig.model_construct(rounds=0), "kickoff_time": datetime(2026, 11, 24, tzinfo=UTC)},
            "ConfigError: TrainConfig refused:\n  rounds: got 0;",
        ),
    ],
)
def test_a_refusal_in_a_pod_is_its_words(
    ran: Callable[..., object], inputs: dict[str, object], message: str, tmp_path: Path
) -> None:
    """If it fails, who reads Flyte's console in the morning looks for one sentence in 37 to 161 lines of traceback."""
    tried = attempt(ran, tmp_path, **inputs)
    assert tried.error is not None and not tried.retried
    assert tried.error.message.startswith(message) and "Traceback" not in tried.error.message
