"""The rules of the run log, each of which can be broken, and the troubles that may strike it.

A rule turned over is a mutation of the protocol. The first six are what the words lease, fence, result, head and
purge mean; the others say what those words leave open, and each is needed as much.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["grad", "save", "load", "reject"]
"""A command that changes the state, one that exports it, one that replaces it, one that an edge rejects."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol."""

    fenced: bool = True
    """Every write of a holder is refused once somebody else has taken the lease."""
    head_before_purge: bool = True
    result_before_ack: bool = True
    """A head acknowledges the commands that it covers (nobody computes them again), so their results stand first."""
    cold_after_other_epochs: bool = True
    """Memory is used again only if no other epoch came between."""
    tombstone_fenced: bool = True
    fresh_epochs: bool = True
    """An epoch is never used twice."""

    head_fenced: bool = True
    head_read_under_lease: bool = True
    """Head, blob and results are read after the lease is taken, never before."""
    gap_judged_under_lease: bool = True
    """So is the number that is to be given up: to others a purged one looks as if it had never come."""
    results_in_order: bool = True
    """A result or checkpoint entry waits for the results of all earlier numbers that change the state."""
    load_after_snapshot: bool = True
    """A load has its result after a head at its own number."""
    head_before_load: bool = True
    """That head alone may cover a number without a result, and is not purged behind until it has one."""
    purge_spares_results: bool = True
    """A rejection or a tombstone is its number's result, so it stays."""
    sweep_only_older: bool = True
    """Deleting blobs is not fenced, so only those of earlier (epoch, number) than one's own head may go."""
    new_epoch_after_doubt: bool = False
    """A write that was not heard of is looked for under a new epoch, into which it cannot arrive any more."""


FENCES = (
    "fenced",
    "cold_after_other_epochs",
    "tombstone_fenced",
    "head_fenced",
    "fresh_epochs",
    "sweep_only_older",
)
"""While these hold, a trainer without the lease can only finish what it has begun outside the log."""


class Bounds(NamedTuple):
    """How often each trouble may strike."""

    crashes: int = 1
    steals: int = 1
    """Take-overs from a holder that lives: it was paused or slow, and goes on afterwards."""
    failures: int = 1
    """Computations that fail for a reason that the next attempt does not share."""
    unheard: int = 0
    """Writes that happen without an acknowledgement."""
    held_up: tuple[str, ...] = ()
    """Kinds of write of which one arrives after its writer has stopped waiting, perhaps after many others."""
    again: int = 0
    """Posts of a number whose subject has been purged."""
    missing: tuple[int, ...] = ()
    """Numbers that clients post late or never; all others are in the log from the beginning."""
