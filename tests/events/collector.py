"""An OpenTelemetry collector for tests: takes spans by OTLP over HTTP, and tells of them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Seen:
    """A span that came in."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    kind: int
    seconds: float
    failed: bool
    said: tuple[str, ...]
    """Of what failed: its status, and the names of its events."""
    links: tuple[str, ...]
    """Of traces."""
    about: dict[str, Any]


class Collector:
    """What has come in so far."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Seen] = []

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {one.key: one.value.string_value for one in resource.resource.attributes}[
                "service.name"
            ]
            self.spans += [_seen(service, span) for scope in resource.scope_spans for span in scope.spans]

    def until(self, holds: Callable[[list[Seen]], Any], seconds: float = 60.0) -> list[Seen]:
        """All spans, once that holds for them."""
        deadline = time.monotonic() + seconds
        while not holds(found := list(self.spans)):
            assert time.monotonic() < deadline, sorted({(one.service, one.name) for one in found})
            time.sleep(0.02)
        return found


def _seen(service: str, span: Any) -> Seen:
    return Seen(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.kind,
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        span.status.code == span.status.STATUS_CODE_ERROR,
        (span.status.message, *(event.name for event in span.events)),
        tuple(link.trace_id.hex() for link in span.links),
        {one.key: one.value.string_value or one.value.int_value for one in span.attributes},
    )


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Not wanted."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
