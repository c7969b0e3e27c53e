"""What a process of the stack has in hand: what has to be done again, or asked again, if it dies now.

train       commands without a result, of runs whose lease it holds
sample, …   deliveries that were made to it and that it has not acknowledged
dispatcher  activations that it holds open, as the services count them
gateway     requests that clients wait for, as the clients count them
nats        what trainers and workers have in hand: deliveries and leases are its own records

Nothing here touches the processes; who wants a number that stays true stops the process first.
"""

import json
import logging
from pathlib import Path
from typing import Any

from events import names
from events.bus import Bus
from events.failure import BusUnavailable
from events.lease import read_head, read_lease
from events.retry import answering

WORKERS = ("sample", "reward", "data", "checkpoint")


class OpenRequests(logging.Handler):
    """Counts the HTTP requests of this process that have been sent and not been answered."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """The client library says of each request when it begins and ends to wait for the answer."""
        what, _, rest = record.getMessage().partition(".")
        if what == "receive_response_headers":
            self.count += 1 if rest.startswith("started") else -1

    def follow(self) -> "OpenRequests":
        logger = logging.getLogger("httpcore")
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        logger.addHandler(self)
        return self


class Hands:
    """Looks into the hands of one stack's processes."""

    def __init__(self, bus: Bus, data_dir: Path, base_model: str, requests: OpenRequests) -> None:
        self._bus = bus
        self._data_dir = data_dir
        self._base = base_model
        self._requests = requests

    def rows(self) -> list[dict[str, Any]]:
        """What the supervisor says of its processes."""
        found: list[dict[str, Any]] = json.loads((self._data_dir / "processes.json").read_text())
        return found

    async def count(self, kind: str) -> int:
        """How much a kind has in hand. Raises BusUnavailable while NATS is away."""
        if kind == "train":
            return await self._commands()
        if kind in WORKERS:
            return await self._deliveries(kind)
        if kind == "dispatcher":
            return sum(row["activations"] for row in self.rows())
        if kind == "gateway":
            return self._requests.count
        return await self._commands() + sum([await self._deliveries(worker) for worker in WORKERS])

    async def _deliveries(self, kind: str) -> int:
        with answering(kind):
            consumers = await self._bus.js.consumers_info(kind.upper())
        return sum(int(info.num_ack_pending or 0) for info in consumers)

    async def _commands(self) -> int:
        stream, root = names.run_stream(self._base), f"{names.run_base(self._base)}.*.*"
        commands = await self._bus.subjects(stream, f"{root}.cmd.*")
        resolved = set(await self._bus.subjects(stream, f"{root}.result.*")) if commands else set()
        waiting = [one for one in commands if one.replace(".cmd.", ".result.") not in resolved]
        held = {root: await self._is_held(root) for root in {_root(one) for one in waiting}}
        return sum(held[_root(one)] for one in waiting)

    async def _is_held(self, root: str) -> bool:
        """Whether the trainer that lives holds the run."""
        stream = names.run_stream(self._base)
        standing, head = await read_lease(self._bus, stream, root), await read_head(self._bus, stream, root)
        if standing is None or (head.released and head.epoch == standing[0].epoch):
            return False
        return all(standing[0].replica not in row["dead"] for row in self.rows() if row["service"] == "train")


def _root(command: str) -> str:
    return command.rpartition(".cmd.")[0]


async def in_hand(hands: Hands, kind: str) -> int:
    """As `count`; nothing while NATS cannot be asked."""
    try:
        return await hands.count(kind)
    except BusUnavailable:
        return 0
