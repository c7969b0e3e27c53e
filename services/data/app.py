"""The data service's composition root: its HTTP edges, the worker of its queue, and the watch over facts."""

import asyncio

from fastapi import FastAPI

from events.app import make_app
from events.edge import Edge
from events.outside import Guard
from events.serve import serve
from services.data import api, catalogue, jail
from services.data.rl import api as rl_api
from services.data.rl import triggers_api
from services.data.rl.create import create
from services.data.rl.triggers import Triggers, Watcher
from services.data.rl.webhook import Webhooks
from services.data.settings import DataSettings
from services.data.worker import DataWorker


def build(settings: DataSettings) -> FastAPI:
    async def work(edge: Edge) -> None:
        edge.ready.set()
        async with Webhooks(Guard(settings.outside_hosts)) as webhooks, asyncio.TaskGroup() as group:
            triggers = Triggers(edge, create, webhooks)
            group.create_task(DataWorker(edge, settings, triggers).run())
            group.create_task(Watcher(edge).run())

    routers = [api.router, catalogue.router, rl_api.router, triggers_api.router]
    return make_app("data", settings, routers, work)


def main() -> None:
    jail.shield()
    settings = DataSettings()  # type: ignore[call-arg]
    serve(build(settings), settings, "data")


if __name__ == "__main__":
    main()
