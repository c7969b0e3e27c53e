"""The reward service's composition root: HTTP edge, pool of grading processes, sandbox, worker."""

import asyncio

from fastapi import FastAPI

from events.app import make_app
from events.edge import Edge
from events.outside import Guard
from events.records import SandboxRecord
from events.retry import until_available
from events.serve import serve
from rekindle.types.keys import EVERYONE
from rekindle.types.rewards import SandboxInfo
from services.reward import api, graders
from services.reward.code import place
from services.reward.code.function import FunctionRunner
from services.reward.code.python import PythonRunner
from services.reward.code.register import Registrar
from services.reward.functions import Functions
from services.reward.outside import keys, verdict
from services.reward.outside.client import Client
from services.reward.outside.judge import JudgeRunner
from services.reward.outside.remote import RemoteRunner
from services.reward.pool import Pool
from services.reward.runner import Runner
from services.reward.scorer import Scorer
from services.reward.settings import RewardSettings
from services.reward.worker import RewardWorker


def build(settings: RewardSettings) -> FastAPI:
    guard = Guard(settings.outside_hosts)
    held = keys.Keys(keys.take(), settings.outside_key_hosts)

    async def work(edge: Edge) -> None:
        async def tell(found: SandboxInfo) -> None:
            await until_available(edge.records.replace)(EVERYONE, api.SANDBOX, SandboxRecord(found=found))

        async with (
            Pool(
                settings.graders, memory_bytes=settings.grader_memory_bytes, modules=[verdict.__name__]
            ) as pool,
            Client(guard, held, calls=settings.outside_calls) as client,
            place.open_place(settings.sandbox_floor, tell) as sandbox,
        ):
            cores, functions = asyncio.Semaphore(settings.graders), Functions(edge.records)
            function_runner = FunctionRunner(sandbox, cores, functions.code)
            # one more than can be graded at once, so that none waits for the next to arrive
            runners: dict[str, Runner] = dict.fromkeys(graders.GRADERS, pool)
            runners |= {"remote": RemoteRunner(client), "llm_judge": JudgeRunner(client, pool)}
            runners |= {"python": PythonRunner(sandbox, cores), "function": function_runner}
            worker = RewardWorker(
                edge.bus,
                edge.blobs,
                Scorer(runners),
                Registrar(function_runner, functions.keep),
                budget=settings.graders + 1,
                activity=edge.activity,
            )
            edge.ready.set()
            await worker.run()

    return make_app("reward", settings, [api.router], work)


def main() -> None:
    settings = RewardSettings()  # type: ignore[call-arg]
    serve(build(settings), settings, "reward")


if __name__ == "__main__":
    main()
