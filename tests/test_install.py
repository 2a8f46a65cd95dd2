"""What `make` installs: as pip is configured, by uv or by pip, and in pinned versions only."""

import re
import runpy
import subprocess
import tomllib
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = runpy.run_path(str(ROOT / ".ci" / "install.py"))
CUDA = ("cuda-", "nvidia-", "triton")  # which one build of torch brings, and pins itself
LISTING = """\
:env:.cert='/a/certificates.pem'
:env:.timeout='9'
download.index-url='https://not.for.install/simple'
global.constraint='/a/limits.txt'
global.extra-index-url='https://me:key@a.example/simple?b=c file:///b/simple'
global.find-links='/a/wheels https://b.example/wheels'
global.index-url='https://overruled.example/simple'
global.timeout='3'
install.index-url='https://c.example/simple'
"""


def test_uv_is_told_what_pip_is_told() -> None:
    """If it fails, uv asks the public index where pip asks a company's, or takes another build of torch than pip."""
    assert SCRIPT["uv_variables"](SCRIPT["read_settings"](LISTING)) == {
        "SSL_CERT_FILE": "/a/certificates.pem",
        "UV_CONSTRAINT": "/a/limits.txt",
        "UV_DEFAULT_INDEX": "https://c.example/simple",
        "UV_FIND_LINKS": "/a/wheels,https://b.example/wheels",
        "UV_HTTP_TIMEOUT": "9",
        "UV_INDEX": "https://me:key@a.example/simple?b=c file:///b/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


@pytest.mark.parametrize("broken", ["uv cannot be had", "uv fails"])
def test_pip_installs_where_uv_does_not(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a machine on which uv does not work cannot train."""
    ran: list[list[str]] = []

    def call(command: list[str], **_: object) -> int:
        ran.append(command)
        return int(command[-1] == "uv" if broken == "uv cannot be had" else command[0].endswith("/uv"))

    monkeypatch.setattr(subprocess, "call", call)
    monkeypatch.setattr(subprocess, "check_output", lambda *_, **__: LISTING)
    assert SCRIPT["install"](tmp_path / "new", ["some", "packages"]) == 0
    assert ran[-1][1:] == ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "some", "packages"]


def test_what_a_killed_install_left_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, a package that was half copied stays, and training fails on its import for ever."""
    torn = tmp_path / "lib" / "python3.11" / "site-packages" / "torn"

    def killed(command: list[str], **_: object) -> int:
        torn.mkdir(parents=True, exist_ok=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(subprocess, "call", killed)
        SCRIPT["install"](tmp_path, [])
    assert torn.exists()
    monkeypatch.setattr(subprocess, "call", lambda command, **_: 1)
    assert SCRIPT["install"](tmp_path, []) == 1
    assert not torn.exists()


def needed(names: Iterable[str]) -> set[str]:
    """The packages that some packages need on Python 3.11, themselves included."""
    waiting = [(Requirement(name), "") for name in names]
    seen: set[tuple[str, str]] = set()
    while waiting:
        asked, extra = waiting.pop()
        key = canonicalize_name(asked.name)
        if (key, extra) in seen or key.startswith(CUDA):
            continue
        seen.add((key, extra))
        for text in requires(key) or []:
            found = Requirement(text)
            where = {"extra": extra, "python_version": "3.11", "python_full_version": "3.11.0"}
            if found.marker is None or found.marker.evaluate(where):
                waiting += [(found, extra) for extra in ["", *found.extras]]
    return {key for key, _ in seen}


def pins(file: str) -> set[str]:
    """The packages that a file pins."""
    return {canonicalize_name(name) for name in re.findall(r"^(\S+)==\S+$", (ROOT / file).read_text(), re.M)}


@pytest.mark.whole  # which has every extra installed
def test_each_file_pins_what_its_sets_need_and_nothing_else() -> None:
    """If it fails, two installs differ, or training waits for packages that it never imports."""
    read = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = read["project"]["optional-dependencies"].values()
    run = needed(sum(extras, read["project"]["dependencies"]))
    assert pins("constraints.txt") == run | {"uv"}
    assert pins("tests/constraints.txt") == needed(read["dependency-groups"]["dev"]) - run
