"""A training service in small: a real NATS, a tiny model, workers that can be killed, and a client's view."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from structlog.testing import capture_logs

from events import catalog, envelope, ids, names, tasks
from events.blobs import FolderBlobs
from events.bus import Bus
from events.checkpoints import CheckpointEntry, Checkpoints
from events.failure import Failure
from events.futures import Futures, Result
from events.record_store import Records
from events.records import LoraShape, RunRecord
from events.runlog import RunLog
from events.weights import LoadCommand, SaveCommand
from rekindle.types.datums import Datum, ForwardBackwardRequest, encode_forward_backward
from services.train.engine import TrainEngine
from services.train.worker import TrainWorker
from tests.train.train_data import batch

TENANT = "local"
SECONDS = 60.0


class Lab:
    """The client's side of one base model, and a place to start workers."""

    def __init__(self, url: str, bus: Bus, blobs: FolderBlobs, engine: TrainEngine) -> None:
        self.url, self.bus, self.blobs, self.engine = url, bus, blobs, engine
        self.base = f"model-{uuid.uuid4().hex[:8]}"
        self.stream = names.run_stream(self.base)
        self.records = Records(bus)
        self.checkpoints = Checkpoints(bus, self.records)
        self.futures = Futures(bus, blobs, self.records)
        self.log = RunLog(bus, blobs)

    # Commands

    async def new_run(self, name: str = "run", seed: int = 1, create: bool = True) -> RunRecord:
        run_id = f"{self.base}:{name}:train:0"
        record = RunRecord(
            run_id=run_id,
            session_id=self.base,
            base=self.base,
            lora=LoraShape(rank=4, seed=seed),
            created=datetime.now(UTC),
        )
        await self.records.create(TENANT, run_id, record)
        if create:
            await self.create(record)
        return record

    async def send(
        self, run: RunRecord, number: int, type_: str, data: bytes, kind: str = envelope.JSON
    ) -> None:
        await self.log.submit(TENANT, run, number, type_, data, kind)

    async def create(self, run: RunRecord) -> None:
        await self.send(run, 0, catalog.CREATE_MODEL, run.model_dump_json().encode())

    async def train(
        self, run: RunRecord, number: int, data: list[Datum] | None = None, loss: str = "cross_entropy"
    ) -> None:
        data = data if data is not None else batch([5, 9], seed=number)
        inputs = {"cross_entropy": {"target_tokens", "weights"}}.get(
            loss, {"target_tokens", "logprobs", "advantages"}
        )
        data = [Datum(one.tokens, {k: v for k, v in one.inputs.items() if k in inputs}) for one in data]
        request = ForwardBackwardRequest(run.run_id, number, data, loss, {}, False)
        await self.send(
            run, number, catalog.FORWARD_BACKWARD, encode_forward_backward(request), envelope.PROTOBUF
        )

    async def step(self, run: RunRecord, number: int) -> None:
        params = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-3}
        body = {"model_id": run.run_id, "seq_id": number, "adam_params": params}
        await self.send(run, number, catalog.OPTIM_STEP, envelope.json_data(body))

    async def save(self, run: RunRecord, number: int, name: str, **options: Any) -> None:
        options = {"kind": "weights", "optimizer": options.get("kind", "weights") == "weights", **options}
        command = SaveCommand(name=name, created=datetime.now(UTC), **options)
        await self.send(run, number, catalog.SAVE_WEIGHTS, command.model_dump_json().encode())

    async def load(self, run: RunRecord, number: int, entry: CheckpointEntry, optimizer: bool) -> None:
        command = LoadCommand(path=entry.path, blob=entry.blob, optimizer=optimizer, creates_run=number == 0)
        await self.send(run, number, catalog.LOAD_WEIGHTS, command.model_dump_json().encode())

    async def lesson(self, run: RunRecord, first: int, steps: int) -> int:
        """Two passes and a step, `steps` times; returns the next number."""
        for number in range(first, first + 3 * steps, 3):
            await self.train(run, number)
            await self.train(run, number + 1)
            await self.step(run, number + 2)
        return first + 3 * steps

    # Results

    async def end(self, run: RunRecord, number: int, seconds: float = SECONDS) -> Result | Failure:
        found = await self.futures.wait(TENANT, ids.future_id(run.run_id, number), seconds)
        assert found is not None, f"no result of operation {number} after {seconds} s"
        return found

    async def ends_well(self, run: RunRecord, *numbers: int) -> None:
        for number in numbers:
            found = await self.end(run, number)
            assert isinstance(found, Result), found

    async def failure(self, run: RunRecord, number: int) -> Failure:
        found = await self.end(run, number)
        assert isinstance(found, Failure), found
        return found

    async def entries(self, run: RunRecord, part: str) -> dict[str, int]:
        """How many entries lie on each subject of a part of the log, by the subject's end."""
        root = names.run_root(self.base, TENANT, run.run_id)
        info = await self.bus.js.stream_info(self.stream, subjects_filter=f"{root}.{part}")
        return {
            subject.removeprefix(f"{root}."): count for subject, count in (info.state.subjects or {}).items()
        }

    async def each_resolved_once(self, run: RunRecord, count: int) -> None:
        entries = await self.entries(run, "result.*")
        assert entries == {f"result.{number}": 1 for number in range(count)}

    async def entry(self, run: RunRecord, name: str, kind: Any = "weights") -> CheckpointEntry:
        found = await self.checkpoints.latest(TENANT, run, kind, name)
        assert found is not None
        return found

    async def weights(self, run: RunRecord, name: str) -> dict[str, np.ndarray]:
        """All numbers of a saved checkpoint, moments included."""
        async with self.blobs.folder((await self.entry(run, name)).blob) as folder:
            return read_tensors(folder)

    # Workers

    @contextlib.asynccontextmanager
    async def worker(
        self, bus: Bus | None = None, engine: TrainEngine | None = None, **options: Any
    ) -> AsyncIterator[TrainWorker]:
        """A worker that is killed at the end: nothing that it still has to do is done."""
        own = bus or await Bus.connect(self.url, name="worker")
        worker = TrainWorker(own, self.blobs, Records(own), engine or self.engine, self.base, **options)
        task = asyncio.create_task(worker.run())
        try:
            yield worker
            if task.done():
                task.result()
        finally:
            writes = [write for run in worker._runs.values() for write in run.writes]
            await tasks.end(*writes, task)
            await asyncio.to_thread(worker._thread.shutdown)  # its model is used by one thread at a time
            await own.close()


@contextlib.asynccontextmanager
async def opened(url: str, folder: Path, engine: TrainEngine, timeout: float = 5.0) -> AsyncIterator[Lab]:
    """A lab with its blobs in `folder`, quiet; timeout: seconds of its connection."""
    bus = await Bus.connect(url, name="client", timeout=timeout)
    await bus.ensure_shared_streams()
    lab = Lab(url, bus, FolderBlobs(folder / "blobs"), engine)
    await bus.ensure_run_stream(lab.base)
    await lab.futures.start()
    with capture_logs():
        yield lab
    await bus.close()


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    files = folder.glob("*.safetensors")
    return {f"{file.name}:{key}": value for file in files for key, value in load_file(file).items()}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray], within: float = 2e-5) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=within, rtol=1e-5, err_msg=name)
