"""The training service's composition root: HTTP edge, engine, worker."""

import asyncio

import torch
from fastapi import FastAPI

from events import tasks
from events.edge import Edge, make_app
from events.records import EVERYONE, ModelRecord
from events.serve import serve
from services.model.base import describe, load_base
from services.train import api
from services.train.engine import TrainEngine
from services.train.settings import TrainSettings
from services.train.worker import TrainWorker


def build(settings: TrainSettings) -> FastAPI:
    async def work(edge: Edge) -> None:
        base = await asyncio.to_thread(
            load_base, settings.base_source, dtype=getattr(torch, settings.dtype), device=settings.device
        )
        about = describe(settings.base_source)
        model = ModelRecord(name=settings.base_name, source=settings.base_source, **about)
        await edge.records.replace(EVERYONE, settings.base_name, model)
        engine = TrainEngine(base, token_budget=settings.token_budget, threads=settings.threads)
        worker = TrainWorker(
            edge.bus,
            edge.blobs,
            edge.records,
            engine,
            settings.base_name,
            replica=settings.replica,
            max_runs=settings.max_runs,
            gap_seconds=settings.gap_seconds,
            snapshot_seconds=settings.snapshot_seconds,
            deterministic=settings.deterministic,
        )
        edge.ready.set()
        await _run(worker)

    return make_app("train", settings, [api.router], work)


async def _run(worker: TrainWorker) -> None:
    """Work until cancelled; then hand over every run, unless cancelled once more."""
    working = asyncio.create_task(worker.run())
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        worker.drain()
        await asyncio.wait({working})
        raise
    finally:
        await tasks.end(working)


def main() -> None:
    settings = TrainSettings()  # type: ignore[call-arg]
    serve(build(settings), settings, "train")


if __name__ == "__main__":
    main()
