"""The dispatcher as a process: `python -m events.dispatcher`."""

import asyncio
import signal

from events import logs, tasks
from events.blobs import open_blobs
from events.bus import Bus
from events.dispatcher.dispatcher import Dispatcher
from events.dispatcher.opener import open_what_is_asked
from events.dispatcher.post import make_client
from events.dispatcher.settings import DispatcherSettings
from events.notify import Notify
from events.observe import observed
from events.platform import Platform, StateFile


async def run(settings: DispatcherSettings) -> None:
    """Dispatch until SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    blobs = open_blobs(settings)
    bus = await Bus.connect(settings.nats_url, name="dispatcher", replicas=settings.replicas)
    await bus.ensure_shared_streams()  # in a new cluster it may be the first to come
    await open_what_is_asked(bus)
    async with observed("dispatcher", settings), make_client(settings.activation_key) as http:
        dispatcher = Dispatcher(
            bus,
            blobs,
            _platform(settings),
            http,
            settings.gap_seconds,
        )
        working = asyncio.create_task(dispatcher.run())
        stopping = asyncio.create_task(stop.wait())
        Notify(settings.notify_fd).tell("ready")
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        failed = working.done() and working.exception()
        await tasks.end(working, stopping)
    await bus.close()
    await blobs.close()
    if failed:
        raise failed


def _platform(settings: DispatcherSettings) -> Platform:
    """Only the chosen one's library is imported."""
    if settings.platform == "knative":
        from events.knative import KnativePlatform

        return KnativePlatform(settings.namespace)
    assert settings.state_file is not None, "checked by the settings"
    return StateFile(settings.state_file, settings.services)


def main() -> None:
    settings = DispatcherSettings()  # type: ignore[call-arg]
    logs.configure("dispatcher", as_json=settings.log_json)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
