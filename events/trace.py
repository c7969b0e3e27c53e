"""Which trace the work at hand belongs to, as W3C trace context (https://www.w3.org/TR/trace-context/).

An edge takes the caller's `traceparent` or starts a trace; events carry it on, and a worker takes it up again, so
that one RL step is one trace across services.
"""

import re
import secrets
from contextvars import ContextVar

from structlog.contextvars import bind_contextvars

_TRACEPARENT = re.compile(r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


def current() -> str | None:
    """The `traceparent` of the work at hand, None outside any."""
    return _current.get()


def take_up(traceparent: str | None) -> str:
    """Continue the caller's trace, or start one where there is none that makes sense; returns it."""
    if traceparent is None or not _TRACEPARENT.match(traceparent):
        traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    _current.set(traceparent)
    bind_contextvars(trace=traceparent[3:35])
    return traceparent
