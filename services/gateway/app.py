"""The gateway's composition root."""

from fastapi import FastAPI

from events.app import make_app
from events.serve import serve
from events.settings import EdgeSettings
from services.checkpoint import api as checkpoint_api
from services.checkpoint import catalogue
from services.data import api as data_api
from services.data import catalogue as data_catalogue
from services.data.rl import api as rl_api
from services.data.rl import triggers_api
from services.gateway import futures, sessions
from services.reward import api as reward_api
from services.sample import api as sample_api
from services.train import api as train_api


def build(settings: EdgeSettings) -> FastAPI:
    """The HTTP edges of all services behind one URL."""
    routers = [
        sessions.router,
        futures.router,
        train_api.router,
        sample_api.router,
        checkpoint_api.router,
        catalogue.router,
        data_api.router,
        data_catalogue.router,
        rl_api.router,
        triggers_api.router,
        reward_api.router,
    ]
    return make_app("gateway", settings, routers)


def main() -> None:
    settings = EdgeSettings()  # type: ignore[call-arg]
    serve(build(settings), settings, "gateway")


if __name__ == "__main__":
    main()
