"""A bucket that speaks as much of the protocol of S3 as a blob store needs, in this process.

Promises what the protocol says of conditional puts, parts, ranges, pages of listings and bulk deletion, and is as
strict as S3 itself about what it asks for: a signature (any is good), a sum of a list of deletions, parts of 5 MiB.
`refuse` and `fault` say which requests fail and how, `requests` what was asked.
"""

import hashlib
import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.served import served

PAGE = 50
"""Entries of one answer to a listing."""
LEAST_PART = 5 * 1024 * 1024
"""Bytes of each part of an upload but the last."""
Fault = Literal["busy", "conflict", "lost", "cut", "skewed", "deaf"]
"""503 SlowDown; 409; done, but the connection ends without an answer; half of the body, then the connection ends; 403
for a clock that is wrong; a condition that is ignored."""


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
        self.fault: Callable[[str, str], Fault | None] = lambda method, target: None
        """(method, key, with `?` and the first parameter if it has some) → what is wrong with the answer."""

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


def running_bucket() -> AbstractContextManager[Bucket]:
    """An empty bucket that answers for the block."""
    return served(Bucket())


class Request(BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""

    fault: Fault | None = None

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        if self.fault == "lost":
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.fault == "cut" else body)
        self.close_connection = self.close_connection or self.fault == "cut"

    def fail(self, status: int, code: str) -> None:
        self.answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        address = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
        bucket, _, key = unquote(address.path).removeprefix("/").partition("/")
        self.server.requests.append((self.command, key))
        self.fault = self.server.fault(self.command, f"{key}?{next(iter(asked))}" if asked else key)
        if self.fault == "lost":
            self.close_connection = True
        if self.fault == "busy":
            return self.fail(503, "SlowDown")
        if self.fault == "conflict":
            return self.fail(409, "ConditionalRequestConflict")
        if self.fault == "skewed":
            return self.fail(403, "RequestTimeTooSkewed")
        if not self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 "):
            return self.fail(403, "AccessDenied")
        if bucket != "blobs":
            return self.fail(404, "NoSuchBucket")
        if self.server.refuse(self.command, key):
            return self.fail(403, "AccessDenied")
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
            return self.fail(404, "NoSuchKey")
        if self.headers.get("If-Match", etag(data)) != etag(data):
            return self.fail(412, "PreconditionFailed")
        told = {"ETag": etag(data), "Last_Modified": "Sun, 22 Nov 2026 10:00:00 GMT"}
        if (wanted := self.headers.get("Range")) is None:
            return self.answer(200, data, **told)
        first, last = (int(end) for end in wanted.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        if not part:
            return self.fail(416, "InvalidRange")
        self.answer(206, part, Content_Range=f"bytes {first}-{first + len(part) - 1}/{len(data)}", **told)

    head_object = get_object

    def put_object(self, key: str, body: bytes) -> None:
        with self.server.lock:
            kept = self.headers.get("If-None-Match") == "*" and self.fault != "deaf"
            if kept and key in self.server.objects:
                return self.fail(412, "PreconditionFailed")
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
        if not any(name.lower().startswith(("content-md5", "x-amz-checksum-")) for name in self.headers):
            return self.fail(400, "InvalidRequest")
        said = ""
        for key in keys:
            self.server.requests.append(("DELETE", key))
            if self.server.refuse("DELETE", key):  # the others go all the same, and the answer is 200
                said += (
                    f"<Error><Key>{escape(key)}</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
                )
            else:
                self.server.objects.pop(key, None)
                said += f"<Deleted><Key>{escape(key)}</Key></Deleted>"
        self.answer(200, f"<DeleteResult>{said}</DeleteResult>".encode())

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
        if upload not in self.server.parts:
            return self.fail(404, "NoSuchUpload")
        if self.command == "PUT":
            self.server.parts[upload][int(asked["partNumber"])] = body
            return self.answer(200, ETag=f'"{asked["partNumber"]}"')
        parts = self.server.parts[upload]
        if self.command == "DELETE":
            del self.server.parts[upload]
            return self.answer(204)
        named = [
            int(found.text or 0)
            for found in ElementTree.fromstring(body).iter()
            if found.tag.endswith("PartNumber")
        ]
        if named != sorted(parts):
            return self.fail(400, "InvalidPart")
        if any(len(parts[number]) < LEAST_PART for number in named[:-1]):
            return self.fail(400, "EntityTooSmall")
        self.server.objects[key] = b"".join(parts[number] for number in named)
        del self.server.parts[upload]
        said = f"<Key>{escape(key)}</Key><ETag>e</ETag>"
        self.answer(200, f"<CompleteMultipartUploadResult>{said}</CompleteMultipartUploadResult>".encode())
