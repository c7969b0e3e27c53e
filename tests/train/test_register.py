"""A base model that is known without a trainer, and forgotten."""

from pathlib import Path

from events.bus import Bus
from events.record_store import Records
from events.records import ModelRecord
from rekindle.types.keys import EVERYONE
from services.train.register import run
from services.train.settings import TrainSettings
from tests.events.nats_process import NatsProcess
from tests.model.random_models import save_random_model


async def test_a_model_is_known_from_its_registration_until_it_is_removed(
    nats: NatsProcess, tmp_path: Path
) -> None:
    source = save_random_model("tied", tmp_path / "model")
    settings = TrainSettings(
        nats_url=nats.url, blobs=str(tmp_path), base_name="org/tiny", base_source=str(source)
    )
    bus = await Bus.connect(nats.url, name="test")
    await bus.ensure_shared_streams()

    async def known() -> set[str]:
        return {one.name for one in await Records(bus).all(ModelRecord, EVERYONE)}

    await run(settings)
    assert "org/tiny" in await known()
    await run(settings, remove=True)
    assert "org/tiny" not in await known()
    await run(settings, remove=True)  # what is forgotten already is no error
    await bus.close()
