"""All services of one installation: what waits for them, how they fare, and what waiting clients are told.

Reads the platform's word every half second, and writes into the services' records how they fare and why work waits, so
that any gateway can say it. A verdict on a service fails what was waiting for it.
"""

import asyncio
from datetime import datetime

import httpx
import structlog

from events import liveness, metrics, names, tasks
from events.blobs import Blobs
from events.bus import Bus
from events.dispatcher.backlog import backlog_of
from events.dispatcher.service import ActivatedService
from events.dispatcher.verdict import awaited, fail_waiting
from events.failure import BusError
from events.platform import Platform, ServiceStatus
from events.record_store import Records
from events.records import KINDS, ServiceRecord
from events.streams import RECORDS
from rekindle.types.keys import EVERYONE
from rekindle.types.requests import ServiceInfo

log = structlog.get_logger(__name__)

CHECK_SECONDS = 0.5
"""How often the platform is asked how the services fare."""


class Dispatcher:
    """Keeps the activations of all services."""

    def __init__(
        self,
        bus: Bus,
        blobs: Blobs,
        platform: Platform,
        http: httpx.AsyncClient,
        gap_seconds: float,
    ) -> None:
        self._bus = bus
        self._blobs = blobs
        self._records = Records(bus)
        self._platform = platform
        self._http = http
        self._gap_seconds = gap_seconds
        self._checking = asyncio.Lock()
        self._said: dict[str, ServiceInfo] = {}
        self._known: frozenset[str] | None = None
        """Names of the services of which alone something is said; None: not made sure of yet."""
        self._judged: dict[str, datetime] = {}
        self._buried: set[str] = set()
        self._kept: dict[str, tuple[ActivatedService, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Go on until cancelled."""
        try:
            while True:
                await self._follow()
                await self._forget_others()
                await self._check()
                working = [task for _, task in self._kept.values()]
                if not working:
                    await asyncio.sleep(CHECK_SECONDS)
                    continue
                done, _ = await asyncio.wait(
                    working, timeout=CHECK_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
        finally:
            await tasks.end(*(task for _, task in self._kept.values()))

    @property
    def services(self) -> list[ActivatedService]:
        """Those whose activations are kept now."""
        return [service for service, _ in self._kept.values()]

    async def _follow(self) -> None:
        """Keep the activations of the services that there are now."""
        found = {spec.name: spec for spec in await self._platform.services()}
        for name, (service, task) in list(self._kept.items()):
            spec = found.get(name)
            if spec is not None and service.becomes(spec):
                continue
            log.info("service.left", service=name)
            del self._kept[name]
            await tasks.end(task)
            metrics.QUEUED.remove(name)
            metrics.ACTIVATIONS.remove(name)
        for spec in found.values():
            if spec.name not in self._kept:
                backlog = backlog_of(spec, self._bus, self._gap_seconds)
                service = ActivatedService(self._bus, spec, backlog, self._http, self._check)
                self._kept[spec.name] = service, asyncio.create_task(service.run())

    async def _forget_others(self) -> None:
        """How services fare that have left, perhaps while no dispatcher ran, is nobody's news any more."""
        kind, known = KINDS[ServiceRecord], frozenset(self._kept)
        if known == self._known:
            return
        ours = {names.record_subject(kind, EVERYONE, name) for name in known}
        try:
            for subject in await self._bus.subjects(RECORDS, names.record_filter(kind, EVERYONE)):
                if subject not in ours:
                    await self._bus.purge(RECORDS, subject)
        except BusError as error:
            log.info("services.unforgotten", reason=str(error))
            return
        self._said = {name: about for name, about in self._said.items() if name in known}
        self._known = known

    async def _check(self) -> None:
        """Ask the platform, and act on what it says."""
        async with self._checking:
            found = await self._platform.status()
            for service in self.services:
                if service.spec.name not in self._kept:
                    continue  # it left while others were told of
                metrics.QUEUED.labels(service.spec.name).set(service.backlog.depth)
                metrics.ACTIVATIONS.labels(service.spec.name).set(service.slots.open)
                status = found.get(service.spec.name)
                try:
                    if status is not None:
                        await self._bury(status)
                        await self._judge(service, status)
                    await self._say(service, status)
                except BusError as error:
                    log.info("status.untold", service=service.spec.name, reason=str(error))

    async def _bury(self, status: ServiceStatus) -> None:
        """What a dead replica held may be taken at once."""
        for replica in set(status.dead) - self._buried:
            await liveness.bury(self._bus, replica)
            self._buried.add(replica)

    async def _judge(self, service: ActivatedService, status: ServiceStatus) -> None:
        """Fail what waits for a service that the platform has given up since we last looked."""
        verdict, name = status.verdict, service.spec.name
        if verdict is None or self._judged.get(name) == verdict.at:
            return
        await fail_waiting(self._bus, self._blobs, service.spec, service.backlog, verdict)
        service.rest(True)  # before we look: what comes meanwhile ends it
        if await awaited(service.backlog):
            service.rest(False)
        self._judged[name] = verdict.at
        service.look()

    async def _say(self, service: ActivatedService, status: ServiceStatus | None) -> None:
        """Write how the service fares, when that has changed."""
        about = _about(service, status)
        if self._said.get(about.name) != about:
            await self._records.replace(EVERYONE, about.name, ServiceRecord(about=about))
            self._said[about.name] = about


def _about(service: ActivatedService, status: ServiceStatus | None) -> ServiceInfo:
    spec = service.spec
    return ServiceInfo(
        name=spec.name,
        kind=spec.kind,
        base_model=spec.base,
        state=None if status is None else status.state,
        reason=_reason(service, status),
        queued=service.backlog.depth,
        activations=service.slots.open,
        replicas=None if status is None else status.replicas,
    )


def _reason(service: ActivatedService, status: ServiceStatus | None) -> str | None:
    """What a client shall hear; None when its work does not wait for the platform."""
    if status is None or status.state == "ready" or not service.waits:
        return None
    name = service.spec.name
    said = f" ({status.reason})" if status.reason else ""
    return f"starting {name}{said}"
