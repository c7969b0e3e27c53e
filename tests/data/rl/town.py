"""A gateway's routes of triggers, workers that come and go, and a listener for webhooks, over a real NATS."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from events import catalog, facts, names
from events.app import make_app
from events.bus import Bus
from events.claims import lend
from events.edge import Edge
from events.keys import LOCAL_TENANT
from events.outside import Guard
from events.streams import FACT_DAYS
from events.tasks import end
from rekindle.types.rl import RlRunSpec
from services.data.rl import triggers_api
from services.data.rl.triggers import Triggers, Watcher
from services.data.rl.webhook import Webhooks
from services.data.settings import DataSettings
from services.data.worker import DataWorker

Json = dict[str, Any]


@dataclass
class Listener:
    """Takes webhooks; `statuses` are its answers, one after the other, the last one for ever."""

    statuses: list[int]
    url: str = ""
    heard: list[Json] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in head if ": " in line)
        self.heard.append(json.loads(await reader.readexactly(int(fields["content-length"]))))
        self.kinds.append(fields["content-type"])
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    @contextlib.asynccontextmanager
    async def listens(self) -> AsyncIterator["Listener"]:
        async with await asyncio.start_server(self.handle, "127.0.0.1", 0) as server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
            yield self


class Town:
    """What the tests of triggers do."""

    def __init__(self, nats_url: str, blobs: Path, http: httpx.AsyncClient, edge: Edge) -> None:
        self.settings = settings_for(nats_url, blobs)
        self.http, self.edge = http, edge
        self.started: list[tuple[str, RlRunSpec, str | None]] = []
        """(id, spec, trigger) of every call that started a run."""
        self.refusal: Exception | None = None

    @property
    def bus(self) -> Bus:
        return self.edge.bus

    async def start(
        self, edge: Edge, tenant: str, run_id: str, spec: RlRunSpec, *, trigger: str | None
    ) -> None:
        assert tenant == LOCAL_TENANT
        self.started.append((run_id, spec, trigger))
        if self.refusal is not None:
            raise self.refusal

    def triggers(self, edge: Edge | None = None, allowed: tuple[str, ...] = ("127.0.0.0/8",)) -> Triggers:
        return Triggers(edge or self.edge, self.start, Webhooks(Guard(allowed)))

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        """A replica of the data service."""
        edge = await Edge.open(self.settings, "data")
        work = DataWorker(edge, self.settings, self.triggers(edge))
        tasks = [asyncio.create_task(one.run()) for one in (work, Watcher(edge))]
        try:
            yield
            for task in tasks:
                assert not task.done() or task.result()
        finally:
            await end(*tasks)
            await edge.bus.close()

    async def make(self, **spec: Any) -> Json:
        answer = await self.http.post("triggers", json=spec)
        assert answer.status_code == 200, answer.text
        made: Json = answer.json()
        return made

    async def say(self, data: Json, id: str, type_: str = catalog.DATASET_UPLOADED) -> None:
        """Say a fact, however often it was said before."""
        fact = facts.make_fact(type_, tenant=LOCAL_TENANT, service="data", subject="it", id=id, data=data)
        subject = names.fact_subject(LOCAL_TENANT, type_)
        fact = await lend(self.bus, self.edge.blobs, LOCAL_TENANT, fact, FACT_DAYS, on=subject)
        await self.bus.append(subject, fact)

    async def firings(self, trigger: str) -> list[Json]:
        found: list[Json] = (await self.http.get(f"triggers/{trigger}/firings")).json()["firings"]
        return found

    async def until_fired(self, trigger: str, times: int = 1) -> list[Json]:
        await self.until(lambda: self._fired(trigger, times))
        return await self.firings(trigger)

    async def _fired(self, trigger: str, times: int) -> bool:
        return len(await self.firings(trigger)) >= times

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await holds():  # noqa: ASYNC110  # the server tells nobody
                await asyncio.sleep(0.01)


def settings_for(nats_url: str, blobs: Path) -> DataSettings:
    return DataSettings.model_validate({"NATS_URL": nats_url, "blobs": str(blobs)})


@contextlib.asynccontextmanager
async def founded(nats_url: str, blobs: Path) -> AsyncIterator[Town]:
    app = make_app("gateway", settings_for(nats_url, blobs), [triggers_api.router])
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://localhost/api/v1/"
        ) as http,
    ):
        yield Town(nats_url, blobs, http, app.state.edge)
