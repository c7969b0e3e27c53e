"""The sampling service's composition root: HTTP edge, engine, worker."""

import asyncio

from fastapi import FastAPI

from events import model_files
from events.app import make_app
from events.edge import Edge
from events.serve import serve
from services.sample import api
from services.sample.engine import Engine
from services.sample.orphans import end_with_parent
from services.sample.settings import SampleSettings
from services.sample.worker import SampleWorker


async def open_engine(settings: SampleSettings) -> Engine:
    """The engine that the settings name; only its own library is imported."""
    folder = str(await asyncio.to_thread(model_files.folder, settings.base_source))
    if settings.engine == "vllm":
        from services.sample.vllm_engine import VllmEngine
        from services.sample.vllm_setup import VllmOptions

        options = VllmOptions(
            dtype=settings.dtype,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            kv_cache_gib=settings.kv_cache_gib,
            max_lora_rank=settings.max_lora_rank,
            max_adapters=settings.max_adapters,
            batch_adapters=settings.batch_adapters,
            threads=settings.threads,
        )
        return await VllmEngine.open(folder, options)

    import torch

    from services.model.base import load_base
    from services.sample.torch_engine import TorchEngine

    dtype = getattr(torch, settings.dtype)
    base = await asyncio.to_thread(load_base, folder, dtype=dtype, device=settings.device)
    return TorchEngine(
        base,
        folder,
        max_adapters=settings.max_adapters,
        threads=settings.threads,
        deterministic=settings.deterministic,
    )


def build(settings: SampleSettings) -> FastAPI:
    async def work(edge: Edge) -> None:
        engine = await open_engine(settings)
        worker = SampleWorker(
            edge.bus,
            edge.blobs,
            engine,
            settings.base_name,
            token_budget=settings.token_budget,
            activity=edge.activity,
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
elif __name__ == "__mp_main__":  # a process that the engine has spawned begins here
    end_with_parent()
