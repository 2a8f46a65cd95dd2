"""Data sets from the hub: the real `datasets` against a server on this machine that answers as the hub does."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.gdsd.fake_hub import Server, git_oid

REPO = Path(__file__).resolve().parents[3]
NAME, REVISION, LATER = "someone/sums", "a" * 40, "b" * 40


def parquet(split: str, rows: int) -> bytes:
    file = io.BytesIO()
    made = [{"question": f"{split} {row}?", "answer": f"It is #### {row}"} for row in range(rows)]
    pq.write_table(pa.Table.from_pylist(made), file)
    return file.getvalue()


FILES = {
    "README.md": b"---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train.parquet\n"
    b"  - split: test\n    path: main/test.parquet\n---\n",
    "main/train.parquet": parquet("train", 10),
    "main/test.parquet": parquet("test", 4),
}


class DataHub(Server):
    """One data set at one revision."""

    def reply(self, method: str, path: str, body: bytes) -> tuple[int, object, dict[str, str]]:
        about, files = f"/api/datasets/{NAME}", f"/datasets/{NAME}/resolve/{REVISION}/"
        if method == "POST":
            return 200, [entry(name) for name in json.loads(body)["paths"] if name in FILES], {}
        if path == f"{about}/revision/{REVISION}":
            siblings = [{"rfilename": name} for name in FILES]
            return 200, {"id": NAME, "sha": REVISION, "tags": [], "siblings": siblings}, {}
        if path.startswith(tree := f"{about}/tree/{REVISION}"):
            inside = path.removeprefix(tree).strip("/")
            return 200, [entry(name) for name in FILES if name.startswith(inside)], {}
        if (name := path.removeprefix(files)) in FILES:
            return 200, FILES[name], {"ETag": f'"{git_oid(FILES[name])}"', "X-Repo-Commit": REVISION}
        return 404, {}, {"X-Error-Code": "RepoNotFound" if "/api/" in path else "EntryNotFound"}


def entry(path: str) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(FILES[path]), "oid": git_oid(FILES[path])}


@pytest.fixture
def hub() -> Iterator[DataHub]:
    with DataHub() as running:
        yield running


LOAD = """
import json, sys
from tasks.gdsd.prompts import sources
from tasks.gdsd.config.prompts import HubDataset
from tasks.gdsd.errors import DataError
found = []
for text in sys.argv[1:]:
    try:
        found.append(sources.load(HubDataset.model_validate_json(text), {"question", "answer"}).rows)
    except DataError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def load(hub: DataHub, home: Path, *sources: dict[str, object]) -> list[object]:
    """Loads sources in a process of its own, because the hub's address is read when its client is imported."""
    home.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HTTP", "http"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf")}
    environment |= {"HOME": str(home), "PYTHONPATH": str(REPO), "HF_HUB_DISABLE_TELEMETRY": "1"}
    texts = [json.dumps({"hub": NAME, "revision": REVISION} | source) for source in sources]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *texts], cwd=home, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_data_set_is_read_at_its_revision(hub: DataHub, tmp_path: Path) -> None:
    """If it fails, a data set of the hub cannot be used, or a moved branch changes a run."""
    train, part, test, nothing = load(
        hub,
        tmp_path,
        {"subset": "main"},
        {"subset": "main", "split": "train[2:4]"},
        {"split": "test"},
        {"split": "test[:0]"},
    )
    assert isinstance(train, list) and len(train) == 10
    assert train[3] == {"question": "train 3?", "answer": "It is #### 3"}
    assert part == train[2:4]
    assert isinstance(test, list) and [row["question"] for row in test] == [f"test {row}?" for row in range(4)]
    assert isinstance(nothing, str) and '"test[:0]" corresponds to no data' in nothing
    assert hub.asked and all(f"/{REVISION}" in path for path, _ in hub.asked), "nothing is asked of a branch"


def test_what_the_hub_does_not_have_is_refused_in_words(hub: DataHub, tmp_path: Path) -> None:
    """If it fails, a mistyped name ends in a page of traces of the hub's client."""
    subset, split, name = load(hub, tmp_path, {"subset": "mian"}, {"split": "tset"}, {"hub": "someone/smus"})
    assert isinstance(subset, str) and "(subset mian, split 'train', revision aaaa" in subset
    assert "'mian' not found. Available: ['main']; check the names on the hub, or give a local file by path" in subset
    assert isinstance(split, str) and 'Unknown split "tset". Should be one of' in split
    assert isinstance(name, str) and name.startswith("data set 'someone/smus' ") and "cannot be loaded: " in name


def test_the_code_of_a_data_set_is_not_run(hub: DataHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it fails, whoever owns a data set runs what he likes on the cluster."""
    monkeypatch.setitem(FILES, "sums.py", b"raise SystemExit('the code of a data set was run')\n")
    (found,) = load(hub, tmp_path, {"subset": "main"})
    assert isinstance(found, str) and "scripts are no longer supported, but found sums.py" in found


def test_another_revision_in_the_cache_is_not_taken_for_the_pinned_one(hub: DataHub, tmp_path: Path) -> None:
    """If it fails, a run trains on the rows of a revision that it did not pin, because `datasets` falls back on what
    it has cached of a data set wherever the hub does not give the revision that was asked for."""
    (first,) = load(hub, tmp_path, {"subset": "main"})
    assert isinstance(first, list)
    (later,) = load(hub, tmp_path, {"subset": "main", "revision": LATER})
    assert isinstance(later, str) and f"revision {LATER}) cannot be had: instead there is {REVISION}" in later


def test_a_local_folder_of_the_same_name_is_not_taken_for_the_data_set(hub: DataHub, tmp_path: Path) -> None:
    """If it fails, a folder in the working directory stands in for the pinned data set without a word."""
    (tmp_path / NAME).mkdir(parents=True)
    (tmp_path / NAME / "rows.jsonl").write_text('{"question": "another", "answer": "#### 1"}\n')
    (found,) = load(hub, tmp_path, {})
    assert isinstance(found, str) and "in a local folder of this name" in found
