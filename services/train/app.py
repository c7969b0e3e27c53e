"""The training service's composition root: HTTP edge, engine, worker."""

import asyncio

import torch
from fastapi import FastAPI

from events import model_files
from events.app import make_app
from events.edge import Edge
from events.serve import serve
from services.model.base import load_base
from services.train import api
from services.train.engine import TrainEngine
from services.train.register import register
from services.train.settings import TrainSettings
from services.train.worker import TrainWorker


def build(settings: TrainSettings) -> FastAPI:
    async def work(edge: Edge) -> None:
        folder = await asyncio.to_thread(model_files.folder, settings.base_source)
        base = await asyncio.to_thread(
            load_base,
            str(folder),
            known_as=model_files.known_as(settings.base_source, settings.base_name),
            dtype=getattr(torch, settings.dtype),
            device=settings.device,
        )
        await register(edge.records, settings)
        threads = 1 if settings.deterministic else settings.threads
        engine = TrainEngine(base, token_budget=settings.token_budget, threads=threads)
        worker = TrainWorker(
            edge.bus,
            edge.blobs,
            edge.records,
            engine,
            settings.base_name,
            replica=settings.replica,
            memory_bytes=settings.memory_bytes,
            turn_seconds=settings.turn_seconds,
            gap_seconds=settings.gap_seconds,
            snapshot_seconds=settings.snapshot_seconds,
            deterministic=settings.deterministic,
            activity=edge.activity,
        )
        edge.ready.set()
        await worker.run()

    return make_app("train", settings, [api.router], work)


def main() -> None:
    settings = TrainSettings()  # type: ignore[call-arg]
    serve(build(settings), settings, "train")


if __name__ == "__main__":
    main()
