"""Makes a base model known without loading it, or forgotten: `python -m services.train.register [--remove]`.

Edges check requests against what the model's configuration says; they need it while no trainer runs.
"""

import argparse
import asyncio
from typing import Any

from events import logs, model_files
from events.bus import Bus
from events.record_store import Records
from events.records import ModelRecord
from rekindle.types.keys import EVERYONE
from services.model.base import describe
from services.train.settings import TrainSettings


async def register(records: Records, settings: TrainSettings) -> None:
    """Write the model's record, unless it stands. Raises OSError or ValueError for what is no model."""
    about = await asyncio.to_thread(_about, settings.base_source)
    model = ModelRecord(name=settings.base_name, source=settings.base_source, **about)
    if model not in await records.all(ModelRecord, EVERYONE):
        await records.replace(EVERYONE, settings.base_name, model)


def _about(source: str) -> dict[str, Any]:
    return describe(str(model_files.folder(source, model_files.CONFIG)))


async def unregister(records: Records, settings: TrainSettings) -> None:
    """Forget the model; its runs and checkpoints stay. Nothing happens if it is not known."""
    await records.forget(ModelRecord, EVERYONE, settings.base_name)


async def run(settings: TrainSettings, remove: bool = False) -> None:
    bus = await Bus.connect(settings.nats_url, name="register", replicas=settings.replicas)
    try:
        await (unregister if remove else register)(Records(bus), settings)
    finally:
        await bus.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a base model known.")
    parser.add_argument("--remove", action="store_true", help="have it forgotten instead")
    asked = parser.parse_args()
    settings = TrainSettings()  # type: ignore[call-arg]
    logs.configure("register", as_json=settings.log_json)
    asyncio.run(run(settings, remove=asked.remove))


if __name__ == "__main__":
    main()
