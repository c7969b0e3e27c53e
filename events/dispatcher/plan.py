"""How many activations to open: pure functions of what is known of a service.

An activation is a slot and names no work. There are as many as the backlog asks for, up to a bound, never more,
and none while the service has just refused: then the next one waits, longer each time. Longest while the platform
has given the service up and nobody waits for what is left: such work is a promise to be kept once the service can
start again, but no reason to try all the time.
"""

import math
from dataclasses import dataclass, replace

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
"""Seconds between a refusal and the next attempt."""
LONGEST_REST = 300.0
"""The same while nobody waits."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How backlog becomes slots. Example: Scale(most=8, capacity=65536.0)."""

    most: int
    """Activations open at once."""
    capacity: float
    """Backlog that one activation is for."""


@dataclass(frozen=True, slots=True)
class Slots:
    """What is known of a service's activations."""

    open: int = 0
    """Activations that have been posted and have not ended."""
    backlog: float = 0.0
    """Work that waits or is in hand, as last read or heard of."""
    refusals: int = 0
    """Attempts in a row that the service did not answer."""
    not_before: float = 0.0
    """When the next attempt may be made."""
    resting: bool = False
    """The platform has given the service up, and nobody waits for the work that is left."""


def wanted(scale: Scale, backlog: float) -> int:
    """Activations that the backlog asks for."""
    return min(scale.most, max(1, math.ceil(backlog / scale.capacity))) if backlog > 0 else 0


def to_open(scale: Scale, slots: Slots, now: float) -> int:
    """Activations to post now."""
    if now < slots.not_before:
        return 0
    missing = max(0, wanted(scale, slots.backlog) - slots.open)
    return min(1, missing) if slots.refusals else missing  # one attempt shows whether it answers again


def posted(slots: Slots, count: int) -> Slots:
    """`count` activations were posted."""
    return replace(slots, open=slots.open + count)


def read(slots: Slots, backlog: float) -> Slots:
    """The backlog is this."""
    return replace(slots, backlog=backlog)


def heard(slots: Slots, at_least: float) -> Slots:
    """Work has come: the backlog is no less than this, and somebody may wait for it."""
    slots = replace(slots, backlog=max(slots.backlog, at_least))
    return replace(slots, resting=False, refusals=0, not_before=0.0) if slots.resting else slots


def rest(slots: Slots, resting: bool = True) -> Slots:
    """Whether the platform has given the service up, and nobody waits for the work that is left."""
    return replace(slots, resting=resting)


def answered(slots: Slots) -> Slots:
    """An activation ended as it should."""
    return replace(slots, open=slots.open - 1, refusals=0, not_before=0.0, resting=False)


def refused(slots: Slots, now: float) -> Slots:
    """An activation broke off, or was refused; those that end together count once."""
    if now < slots.not_before:
        return replace(slots, open=slots.open - 1)
    longest = LONGEST_REST if slots.resting else LONGEST_PAUSE
    pause = min(longest, FIRST_PAUSE * 2.0 ** min(slots.refusals, 16))
    return replace(slots, open=slots.open - 1, refusals=slots.refusals + 1, not_before=now + pause)
