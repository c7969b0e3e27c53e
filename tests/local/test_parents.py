"""A warm parent that cannot help is no obstacle."""

import asyncio
import sys
from pathlib import Path

from services.local.parents import WarmParent
from services.local.process import Child, Inherited


async def test_without_a_parent_that_was_given_up_children_start_at_once(tmp_path: Path) -> None:
    parent = WarmParent(Child("warm", [], tmp_path / "warm.log", state="failed"))
    child = Child("data", [sys.executable, "-c", "print('here')"], tmp_path / "data.log")
    with (tmp_path / "data.log").open("wb") as log:
        async with asyncio.timeout(20):  # a parent that still imports is waited for six times as long
            process = await parent.fork(child, Inherited(log.fileno(), None, None))
            assert await process.wait() == 0
    assert (tmp_path / "data.log").read_text() == "here\n"
