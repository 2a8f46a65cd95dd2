"""The cluster that the tests of this folder run on, for as long as they run, and how long each execution took."""

import json
import logging
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.backend.server import Backend
from tests.cluster.stand_in import BIN, BUCKET, Cluster, Weather, object_store

EXECUTION, OVERHEAD = "executions", "what rounds took beyond their work"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A backend whose tasks see nothing but a store of objects: two at a time, each in an empty folder of its own."""
    import s3fs

    root = tmp_path_factory.mktemp("cluster")
    # Where the project is installed beside its libraries, code that does not travel would go unnoticed.
    lost = subprocess.run([BIN / "python", "-c", "import tasks"], cwd=root, capture_output=True)
    assert lost.returncode, f"{BIN} has the project itself; use an environment of `make install`"
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    weather = Weather()
    server = object_store(weather)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host, port = server.server_address[:2]
    access = {
        "FLYTE_AWS_ENDPOINT": f"http://{host}:{port}",
        "FLYTE_AWS_ACCESS_KEY_ID": "key",
        "FLYTE_AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_MAX_ATTEMPTS": "1",  # a store that refuses is refused by the task, not waited for inside of it
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(root),  # what flytekit leaves there goes with the folder
    }
    options = {"key": "key", "secret": "secret", "client_kwargs": {"endpoint_url": access["FLYTE_AWS_ENDPOINT"]}}
    # Listings that are kept would hide what the tasks write.
    files = s3fs.S3FileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
    files.mkdir(BUCKET)
    with Backend(root, files, f"s3://{BUCKET}/flyte", access, workers=2) as backend:
        yield Cluster(backend, files, weather, access)
    server.shutdown()


@pytest.fixture(autouse=True)
def tell(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[None]:
    """Keeps what the executions of a test took, for the end of the run."""
    yield
    request.node.user_properties += [(EXECUTION, line) for line in cluster.told]
    cluster.told.clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    ended = [report for report in reports if getattr(report, "when", "") == "teardown"]
    for title in (EXECUTION, OVERHEAD):
        lines = [line for report in ended for name, line in report.user_properties if name == title]
        if lines:
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Writes a configuration and returns its file, which pyflyte takes."""
    folder = tmp_path_factory.mktemp("configs")

    def write(name: str, config: dict[str, Any]) -> Path:
        file = folder / f"{name}.yaml"
        file.write_text(json.dumps(config))  # which is YAML too
        return file

    return write
