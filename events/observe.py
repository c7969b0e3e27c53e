"""What lets people look into a process: metrics at a port of their own, and spans to a collector of theirs."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from events import trace
from events.scrape import scraped
from events.settings import BusSettings

COLLECTORS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Variables that say where spans go; without them nothing is recorded, and nothing imported."""


@asynccontextmanager
async def observed(service: str, settings: BusSettings) -> AsyncIterator[None]:
    """Let people look within the block. Raises OSError where the port is taken."""
    async with scraped(settings.host, settings.metrics_port), traced(service):
        yield


@asynccontextmanager
async def traced(service: str) -> AsyncIterator[None]:
    """Record spans within the block, if anybody wants them."""
    if not any(map(os.environ.get, COLLECTORS)):
        yield
        return
    from events.otel import Otlp

    otlp = Otlp(service)
    trace.record(otlp)
    try:
        yield
    finally:
        trace.record(None)
        await asyncio.to_thread(otlp.close)
