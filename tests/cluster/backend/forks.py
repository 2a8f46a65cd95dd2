"""Starts a pod's Python programs with the libraries imported already.

Most of a small task's time goes into importing flytekit, torch and their like. Here one process imports them once. For
each program that is asked for it forks, and the fork takes over the command line, the environment, the folder, the
streams and the process group of the one who asks. Of this project it has nothing: that comes with the task.

This file is also the program of that process.
"""

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

# Programs of flytekit that a task's command line may name, and the functions that they call.
PROGRAMS = {
    "pyflyte-fast-execute": "fast_execute_task_cmd",
    "pyflyte-execute": "execute_task_cmd",
    "pyflyte-map-execute": "map_execute_task_cmd",
}
LIBRARIES = (
    "accelerate",
    "flytekit.bin.entrypoint",
    "great_expectations",
    "matplotlib.figure",
    "pandas",
    "pyarrow.parquet",
    "s3fs",
    "safetensors.torch",
    "scipy.stats",
    "transformers.modeling_utils",
)
# What lies in place of each program. It ends as the fork does, and not before.
STAND_IN = """#!{python} -IS
import json, os, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect({address!r})
wanted = {{"words": sys.argv, "folder": os.getcwd(), "variables": dict(os.environ), "group": os.getpgid(0)}}
socket.send_fds(asked, [json.dumps(wanted).encode() + b"\\n"], [0, 1, 2])
status = asked.recv(1)
asked.recv(1)
sys.exit(status[0] if status else 137)
"""
OPEN: list[socket.socket] = []  # closed by the end of the process alone, which who asked waits for


class Forks:
    """Has a folder with stand-ins for the programs, to be put before others in PATH; they wait for the imports."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="forks-")
        self.folder = Path(self._home.name)
        address = str(self.folder / "socket")
        # Great Expectations reads the last one when it is imported, and would call home.
        home = {"HOME": str(self.folder), "PATH": os.environ["PATH"], "GX_ANALYTICS_ENABLED": "False"}
        for name in PROGRAMS:
            program = self.folder / name
            program.write_text(STAND_IN.format(python=sys.executable, address=address))
            program.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(listener.fileno())],
                pass_fds=[listener.fileno()],
                cwd=self.folder,
                env=home | dict(variables),
                stdin=subprocess.PIPE,  # which is closed when this process ends, however it does
            )

    def close(self) -> None:
        """Ends the process that forks; the forks themselves are ended by who asked for them."""
        with self._process:
            self._process.kill()
        self._home.cleanup()


def serve(listener: socket.socket) -> int:
    """Forks for each who asks; returns the status with which the process, or a fork, is to end."""
    for name in LIBRARIES:
        import_module(name)
    gc.freeze()  # what all share is not looked at again, which would copy it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that forks that have ended are gone
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        asked, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return run(asked)
        asked.close()
    return 0


def run(asked: socket.socket) -> int:
    """Becomes the process that was asked for, and returns its status."""
    OPEN.append(asked)
    status = 1
    try:
        become(asked)
        program = PROGRAMS[Path(sys.argv[0]).name]
        vars(import_module("flytekit.bin.entrypoint"))[program]()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    asked.send(bytes([status % 256]))
    return status


def become(asked: socket.socket) -> None:
    """Takes over what makes a process from the one who asks."""
    content, streams, _, _ = socket.recv_fds(asked, 1 << 16, 3)
    while not content.endswith(b"\n"):
        content += asked.recv(1 << 16)
    wanted = json.loads(content)
    os.setpgid(0, wanted["group"])  # fails if the group was killed meanwhile
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["variables"])
    sys.argv = wanted["words"]
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    tempfile.tempdir = None  # to be looked up again, as what flytekit derives from it
    import_module("flytekit.core.context_manager").FlyteContextManager.initialize()


if __name__ == "__main__":
    sys.exit(serve(socket.socket(fileno=int(sys.argv[1]))))
