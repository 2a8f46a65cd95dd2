"""The backend as a whole: a server of Flyte's calls on this machine, for as long as its context lasts."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import grpc
from flyteidl.service.admin_pb2_grpc import add_AdminServiceServicer_to_server
from flyteidl.service.dataproxy_pb2_grpc import add_DataProxyServiceServicer_to_server
from fsspec import AbstractFileSystem

from tests.cluster.backend.admin import Admin, DataProxy
from tests.cluster.backend.engine import Engine
from tests.cluster.backend.forks import Forks
from tests.cluster.backend.pods import Pods
from tests.cluster.backend.state import Registry

CLIENTS = 8  # calls that are answered at once


class Backend:
    """Serves `pyflyte -c CONFIG`, and runs what it is asked to run.

    Args:
        root: a folder for logs, and for the folders in which tasks run
        files: the object store
        prefix: the address in the store under which everything is kept
        variables: of the tasks' environment, such as those by which they reach the store
        workers: task processes at a time
    """

    def __init__(
        self, root: Path, files: AbstractFileSystem, prefix: str, variables: Mapping[str, str], workers: int
    ) -> None:
        self.config = root / "config.yaml"
        self.registry = Registry()
        self.executions = self.registry.executions  # everything that was started, by name
        self._root, self._files, self._prefix = root, files, prefix
        self._variables, self._workers = variables, workers
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Starts the server."""
        with self._open as opened:
            forks = Forks(self._variables)
            opened.callback(forks.close)
            pods = Pods(self._files, self._prefix, self._root, self._variables, self._workers, forks.folder)
            opened.callback(pods.close)
            server = grpc.server(ThreadPoolExecutor(CLIENTS))
            add_AdminServiceServicer_to_server(Admin(self.registry, Engine(self.registry, pods)), server)
            add_DataProxyServiceServicer_to_server(DataProxy(self.registry, self._files, self._prefix), server)
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            opened.callback(lambda: server.stop(grace=0).wait())
            self.config.write_text(f"admin:\n  endpoint: dns:///127.0.0.1:{port}\n  insecure: true\n")
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the server, and every process that it has started."""
        self._open.close()
        for execution in self.executions.values():
            execution.ended.wait()
