"""A model hub on loopback, backed by a folder, that can be made to fail."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Serves `root/user/name/*`; what is pushed lands there."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.requests: list[tuple[str, str, str | None]] = []
        """(method, path, Range header) of every request."""
        self.cut_after: int | None = None
        """Bytes after which a file's connection breaks; None: never."""
        self.cuts = 10**9
        """How many connections break before they hold again."""
        self.down_after_cuts = False
        """Whether, after these breaks, connections for files are closed without an answer."""
        self.down = False
        self.redirect: str | None = None
        """Address that requests for files are sent to."""
        self.ranges = True
        self.changed: dict[str, bytes] = {}
        """File -> what is sent in its place, while the listing describes the true file. The key
        "listing" replaces the listing itself."""
        self.status: dict[str, int] = {}
        """File or "listing" -> HTTP status to refuse it with."""
        self.token: str | None = None
        self.tokens_seen: list[str | None] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing about clients that hang up, which these tests cause."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def downloads(self) -> list[tuple[str, str | None]]:
        return [
            (path.rpartition("/")[2], wanted)
            for _, path, wanted in self.requests
            if "/resolve/" in path
        ]


@contextmanager
def fake_hub(root: Path) -> Iterator[FakeHub]:
    server = FakeHub(root)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(("GET", path, self.headers.get("Range")))
        self.server.tokens_seen.append(self.headers.get("Authorization"))
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._answer(401, {"error": "no"})
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._listing("/".join(parts[2:4]))
        if len(parts) >= 5 and parts[2] == "resolve":
            return self._file("/".join(parts[:2]), "/".join(parts[4:]))
        return self._answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else self._chunked()
        self.server.requests.append(("POST", path, None))
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._answer(401, {"error": "no"})
        parts = path.strip("/").split("/")
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
            (self.server.root / name).mkdir(parents=True, exist_ok=True)
            return self._answer(200, {"url": f"{self.server.url}/{name}", "name": name})
        repository = "/".join(parts[2:4])
        if "preupload" in parts:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if "commit" in parts:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    target = self.server.root / repository / entry["value"]["path"]
                    target.write_bytes(base64.b64decode(entry["value"]["content"]))
            address = f"{self.server.url}/{repository}/commit/{COMMIT}"
            answer = {"success": True, "commitOid": COMMIT, "commitUrl": address}
            return self._answer(200, answer)
        return self._answer(404, {"error": "not found"})

    def _listing(self, repository: str) -> None:
        folder = self.server.root / repository
        if "listing" in self.server.status:
            return self._answer(self.server.status["listing"], {"error": "no"})
        if "listing" in self.server.changed:
            return self._send(200, self.server.changed["listing"])
        if not folder.is_dir():
            return self._answer(404, {"error": "Repository not found"})
        siblings = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            content, name = path.read_bytes(), path.relative_to(folder).as_posix()
            item = {"rfilename": name, "size": len(content)}
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
            item["blobId"] = blob.hexdigest()
            if path.suffix == ".safetensors":
                digest = hashlib.sha256(content).hexdigest()
                item["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(item)
        assert "blobs" in parse_qs(urlsplit(self.path).query)
        answer = {"id": repository, "sha": COMMIT, "siblings": siblings}
        return self._answer(200, answer | {"cardData": {"license": "mit"}})

    def _file(self, repository: str, name: str) -> None:
        server, path = self.server, self.server.root / repository / name
        if server.down:
            self.close_connection = True
            return None
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if name in server.status:
            return self._answer(server.status[name], {"error": "no"})
        if not path.is_file():
            return self._answer(404, {"error": "Entry not found"})
        content = server.changed.get(name, path.read_bytes())
        wanted, start = self.headers.get("Range"), 0
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                return self._answer(416, {"error": "range"})
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        rest = content[start:]
        if server.cut_after is not None and server.cuts > 0 and len(rest) > server.cut_after:
            server.cuts -= 1
            server.down = server.cuts == 0 and server.down_after_cuts
            self.wfile.write(rest[: server.cut_after])
            self.wfile.flush()
            self.close_connection = True
            return None
        self.wfile.write(rest)
        return None

    def _answer(self, status: int, content: dict) -> None:
        self._send(status, json.dumps(content).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body
