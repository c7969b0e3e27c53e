"""Spans to an OpenTelemetry collector, by OTLP over HTTP.

The standard variables hold: `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`,
`OTEL_BSP_SCHEDULE_DELAY` and so on. Ids come from the system's source of randomness, no span from a generator that
somebody may have seeded; the exporter alone draws its pauses from Python's `random`, on which nothing here depends.
Of an error a span tells the kind and no more: what it says may quote a prompt.
Needs the extra `otel`; observe.py imports this where it is wanted.
"""

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator

from events.trace import Span

END_SECONDS = 5.0
"""How long the last spans may take on their way out."""


class Ids(IdGenerator):
    """The wanted ones, or any."""

    wanted: api.SpanContext | None = None

    def generate_trace_id(self) -> int:
        return secrets.randbits(128) or 1 if self.wanted is None else self.wanted.trace_id

    def generate_span_id(self) -> int:
        return secrets.randbits(64) or 1 if self.wanted is None else self.wanted.span_id


class Otlp:
    """Records spans of one service; belongs to one thread."""

    def __init__(self, service: str) -> None:
        self._ids = Ids()
        about = {
            "service.name": service,
            "service.namespace": "rekindle",
            "service.instance.id": f"{os.uname().nodename}-{os.getpid()}",
        }
        self._provider = TracerProvider(
            resource=Resource.create(about), id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("rekindle")

    @contextmanager
    def span(self, span: Span) -> Iterator[str]:
        with api.use_span(
            self._start(span), end_on_exit=True, record_exception=False, set_status_on_exception=False
        ) as began:
            own = began.get_span_context()
            try:
                yield f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"
            except Exception as error:
                began.set_status(api.StatusCode.ERROR, type(error).__name__)
                raise

    def _start(self, span: Span) -> api.Span:
        at_hand = _named(span.at_hand)
        self._ids.wanted = at_hand if span.itself else None
        try:
            return self._tracer.start_span(
                span.name,
                Context() if span.itself else _under(at_hand),
                api.SpanKind[span.kind.upper()],
                {f"rekindle.{name}": value for name, value in span.about.items()},
                [api.Link(_named(link)) for link in span.links],
                span.start,
            )
        finally:
            self._ids.wanted = None

    def rename(self, name: str) -> None:
        api.get_current_span().update_name(name)

    def close(self) -> None:
        """Send what is left; blocks, but not for a collector that does not answer."""
        ending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        ending.start()
        ending.join(END_SECONDS)


def _named(traceparent: str) -> api.SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")
    return api.SpanContext(int(trace_id, 16), int(span_id, 16), True, api.TraceFlags(int(flags, 16)))


def _under(parent: api.SpanContext) -> Context:
    return api.set_span_in_context(api.NonRecordingSpan(parent), Context())
