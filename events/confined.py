"""What the reward service may touch where it has rights of its own: it runs code of users.

All of it begins with the service's name: its commands, `rewards.` for what it keeps, and a folder of blobs; and there
are the facts that it says. Whoever reads what it has written believes it in this alone.
"""

import re

CONFINED = "reward"
"""The service."""
CONFINED_RECORDS = frozenset({"function", "source", "sandbox"})
CONFINED_FACTS = frozenset({"rollout.scored", "rollout.excluded"})
PAYLOAD = re.compile(rf"{CONFINED}/[a-z0-9-]{{1,64}}/claims/\d{{4}}-\d\d-\d\d/[a-z0-9-]{{1,128}}")
"""Keys of its payloads: any other might be none that a store takes, and who reads it would fail at that for ever."""


def is_confined(subject: str) -> bool:
    """Whether it writes there."""
    first, _, rest = subject.partition(".")
    if first in ("dead", "later"):
        first = rest.partition(".")[0]
    if first == "facts":
        return rest.partition(".")[2] in CONFINED_FACTS
    return first in (CONFINED, "rewards")


def may_refer(subject: str, key: str) -> bool:
    """Whether an event on the subject may have its payload there: not where its writer could not have put it."""
    return not is_confined(subject) or PAYLOAD.fullmatch(key) is not None
