"""Makes a base model known without loading it: `python -m services.train.register`, then it ends.

Edges check requests against what the model's configuration says; they need it while no trainer runs.
"""

import asyncio

from events import logs
from events.bus import Bus
from events.records import EVERYONE, ModelRecord, Records
from services.model.base import describe
from services.train.settings import TrainSettings


async def register(records: Records, settings: TrainSettings) -> None:
    """Write the model's record, unless it stands. Raises OSError or ValueError for what is no model."""
    about = await asyncio.to_thread(describe, settings.base_source)
    model = ModelRecord(name=settings.base_name, source=settings.base_source, **about)
    if model not in await records.all(ModelRecord, EVERYONE):
        await records.replace(EVERYONE, settings.base_name, model)


async def run(settings: TrainSettings) -> None:
    bus = await Bus.connect(settings.nats_url, name="register", replicas=settings.replicas)
    try:
        await register(Records(bus), settings)
    finally:
        await bus.close()


def main() -> None:
    settings = TrainSettings()  # type: ignore[call-arg]
    logs.configure("register", as_json=settings.log_json)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
