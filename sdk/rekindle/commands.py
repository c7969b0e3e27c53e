"""The commands of one training run: numbered in call order, submitted in that order, each at most once.

A command takes its number when it is called, so several can be submitted before the first is awaited. It is
posted once the one before it was accepted. A post whose answer was lost is repeated under the same number,
which the server recognises: no gradient is ever applied twice. Giving up on a future leaves its command in
its place, because a missing number would hold up all behind it.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from rekindle.futures import Future, Progress, shielded
from rekindle.session import Session
from rekindle.transport import JSON, PROTOBUF
from rekindle.types import UntypedFuture, parse_json

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Command:
    """A body under its number. Example: `Command("/optim_step", b'{"seq_id": 3, …}', JSON)`."""

    path: str
    body: bytes
    content_type: str = JSON


class Commands:
    """The one sequence of commands of a run."""

    def __init__(self, session: Session, first: int = 1) -> None:
        self._session = session
        self._next = first
        self._numbering = threading.Lock()
        self._turn = asyncio.Lock()  # fair: those who wait get it in the order in which they came

    def submit(self, kind: type[M], make: Callable[[int], tuple[str, BaseModel]]) -> Future[M]:
        """One JSON command with a JSON result; `make(number)` gives its path and body."""

        def command(number: int) -> Command:
            path, body = make(number)
            return Command(path, body.model_dump_json(exclude_none=True).encode())

        return self.submit_parts([command], JSON, lambda results: parse_json(kind, results[0]))

    def submit_parts(
        self,
        makers: Sequence[Callable[[int], Command]],
        accept: str,
        combine: Callable[[list[bytes]], T],
    ) -> Future[T]:
        """The parts of one call under numbers in a row; `combine` makes the result of theirs, in order.

        An error of a maker reaches the caller and takes no number.
        """
        with self._numbering:
            commands = [make(self._next + index) for index, make in enumerate(makers)]
            self._next += len(
                commands
            )  # first: an interrupt in between leaves a gap, never a number used twice
            accepted = [self._session.submit(self._post(command)) for command in commands]
        return self._session.future(lambda progress: self._collect(accepted, accept, combine, progress))

    async def _post(self, command: Command) -> str:
        async with self._turn:
            answer = await self._session.transport.send(
                "POST", command.path, body=command.body, headers={"Content-Type": command.content_type}
            )
        return parse_json(UntypedFuture, answer.content).request_id

    async def _collect(
        self,
        accepted: "list[concurrent.futures.Future[str]]",
        accept: str,
        combine: Callable[[list[bytes]], T],
        progress: Progress,
    ) -> T:
        results = []
        for waiting in accepted:
            request_id = await shielded(waiting)
            results.append(await self._session.poller.wait(request_id, progress, accept))
        return combine(results)


__all__ = ["JSON", "PROTOBUF", "Command", "Commands"]
