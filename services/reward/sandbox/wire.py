"""What the service and its warm interpreter say to each other: JSON datagrams, descriptors beside them.

No guest's data is among it; payloads go to the guest alone.
"""

import dataclasses
import json
from dataclasses import dataclass, field

DATAGRAM_BYTES = 64 * 1024
MOST_FDS = 250
"""That the kernel passes with one datagram are 253."""

SETTINGS = {
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
"""Environment of the warm interpreter, beside where modules are found, and of guests, beside where their folder is.

One thread a library: guests may have no other.
"""


@dataclass(frozen=True, slots=True)
class Order:
    """A guest to be. With it go descriptors: standard input, output, error, report, lead, then the run's own."""

    id: int
    entry: str
    """`package.module:function`."""
    cpu_seconds: float
    memory_bytes: int
    file_bytes: int
    open_files: int
    threads: int
    scratch: str
    uid: int | None
    """User and group it becomes; None: stays."""
    without: list[str]
    """Mechanisms left out."""


@dataclass(frozen=True, slots=True)
class News:
    """From the warm interpreter. Example: News(7, "ended", status=0, cpu_seconds=0.004)."""

    id: int
    """Of the order; 0: of the interpreter itself."""
    what: str
    """`warm` or `broken` at the start; then for each order `started` (with its pidfd) and `ended`, or `failed`."""
    status: int = 0
    """Of an ended guest, as waitpid gives it."""
    cpu_seconds: float = 0.0
    detail: str = ""
    facts: dict[str, int] = field(default_factory=dict)
    """Of the machine, with `warm`: `landlock` (version), `uids` (1: guests can become other users)."""


def pack(message: Order | News) -> bytes:
    data = json.dumps(dataclasses.asdict(message)).encode()
    assert len(data) <= DATAGRAM_BYTES, "a message that fits a datagram"
    return data
