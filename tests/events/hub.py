"""A stand-in for the Hugging Face hub: as much of its API as the real client asks for to download a model."""

import hashlib
import json
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.served import served

COMMIT = "5f1c2a905f1c2a905f1c2a905f1c2a905f1c2a90"


class Hub(ThreadingHTTPServer):
    """One model, `org/tiny`, at `main` and at the tag `v1`."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.files = files
        self.asked: list[str] = []
        """Paths of all requests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def running_hub(files: dict[str, bytes]) -> AbstractContextManager[Hub]:
    """A hub that answers for the block."""
    return served(Hub(files))


class Request(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""

    def serve(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/tiny/revision/"):
            return self.about(path.rpartition("/")[2])
        if path == f"/api/models/org/tiny/tree/{COMMIT}":
            return self.tree()
        file = self.server.files.get(path.removeprefix(f"/org/tiny/resolve/{COMMIT}/"))
        if file is None:
            return self.answer(404, b"", X_Error_Code="RepoNotFound")
        self.answer(200, file, ETag=f'"{hashlib.sha1(file).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_GET = do_HEAD = serve

    def about(self, revision: str) -> None:
        if revision not in ("main", "v1", COMMIT):
            return self.answer(404, b"", X_Error_Code="RevisionNotFound")
        files = [{"rfilename": name} for name in self.server.files]
        body = {"id": "org/tiny", "sha": COMMIT, "siblings": files, "tags": [], "private": False}
        self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

    def tree(self) -> None:
        files = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in self.server.files.items()
        ]
        self.answer(200, json.dumps(files).encode(), Content_Type="application/json")

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
