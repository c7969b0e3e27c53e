"""CloudEvents 1.0 and their NATS protocol binding.

The official package has no NATS binding; this one follows cloudevents/spec `nats-protocol-binding.md`: binary
mode out (attributes in `ce-` headers, percent-encoded), both modes in. Structured events without a
content-type header, as some brokers publish them, are read too. Event data is bytes throughout.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from cloudevents.core.bindings.common import decode_header_value, encode_header_value
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from events import names, trace
from events.confined import may_refer

log = structlog.get_logger(__name__)

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
STRUCTURED = "application/cloudevents+json"


def make_event(
    type_: str,
    *,
    id: str,
    tenant: str,
    service: str,
    subject: str,
    data: bytes,
    content_type: str = JSON,
    **extensions: str,
) -> CloudEvent:
    """An event of ours; `subject` is the exact id of the run, sampler or dataset that it is about."""
    attributes: dict[str, Any] = {
        "id": id,
        "source": names.source(tenant, service),
        "type": type_,
        "subject": subject,
        "time": datetime.now(UTC),
        "datacontenttype": content_type,
        **extensions,
    }
    if (traceparent := trace.current()) is not None:
        attributes["traceparent"] = traceparent
    return CloudEvent(attributes, data)


def json_data(value: Any) -> bytes:
    """Compact JSON bytes."""
    return json.dumps(value, separators=(",", ":")).encode()


def data_of(event: CloudEvent) -> bytes:
    """The data as bytes, whatever mode the event came in."""
    data = event.get_data()
    if data is None:
        return b""
    if isinstance(data, bytes):
        return data
    # Structured mode holds JSON data as JSON, a text too; other text is itself.
    return data.encode() if isinstance(data, str) and not _is_json(event) else json_data(data)


def json_of(event: CloudEvent) -> Any:
    """The data parsed as JSON. Raises ValueError when it is not JSON."""
    with _not_too_deep():
        return json.loads(data_of(event) or b"null")


def to_message(event: CloudEvent) -> tuple[dict[str, str], bytes]:
    """Headers and payload in binary mode."""
    headers = {f"ce-{name}": encode_header_value(value) for name, value in event.get_attributes().items()}
    return headers, data_of(event)


def from_message(headers: Mapping[str, str] | None, data: bytes) -> CloudEvent:
    """Read either mode. Raises a CloudEvents validation error or ValueError for anything else."""
    found = {name.lower(): value for name, value in (headers or {}).items()}
    structured = found.get("content-type", "").lower().startswith(STRUCTURED)
    if structured or "ce-specversion" not in found:
        if not data.lstrip().startswith(b"{"):
            raise ValueError("neither binary mode (no ce-specversion) nor structured mode (no JSON object)")
        with _not_too_deep():
            event = JSONFormat().read(CloudEvent, data)
        assert isinstance(event, CloudEvent), "the factory makes this class"
        return event
    attributes = {
        name[3:]: decode_header_value(name[3:], value)
        for name, value in found.items()
        if name.startswith("ce-")
    }
    return CloudEvent(attributes, data)


def received(subject: str, headers: Mapping[str, str] | None, data: bytes) -> CloudEvent:
    """An event as it came on a subject of the bus; a payload elsewhere that its writer could not reach is not its own.

    Raises as `from_message`.
    """
    event = from_message(headers, data)
    key = event.get_extension("dataref")
    if key is None or may_refer(subject, str(key)):
        return event
    log.warning("event.foreign_payload", subject=subject, dataref=key)
    return CloudEvent({k: v for k, v in event.get_attributes().items() if k != "dataref"}, data)


def to_json(event: CloudEvent) -> bytes:
    """The event in structured mode, for people and outside subscribers.

    JSON data stands there as JSON where it comes back byte for byte; other data in base64.
    """
    if _is_json(event) and (value := _value(data_of(event))) is not None:
        event = CloudEvent(event.get_attributes(), value)
    written: bytes = JSONFormat().write(event)
    return written


def _value(data: bytes) -> Any:
    """What `data` is in compact JSON, None for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if json_data(value) == data else None


@contextlib.contextmanager
def _not_too_deep() -> Iterator[None]:
    """What is nested deeper than Python reads is no JSON of ours: raises ValueError."""
    try:
        yield
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def _is_json(event: CloudEvent) -> bool:
    kind = (event.get_datacontenttype() or JSON).partition(";")[0].strip().lower()
    return kind.endswith(("/json", "+json"))
