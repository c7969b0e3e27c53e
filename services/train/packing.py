"""Which datums go into which pass.

A pass holds at most a budget of tokens, of any number of runs; a datum longer than the budget has a pass of
its own. Datums of one run stand together, short before long, so that a pass has few groups of adapters and
its sequences are of similar length. Training and `forward_only` datums never meet: the latter keep no graph.

The plan is a pure function of the lengths.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Item:
    """One datum of a call."""

    work: int
    """Index of its `PassWork` in the call."""
    datum: int
    """Index within the work."""
    run: int
    """Index of its run among the runs of the call."""
    tokens: int
    forward_only: bool


Pass = list[Item]


def plan(items: Iterable[Item], budget: int) -> list[Pass]:
    """Divide `items` into passes of at most `budget` tokens (or one item)."""
    passes: list[Pass] = []
    tokens = 0
    for item in sorted(items, key=lambda i: (i.forward_only, i.run, i.tokens)):
        full = not passes or tokens + item.tokens > budget
        if full or passes[-1][0].forward_only != item.forward_only:
            passes.append([])
            tokens = 0
        passes[-1].append(item)
        tokens += item.tokens
    return passes


def halve(items: Pass) -> tuple[Pass, Pass]:
    """Split a pass of at least two items into two of about the same number of tokens."""
    total = sum(item.tokens for item in items)
    cut, tokens = 1, items[0].tokens
    while cut < len(items) - 1 and tokens + items[cut].tokens <= total / 2:
        tokens += items[cut].tokens
        cut += 1
    return items[:cut], items[cut:]
