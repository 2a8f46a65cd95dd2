"""Servers on this machine that speak as much of the Hugging Face hub as its own libraries need."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from huggingface_hub import constants
from pytest import MonkeyPatch

TOKEN = "hf_secretsecretsecret"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name: str) -> bool:
    """Whether the hub keeps a file by its SHA-256 beside git."""
    return name.endswith(".safetensors")


class Server:
    """A server that notes each request; the context is the time in which it answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []  # each request, and its header with the token

    def __enter__(self) -> Self:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = self._chunks()
                path = self.path.partition("?")[0].replace("%2F", "/")
                double.asked.append((f"{self.command} {path}", self.headers.get("Authorization")))
                status, said, headers = double.reply(self.command, path, body)
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(data))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_HEAD = answer

            def _chunks(self) -> bytes:
                found = b""
                while size := int(self.rfile.readline(), 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def reply(self, method: str, path: str, body: bytes) -> tuple[int, object, dict[str, str]]:
        """Returns status, what is said, as bytes or as what becomes JSON, and headers."""
        raise NotImplementedError


def use(patch: MonkeyPatch, hub: "FakeHub") -> None:
    """Lets the hub's library ask a hub on this machine, whose address it builds from the environment once."""
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)


class FakeHub(Server):
    """A hub to push to, with any number of repositories.

    Each commit is kept, with what is in the repository after it. What a test tells it to fail fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}  # by SHA-256
        self.commits: list[str] = []
        self.failures: dict[str, list[int]] = {}  # part of a path: statuses of the next requests to it

    def reply(self, method: str, path: str, body: bytes) -> tuple[int, object, dict[str, str]]:
        repo, _, place = path[1:].partition("/resolve/")
        name = place.partition("/")[2]  # behind the revision
        if (content := self.files.get(repo, {}).get(name)) is not None:
            return 200, content, {"ETag": f'"{self._oid(name, content)}"', "X-Repo-Commit": self._commit_oid()}
        return *self._reply(path, body), {}

    def _reply(self, path: str, body: bytes) -> tuple[int, object]:
        for part, statuses in self.failures.items():
            if part in path and statuses:
                return statuses.pop(0), {"error": "it was told to"}
        if path.startswith("/large/"):
            self.large[path.rpartition("/")[2]] = body
            return 200, {}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._upload(item) for item in json.loads(body)["objects"]]}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in self.files:
                return 409, {"error": "it is there", "url": f"{self.url}/{repo}"}
            self.files[repo], self.private[repo] = {".gitattributes": b""}, asked["visibility"] == "private"
            return 200, {"url": f"{self.url}/{repo}"}
        repo = "/".join(path.split("/")[3:5])
        files = self.files.get(repo)
        if files is None:
            return 404, {"error": "it is not there"}
        if "/tree/" in path:
            return 200, [self._entry(name, content) for name, content in files.items()]
        if "/preupload/" in path:
            return 200, {"files": [self._mode(files, item) for item in json.loads(body)["files"]]}
        if "/commit/" in path:
            return 200, self._commit(repo, [json.loads(line) for line in body.splitlines()])
        siblings = [{"rfilename": name} for name in files]
        return 200, {"id": repo, "sha": self._commit_oid(), "private": self.private[repo], "siblings": siblings}

    def _commit_oid(self) -> str:
        return f"{len(self.commits):040x}"

    def _oid(self, name: str, content: bytes) -> str:
        return hashlib.sha256(content).hexdigest() if is_large(name) else git_oid(content)

    def _entry(self, name: str, content: bytes) -> dict[str, object]:
        plain = {"type": "file", "path": name, "size": len(content), "oid": git_oid(content)}
        lfs = {"oid": self._oid(name, content), "size": len(content), "pointerSize": 130}
        return plain | ({"lfs": lfs} if is_large(name) else {})

    def _upload(self, item: dict[str, object]) -> dict[str, object]:
        there = item["oid"] in self.large
        return item if there else item | {"actions": {"upload": {"href": f"{self.url}/large/{item['oid']}"}}}

    def _mode(self, files: dict[str, bytes], item: dict[str, str]) -> dict[str, object]:
        name, mode = item["path"], "lfs" if is_large(item["path"]) else "regular"
        oid = self._oid(name, files[name]) if name in files else None
        return {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _commit(self, repo: str, lines: list[dict[str, dict[str, str]]]) -> dict[str, str]:
        files = self.files[repo]
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    self.commits.append(f"{value['summary']}\n{value['description']}")
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        oid = self._commit_oid()
        return {"commitUrl": f"{self.url}/{repo}/commit/{oid}", "commitOid": oid}
