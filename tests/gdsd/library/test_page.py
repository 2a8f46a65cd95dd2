"""docs/library.md and docs/library.ipynb: the same lines, and they work as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.gdsd.denoiser.checkpoint_record import read_record

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/library.md").read_text()
NOTEBOOK = json.loads((ROOT / "docs/library.ipynb").read_text())
OWN = ("path", "plot")  # cells that the page does not have
DRAWN = """
(line,) = axes.get_lines()
assert list(line.get_xdata()) == [*range(20)] and list(line.get_ydata()) == means
"""


def code() -> dict[str, str]:
    """The notebook's cells of code, by their ids."""
    return {cell["id"]: "".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"}


def statements(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_the_notebook_has_the_lines_of_the_page() -> None:
    """If it fails, one of the two shows what the other no longer says."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    shared = "\n".join(text for name, text in code().items() if name not in OWN)
    assert statements(shared) == statements("\n".join(blocks))
    assert len(statements(blocks[0])) <= 20


def test_the_notebook_is_one_of_the_format() -> None:
    """If it fails, Jupyter does not open the notebook, or changes it when it saves it (nbformat 4.5)."""
    assert set(NOTEBOOK) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert {"name", "display_name"} <= set(NOTEBOOK["metadata"]["kernelspec"])
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len({*ids}) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", name) for name in ids)
    common, run = {"id", "cell_type", "metadata", "source"}, {"outputs": [], "execution_count": None}
    for cell in NOTEBOOK["cells"]:
        assert cell["cell_type"] in ("code", "markdown") and all(isinstance(line, str) for line in cell["source"])
        own = {name: cell[name] for name in set(cell) - common}
        assert own == (run if cell["cell_type"] == "code" else {})


@pytest.mark.whole  # the functions themselves have quick tests
def test_the_notebook_runs(tmp_path: Path) -> None:
    """If it fails, the first thing that a researcher tries here does not work."""
    folder = tmp_path / "docs"  # where Jupyter starts a notebook that lies there
    folder.mkdir()
    (tmp_path / "tasks").symlink_to(ROOT / "tasks")
    script = folder / "cells.py"
    script.write_text("\n\n".join([*code().values(), DRAWN]))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=folder,
        env=env | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.splitlines()
    assert [line.split(":")[0] for line in said[:20]] == [f"round {number}" for number in range(1, 21)]
    assert all(line.endswith("3 updates") for line in said[:20])
    assert re.fullmatch(r"\d+\.\d% of 64 test problems solved", said[20]) and len(said) == 21
    assert read_record(folder / "policy").round == 20
