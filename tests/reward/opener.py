"""The dispatcher's part in the reward service's work, as a process: `python -m tests.reward.opener URL`."""

import asyncio
import sys

from events.bus import Bus
from events.dispatcher.opener import open_what_is_asked


async def main() -> None:
    bus = await Bus.connect(sys.argv[1], name="opener")
    await bus.ensure_shared_streams()
    await open_what_is_asked(bus)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
