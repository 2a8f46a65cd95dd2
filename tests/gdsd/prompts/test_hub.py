"""Data sets from the hub: the real `datasets` against a server on this machine that answers as the hub does."""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.gdsd.config.prompts import HubDataset
from tasks.gdsd.errors import ConfigError

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


class Hub(BaseHTTPRequestHandler):
    """One data set at one revision."""

    protocol_version = "HTTP/1.1"
    asked: list[str]  # the paths that were asked for

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""

    def reply(self, code: int, body: bytes = b"{}", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def entry(self, path: str) -> dict[str, object]:
        return {"type": "file", "path": path, "size": len(FILES[path]), "oid": hashlib.sha1(FILES[path]).hexdigest()}

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].replace("%2F", "/")
        self.asked.append(path)
        about, files = f"/api/datasets/{NAME}", f"/datasets/{NAME}/resolve/{REVISION}/"
        if path == f"{about}/revision/{REVISION}":
            siblings = [{"rfilename": name} for name in FILES]
            self.reply(200, json.dumps({"id": NAME, "sha": REVISION, "tags": [], "siblings": siblings}).encode())
        elif path.startswith(tree := f"{about}/tree/{REVISION}"):
            inside = [name for name in FILES if name.startswith(path.removeprefix(tree).strip("/"))]
            self.reply(200, json.dumps([self.entry(name) for name in inside]).encode())
        elif (name := path.removeprefix(files)) in FILES:
            self.reply(200, FILES[name], ETag=f'"{self.entry(name)["oid"]}"', X_Repo_Commit=REVISION)
        else:
            self.reply(404, X_Error_Code="RepoNotFound" if "/api/" in path else "EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        self.reply(200, json.dumps([self.entry(name) for name in wanted if name in FILES]).encode())


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    """The server; `Hub.asked` has what it was asked for."""
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


LOAD = """
import json, sys
from tasks.gdsd.prompts import sources
from tasks.gdsd.config.train import HubDataset
from tasks.gdsd.errors import DataError
found = []
for text in sys.argv[1:]:
    try:
        found.append(sources.load(HubDataset.model_validate_json(text)).to_pylist())
    except DataError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def load(hub: ThreadingHTTPServer, home: Path, *sources: dict[str, object]) -> list[object]:
    """Loads sources in a process of its own, because the hub's address is read when its client is imported."""
    home.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HTTP", "http"))}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home / "hf")}
    environment |= {"HOME": str(home), "PYTHONPATH": str(REPO), "HF_HUB_DISABLE_TELEMETRY": "1"}
    texts = [json.dumps({"hub": NAME, "revision": REVISION} | source) for source in sources]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *texts], cwd=home, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_data_set_is_read_at_its_revision(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
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
    assert Hub.asked and all(f"/{REVISION}" in path for path in Hub.asked), "nothing is asked of a branch"


def test_what_the_hub_does_not_have_is_refused_in_words(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    """If it fails, a mistyped name ends in a page of traces of the hub's client."""
    subset, split, name = load(hub, tmp_path, {"subset": "mian"}, {"split": "tset"}, {"hub": "someone/smus"})
    assert isinstance(subset, str) and "(subset mian, split 'train', revision aaaa" in subset
    assert "'mian' not found. Available: ['main']; check the names on the hub, or give a local file by path" in subset
    assert isinstance(split, str) and 'Unknown split "tset". Should be one of' in split
    assert isinstance(name, str) and name.startswith("data set 'someone/smus' ") and "cannot be loaded: " in name


def test_the_code_of_a_data_set_is_not_run(
    hub: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it fails, whoever owns a data set runs what he likes on the cluster."""
    monkeypatch.setitem(FILES, "sums.py", b"raise SystemExit('the code of a data set was run')\n")
    (found,) = load(hub, tmp_path, {"subset": "main"})
    assert isinstance(found, str) and "scripts are no longer supported, but found sums.py" in found


def test_another_revision_in_the_cache_is_not_taken_for_the_pinned_one(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    """If it fails, a run trains on the rows of a revision that it did not pin, because `datasets` falls back on what
    it has cached of a data set wherever the hub does not give the revision that was asked for."""
    (first,) = load(hub, tmp_path, {"subset": "main"})
    assert isinstance(first, list)
    (later,) = load(hub, tmp_path, {"subset": "main", "revision": LATER})
    assert isinstance(later, str) and f"revision {LATER}) cannot be had: instead there is {REVISION}" in later


def test_a_local_folder_of_the_same_name_is_not_taken_for_the_data_set(
    hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    """If it fails, a folder in the working directory stands in for the pinned data set without a word."""
    (tmp_path / NAME).mkdir(parents=True)
    (tmp_path / NAME / "rows.jsonl").write_text('{"question": "another", "answer": "#### 1"}\n')
    (found,) = load(hub, tmp_path, {})
    assert isinstance(found, str) and "in a local folder of this name" in found


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hub": "openai/gsm8k"}, "revision: .*field required"),
        ({"hub": "openai/gsm8k", "revision": "main"}, "revision: got 'main'; string should match"),
        ({"hub": "https://x/y/z", "revision": REVISION}, "hub: got 'https://x/y/z'; string should match"),
        ({"hub": "a/b", "revision": REVISION, "file": "x"}, "file: unknown key; allowed: hub, subset, split, revision"),
    ],
)
def test_a_data_set_without_a_pinned_revision_is_refused(fields: dict[str, object], said: str) -> None:
    """If it fails, a configuration gives other problems tomorrow, and the cache answers with today's."""
    with pytest.raises(ConfigError, match=said):
        HubDataset.model_validate_json(json.dumps(fields))
