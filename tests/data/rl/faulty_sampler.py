"""What is wrong with a sampling service: imported before its program, it heeds the file that `FAULT` names.

`{"from": 2, "adapter": FOLDER}` samples with that adapter under the name of version 2 and later ones;
`{"from": 1, "temperature": 0.5}` multiplies the temperature. An empty object: all is well.
"""

import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from events.sampling import SampleCommand
from services.sample import worker
from services.sample.engine import AdapterRef, SampleTask
from services.sample.worker import SampleWorker

FAULT = Path(os.environ["FAULT"])


def fault_of(command: SampleCommand) -> dict[str, Any]:
    """Whatever is wrong with this command's sampling."""
    found: dict[str, Any] = json.loads(FAULT.read_text())
    version = re.search(r"version-(\d+)", command.version or "")
    return found if version is not None and int(version[1]) >= found.get("from", 0) else {}


def faulty_task(command: SampleCommand) -> SampleTask:
    task = task_of(command)
    return replace(task, temperature=task.temperature * fault_of(command).get("temperature", 1.0))


@asynccontextmanager
async def faulty_adapter(self: SampleWorker, command: SampleCommand) -> AsyncIterator[AdapterRef | None]:
    wrong = fault_of(command).get("adapter")
    async with adapter_of(self, command) as adapter:
        yield replace(adapter, folder=Path(wrong)) if adapter is not None and wrong else adapter


task_of, adapter_of = worker.task_of, SampleWorker._adapter
worker.task_of = faulty_task
SampleWorker._adapter = faulty_adapter  # type: ignore[method-assign]
