"""Which trace the work at hand belongs to, as W3C trace context (https://www.w3.org/TR/trace-context/).

An edge takes the caller's `traceparent` or starts a trace; events carry it on, and a worker takes it up again, so
that one RL step is one trace across services. Where somebody records (otel.py), stretches of work are spans, and what
is said within one goes on from there; where nobody does, `span` does nothing.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, Protocol

from structlog.contextvars import bind_contextvars

_TRACEPARENT = re.compile(r"^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$")
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)
_recorder: "Recorder | None" = None

Kind = Literal["internal", "server", "consumer"]
About = str | int


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of work to record. Example: Span("sample.generate", "00-4bf9…-00f0…-01", kind="consumer")."""

    name: str
    at_hand: str
    """The `traceparent` that was at hand: it is a child of that or, as `itself`, what that names."""
    itself: bool = False
    kind: Kind = "internal"
    start: int | None = None
    """Nanoseconds since 1970; None = now."""
    links: Sequence[str] = ()
    """`traceparent`s of what it was done for, too."""
    about: dict[str, About] = field(default_factory=dict)


class Recorder(Protocol):
    """Where spans go."""

    def span(self, span: Span) -> AbstractContextManager[str]:
        """Record the block; gives the span's own `traceparent`."""
        ...

    def rename(self, name: str) -> None:
        """Of the span at hand."""
        ...


def record(recorder: Recorder | None) -> None:
    """Have this process's spans go there from now on; None = nowhere."""
    global _recorder
    _recorder = recorder


def current() -> str | None:
    """The `traceparent` of the work at hand, None outside any."""
    return _current.get()


def is_one(traceparent: str | None) -> bool:
    """Whether it is a `traceparent` that makes sense."""
    return traceparent is not None and _TRACEPARENT.match(traceparent) is not None


def take_up(traceparent: str | None) -> str:
    """Continue the caller's trace, or start one where there is none that makes sense; returns it."""
    if traceparent is None or not is_one(traceparent):
        traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    _current.set(traceparent)
    bind_contextvars(trace=traceparent[3:35])
    return traceparent


def derived(*parts: object) -> str:
    """The same `traceparent` for the same parts, whoever asks."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"


def trace_id(traceparent: str) -> str:
    return traceparent[3:35]


@contextmanager
def span(
    name: str,
    *,
    itself: bool = False,
    kind: Kind = "internal",
    start: int | None = None,
    links: Sequence[str] = (),
    **about: About,
) -> Iterator[None]:
    """The block is a stretch of the work at hand; the fields are those of Span."""
    at_hand = _current.get()
    if _recorder is None or at_hand is None:
        yield
        return
    with _recorder.span(Span(name, at_hand, itself, kind, start, links, about)) as own:
        token = _current.set(own)
        try:
            yield
        finally:
            _current.reset(token)


def rename(name: str) -> None:
    """Call the span at hand so: its name may be known at its end only."""
    if _recorder is not None:
        _recorder.rename(name)
