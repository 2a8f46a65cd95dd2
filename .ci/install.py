"""Installs packages into a virtual environment, as the Makefile does: `python .ci/install.py FOLDER [SET ...]`.

FOLDER gets `dependencies` of pyproject.toml, which is what training needs. A SET is one of its extras or dependency
groups. The versions are those of constraints.txt, for tools also those of tests/constraints.txt.

uv installs. It reads no settings of pip, so it is told them here. Where uv cannot be had, or fails, pip installs.
This file needs Python's standard library and nothing else.
"""

import ast
import fcntl
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "constraints.txt"
TOOL_PINS = ROOT / "tests" / "constraints.txt"
READ_AT_START = (ROOT / "images" / "quiet.pth", ROOT / ".ci" / "pyflyte.pth")  # of each Python there
# The settings of pip that decide what comes from where, and the variables by which uv is told the same.
VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "no-index": "UV_NO_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
}


def read_settings(listing: str) -> dict[str, str]:
    """Returns the settings that `pip install` obeys, of what `pip config list` prints."""
    found = [line.partition("=") for line in listing.splitlines() if "=" in line]
    settings: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):  # a later one has the last word
        for name, _, value in found:
            if name.startswith(section):
                settings[name.removeprefix(section)] = str(ast.literal_eval(value))
    return settings


def uv_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment that tells uv what pip's settings tell pip."""
    # pip compares what all indexes have. By itself uv would stop at the first index that knows a package.
    variables = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for name, variable in VARIABLES.items():
        if name in settings:
            separator = "," if variable == "UV_FIND_LINKS" else " "
            variables[variable] = separator.join(settings[name].split())
    return variables


def requirements(sets: Sequence[str]) -> list[str]:
    """Returns what uv and pip are asked for, the versions first.

    Raises:
        SystemExit: pyproject.toml has no such set.
    """
    read = tomllib.loads((ROOT / "pyproject.toml").read_text())
    offered = read["project"]["optional-dependencies"] | read["dependency-groups"]
    if unknown := set(sets) - set(offered):
        sys.exit(f"pyproject.toml has no set {', '.join(sorted(unknown))}; it has {', '.join(offered)}")
    packages = sum((offered[name] for name in sets), read["project"]["dependencies"])
    return ["--constraint", str(PINS), "--constraint", str(TOOL_PINS), *packages]


def changes(folder: Path) -> list[int]:
    """Returns when packages were last added to or taken from a virtual environment."""
    return [packages.stat().st_mtime_ns for packages in sorted(folder.glob("lib/python*/site-packages"))]


def install(folder: Path, wanted: Sequence[str]) -> int:
    """Installs into a virtual environment, which is made if it is not there; returns the exit status."""
    # An installer that was killed leaves packages that look whole and are not. Nobody can tell which.
    unfinished = folder / ".unfinished"
    if unfinished.exists():
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    unfinished.touch()
    python = folder / "bin" / "python"
    if not python.exists() and subprocess.call([sys.executable, "-m", "venv", str(folder)]):
        return 1
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    status = subprocess.call([*pip, "install", "--quiet", "--constraint", str(PINS), "uv"])
    before = changes(folder)
    if not status:
        settings = read_settings(subprocess.check_output([*pip, "config", "list"], text=True))
        # Compiled now, since processes that write nothing would compile what they import each time anew.
        uv = [str(folder / "bin" / "uv"), "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
        status = subprocess.call([*uv, *wanted], env=uv_variables(settings) | os.environ)
    if status:
        print("uv could not install this. Now pip tries, which takes minutes.", file=sys.stderr)
        status = subprocess.call([*pip, "install", "--quiet", *wanted])
    for packages in folder.glob("lib/python*/site-packages"):
        for file in READ_AT_START:
            shutil.copy(file, packages)
    if not status or changes(folder) == before:  # such as where a version does not exist
        unfinished.unlink()
    return status


def main(arguments: Sequence[str]) -> int:
    """Installs what is named on the command line; returns the exit status."""
    folder, *sets = arguments
    wanted = requirements(sets)
    with PINS.open("r+") as lock:  # of two targets of make that run at once, one waits here for the other
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(f"installing {' and '.join(['what training needs', *sets])} into {folder}", file=sys.stderr)
        return install(Path(folder), wanted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
