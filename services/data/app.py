"""The data service's composition root: its HTTP edges, and the worker that makes versions."""

from fastapi import FastAPI

from events.app import make_app
from events.edge import Edge
from events.serve import serve
from services.data import api, catalogue
from services.data.rl import api as rl_api
from services.data.settings import DataSettings
from services.data.worker import DataWorker


def build(settings: DataSettings) -> FastAPI:
    async def work(edge: Edge) -> None:
        edge.ready.set()
        await DataWorker(edge, settings).run()

    return make_app("data", settings, [api.router, catalogue.router, rl_api.router], work)


def main() -> None:
    settings = DataSettings()  # type: ignore[call-arg]
    serve(build(settings), settings, "data")


if __name__ == "__main__":
    main()
