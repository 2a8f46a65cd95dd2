"""A server on this machine that speaks as much of the Hugging Face hub as a push needs, for its own library.

Each commit is kept, with what is in the repository after it. What a test tells it to fail fails.
"""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

TOKEN = "hf_secretsecretsecret"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class FakeHub:
    """A hub with any number of repositories; the context is the time in which it answers."""

    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    commits: list[str] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # each request, and its header with the token
    failures: dict[str, list[int]] = field(default_factory=dict)  # part of a path: statuses of the next requests to it

    def __enter__(self) -> Self:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = self._chunks()
                path = self.path.partition("?")[0]
                hub.asked.append((f"{self.command} {path}", self.headers.get("Authorization")))
                status, said = hub.reply(self.command, path, body)
                data = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
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

    def reply(self, method: str, path: str, body: bytes) -> tuple[int, object]:
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
            return 200, [
                {"type": "file", "path": name, "size": len(data), "oid": git_oid(data)} for name, data in files.items()
            ]
        if "/preupload/" in path:
            return 200, {"files": [self._mode(files, item) for item in json.loads(body)["files"]]}
        if "/commit/" in path:
            return 200, self._commit(repo, [json.loads(line) for line in body.splitlines()])
        return 200, {"id": repo, "sha": f"{len(self.commits):040x}"}

    def _upload(self, item: dict[str, object]) -> dict[str, object]:
        there = item["oid"] in self.large
        return item if there else item | {"actions": {"upload": {"href": f"{self.url}/large/{item['oid']}"}}}

    def _mode(self, files: dict[str, bytes], item: dict[str, str]) -> dict[str, object]:
        name, is_large = item["path"], item["path"].endswith(".safetensors")
        content = files.get(name)
        oid = content and (hashlib.sha256(content).hexdigest() if is_large else git_oid(content))
        return {"path": name, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False, "oid": oid}

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
        oid = f"{len(self.commits):040x}"
        return {"commitUrl": f"{self.url}/{repo}/commit/{oid}", "commitOid": oid}
