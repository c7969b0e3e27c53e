"""The reward service's composition root: HTTP edge, pool of grading processes, worker."""

from fastapi import FastAPI

from events.app import make_app
from events.edge import Edge
from events.serve import serve
from services.reward import api, graders
from services.reward.pool import Pool
from services.reward.scorer import Scorer
from services.reward.settings import RewardSettings
from services.reward.worker import RewardWorker


def build(settings: RewardSettings) -> FastAPI:
    async def work(edge: Edge) -> None:
        async with Pool(settings.graders, memory_bytes=settings.grader_memory_bytes) as pool:
            # one more than can be graded at once, so that none waits for the next to arrive
            scorer = Scorer(dict.fromkeys(graders.GRADERS, pool))
            worker = RewardWorker(
                edge.bus, edge.blobs, scorer, budget=settings.graders + 1, activity=edge.activity
            )
            edge.ready.set()
            await worker.run()

    return make_app("reward", settings, [api.router], work)


def main() -> None:
    settings = RewardSettings()  # type: ignore[call-arg]
    serve(build(settings), settings, "reward")


if __name__ == "__main__":
    main()
