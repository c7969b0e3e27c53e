"""What a process tells the one that started it, line by line over an inherited pipe.

    {"state": "ready", "activations": 2}

The parent need not ask, and hears of the end by the pipe's. Knows nothing of who listens.
"""

import asyncio
import contextlib
import json
import os

from events.activity import Activity


class Notify:
    """The process's end of the pipe; None = nobody listens."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def tell(self, state: str, activations: int = 0) -> None:
        """A parent that has gone hears nothing; that is no reason to fail."""
        if self._fd is not None:
            line = json.dumps({"state": state, "activations": activations}) + "\n"
            with contextlib.suppress(BrokenPipeError):
                os.write(self._fd, line.encode())

    async def follow(self, activity: Activity) -> None:
        """Tell how a replica fares, until cancelled."""
        await activity.ready.wait()

        def changed() -> None:
            self.tell("stopping" if activity.draining else "ready", activity.activations)

        changed()
        forget = activity.on_change(changed)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            forget()
