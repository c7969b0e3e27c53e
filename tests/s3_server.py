"""A bucket that speaks as much of the protocol of S3 as a blob store needs, in this process.

Promises what the protocol says of conditional puts, parts, ranges, pages of listings and bulk deletion. Knows no
credentials: every signature is good. `refuse` says which requests fail, `requests` what was asked.
"""

import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

PAGE = 50
"""Entries of one answer to a listing."""


def etag(data: bytes) -> str:
    """What stands for the content of an object that was put in one piece."""
    return f'"{hashlib.md5(data).hexdigest()}"'


class Bucket(ThreadingHTTPServer):
    """Objects by key; the name of the bucket is `blobs`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.lock = threading.Lock()
        self.requests: list[tuple[str, str]] = []
        """(method, key) of all that came."""
        self.refuse: Callable[[str, str], bool] = lambda method, key: False
        """(method, key) → whether to answer 403, after which nobody tries again."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead here."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def count(self, method: str, ending: str) -> int:
        """Requests for keys with that ending so far."""
        return sum(one == method and key.endswith(ending) for one, key in self.requests)


@contextmanager
def running_bucket() -> Iterator[Bucket]:
    """An empty bucket that answers for the block."""
    bucket = Bucket()
    thread = threading.Thread(target=bucket.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        bucket.shutdown()
        thread.join()
        bucket.server_close()


class Request(BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        address = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
        bucket, _, key = unquote(address.path).removeprefix("/").partition("/")
        self.server.requests.append((self.command, key))
        if bucket != "blobs":
            return self.answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        if self.server.refuse(self.command, key):
            return self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        if key and (self.command, key) != ("POST", "") and not asked:
            return getattr(self, f"{self.command.lower()}_object")(key, body)
        with self.server.lock:
            if "delete" in asked:
                return self.delete_many(body)
            if "list-type" in asked:
                return self.list(asked)
            return self.multipart(key, asked, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def get_object(self, key: str, _: bytes) -> None:
        data = self.server.objects.get(key)
        if data is None:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        if self.headers.get("If-Match", etag(data)) != etag(data):
            return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
        told = {"ETag": etag(data), "Last_Modified": "Sun, 22 Nov 2026 10:00:00 GMT"}
        if (wanted := self.headers.get("Range")) is None:
            return self.answer(200, data, **told)
        first, last = (int(end) for end in wanted.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        self.answer(206, part, Content_Range=f"bytes {first}-{first + len(part) - 1}/{len(data)}", **told)

    head_object = get_object

    def put_object(self, key: str, body: bytes) -> None:
        with self.server.lock:
            if self.headers.get("If-None-Match") == "*" and key in self.server.objects:
                return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            self.server.objects[key] = body
        self.answer(200, ETag=etag(body))

    def delete_object(self, key: str, _: bytes) -> None:
        self.server.objects.pop(key, None)
        self.answer(204)

    def delete_many(self, body: bytes) -> None:
        keys = [
            found.text or "" for found in ElementTree.fromstring(body).iter() if found.tag.endswith("Key")
        ]
        assert len(keys) <= 1000, "the protocol takes no more"
        if any(self.server.refuse("DELETE", key) for key in keys):
            return self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        for key in keys:
            self.server.requests.append(("DELETE", key))
            self.server.objects.pop(key, None)
        gone = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self.answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    def list(self, asked: dict[str, str]) -> None:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter")
        found: dict[str, str] = {}
        for key in sorted(key for key in self.server.objects if key.startswith(prefix)):
            rest, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            name = f"{prefix}{rest}{cut}" if cut else key
            found[name] = (
                f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
                if cut
                else f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[key])}</Size>"
                "<LastModified>2026-11-22T10:00:00.000Z</LastModified>"
                f"<ETag>{etag(self.server.objects[key])}</ETag></Contents>"
            )
        left = [name for name in sorted(found) if name > asked.get("continuation-token", "")]
        page, more = left[:PAGE], len(left) > PAGE
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        entries = "".join(found[name] for name in page)
        self.answer(200, f"<ListBucketResult>{entries}{token}</ListBucketResult>".encode())

    def multipart(self, key: str, asked: dict[str, str], body: bytes) -> None:
        upload = asked.get("uploadId", "")
        if "uploads" in asked:
            upload = uuid.uuid4().hex
            self.server.parts[upload] = {}
            said = f"<Bucket>blobs</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
            return self.answer(
                200, f"<InitiateMultipartUploadResult>{said}</InitiateMultipartUploadResult>".encode()
            )
        if self.command == "PUT":
            self.server.parts[upload][int(asked["partNumber"])] = body
            return self.answer(200, ETag=f'"{asked["partNumber"]}"')
        parts = self.server.parts.pop(upload)
        if self.command == "DELETE":
            return self.answer(204)
        self.server.objects[key] = b"".join(parts[number] for number in sorted(parts))
        said = f"<Key>{escape(key)}</Key><ETag>e</ETag>"
        self.answer(200, f"<CompleteMultipartUploadResult>{said}</CompleteMultipartUploadResult>".encode())
