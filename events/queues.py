"""What a work queue is: where its commands and results lie, what a command costs, and what a handler makes of one."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cloudevents.core.v1.event import CloudEvent

from events import envelope


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler made of a command."""

    data: bytes
    content_type: str = envelope.JSON
    facts: list[CloudEvent] = field(default_factory=list)


Handler = Callable[[CloudEvent, bytes], Awaitable[Answer | None]]
"""(command, data) → answer; None when nobody waits for one. Raises UserError, ServerError or anything."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A work queue and where its results go."""

    stream: str
    consumer: str
    """First part of the names of its consumers."""
    filter: str
    """`<queue>.>`: what follows begins with the tenant's token."""
    result_subject: Callable[[CloudEvent], str] | None
    """Of a command; None for commands without a result."""
    tenant: Callable[[CloudEvent], str]
    cost: Callable[[CloudEvent, bytes], int] = lambda _event, _data: 1
    """How much of the worker's budget a command takes."""
    outside: Callable[[CloudEvent, bytes], bool] | None = None
    """Whether a command only waits for somebody outside; None: none does."""
    lasting: Callable[[CloudEvent], bool] = lambda _event: False
    """Whether a command waits more than it works."""
    settled: Callable[[CloudEvent], Awaitable[None]] | None = None
    """Called between a command's durable result and its acknowledgement, again when that was cut short."""
