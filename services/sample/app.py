"""The sampling service's composition root: HTTP edge, engine, worker."""

import asyncio

import torch
from fastapi import FastAPI

from events.edge import Edge, make_app
from events.serve import serve
from services.model.base import load_base
from services.sample import api
from services.sample.settings import SampleSettings
from services.sample.torch_engine import TorchEngine
from services.sample.worker import SampleWorker


def build(settings: SampleSettings) -> FastAPI:
    async def work(edge: Edge) -> None:
        base = await asyncio.to_thread(
            load_base, settings.base_source, dtype=getattr(torch, settings.dtype), device=settings.device
        )
        engine = TorchEngine(base, settings.base_source, threads=settings.threads)
        worker = SampleWorker(
            edge.bus, edge.blobs, engine, settings.base_name, token_budget=settings.token_budget
        )
        try:
            edge.ready.set()
            await worker.run()
        finally:
            await engine.close()

    return make_app("sample", settings, [api.router], work)


def main() -> None:
    settings = SampleSettings()  # type: ignore[call-arg]
    serve(build(settings), settings, "sample")


if __name__ == "__main__":
    main()
