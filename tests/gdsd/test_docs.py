"""The additions of docs/extending.md, made to a copy of the code and used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/extending.md").read_text()
BLOCK = re.compile(r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
SECTIONS = ["objective", "family", "engine"]


class Block(NamedTuple):
    kind: str
    text: str
    path: str  # the file that was named last before it


def blocks(section: str) -> list[Block]:
    """The blocks of a section, whose title ends with its word."""
    (text,) = re.findall(rf"^## An? (?:\w+ )?{section}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    named = [(match.start(), match[1]) for match in re.finditer(r"`(tasks/[\w/]+\.py)`", text)]
    return [
        Block(
            match["kind"],
            match["text"],
            max((place for place in named if place[0] < match.start()), default=(0, ""))[1],
        )
        for match in BLOCK.finditer(text)
    ]


def changed(text: str, diff: str) -> str:
    """Applies a block: what it shows as there must be there once."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    assert ("\n" + text).count("\n" + before) == 1, f"not once in the file:\n{before}"
    return ("\n" + text).replace("\n" + before, "\n" + after)[1:]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code with everything on the page added to it."""
    place = tmp_path_factory.mktemp("copy")
    for folder in ("tasks", "tests"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__", "test_*"))
    for section in SECTIONS:
        for kind, text, path in blocks(section):
            if kind == "yaml":
                (place / f"{section}.yaml").write_text(text)
            elif kind == "python":
                assert not (place / path).exists(), path
                (place / path).write_text(text)
            else:
                (place / path).write_text(changed((place / path).read_text(), text))
    return place


def test_every_section_has_a_file_and_a_configuration() -> None:
    """If it fails, the other tests of the page look at less than a reader does."""
    for section in SECTIONS:
        kinds = [block.kind for block in blocks(section)]
        assert kinds.count("python") == kinds.count("yaml") == 1 and "diff" in kinds
        assert all(block.path for block in blocks(section))
    assert len(BLOCK.findall(PAGE)) == sum(len(blocks(section)) for section in SECTIONS)


def test_the_additions_work(copy: Path) -> None:
    """If it fails, who follows the page ends up with an objective, a family or an engine that does not work."""
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.gdsd.additions", str(copy)],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert outcome.returncode == 0, outcome.stderr[-3000:]


def test_the_additions_keep_the_style(copy: Path) -> None:
    """If it fails, somebody who copies from the page is told by `make lint` that it is wrong."""
    new = [block.path for section in SECTIONS for block in blocks(section) if block.kind == "python"]
    files = [str(copy / path) for path in new]
    ruff, settings = [sys.executable, "-m", "ruff"], ["--no-cache", "--config", str(ROOT / "pyproject.toml")]
    for command in (["check"], ["format", "--check"]):
        outcome = subprocess.run([*ruff, *command, *settings, *files], capture_output=True, text=True)
        assert outcome.returncode == 0, outcome.stdout
