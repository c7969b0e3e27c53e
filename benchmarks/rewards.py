"""How fast each grader scores on one core, and on two.

    task bench -- rewards

All of it has so many cores: the service's own process, which follows every item, and what grades, as many at once as
there are cores. Items come in shards as on the queue, one more at once than there are cores, as the service takes
them; time through HTTP and NATS is not counted. Half of the completions are right.
"""

import asyncio
import contextlib
import json
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from pydantic import TypeAdapter

from benchmarks.record import Cell, record
from events.outside import Guard
from events.scoring import SHARD_ITEMS
from rekindle.types.rewards import CHECKED, Grader, ScoreItem
from services.reward import graders
from services.reward.code import source
from services.reward.code.function import FunctionRunner
from services.reward.code.place import GUESTS, Place
from services.reward.code.python import PythonRunner
from services.reward.functions import Code
from services.reward.outside.client import Client
from services.reward.outside.keys import Keys
from services.reward.outside.remote import RemoteRunner
from services.reward.pool import Pool
from services.reward.runner import Runner
from services.reward.sandbox import Sandbox
from services.reward.scorer import Scorer

ROUNDS, SECONDS = 5, 0.5
PEOPLE = 40
BREVITY = """
def brevity(completions, limit, **columns):
    return [min(1.0, most / max(1, len(text))) for text, most in zip(completions, limit)]
"""
HOST = "127.0.0.1"
SPEC: TypeAdapter[Grader] = TypeAdapter(Grader)

Task = tuple[dict[str, Any], list[ScoreItem], dict[str, Any]]
"""(grader, items, shared columns)"""


def tasks(url: str) -> dict[str, Task]:
    """A task of `SHARD_ITEMS` different items for each grader; `url` answers those of `remote`."""
    numbers = random.Random(0).sample(range(10, 100, 2), SHARD_ITEMS)
    said = [number + index % 2 for index, number in enumerate(numbers)]
    exact = [item(str(right), answer=left) for left, right in zip(numbers, said, strict=True)]
    prose = [
        item(f"First 12, then {right - 12} more: that is {right}.", answer=left)
        for left, right in zip(numbers, said, strict=True)
    ]
    latex = [
        item(rf"So $x = \boxed{{\frac{{{right}}}{{7}}}}$.", answer=rf"$\frac{{{2 * left}}}{{14}}$")
        for left, right in zip(numbers, said, strict=True)
    ]
    pattern = {"pattern": r"that is (\d+)", "group": 1, "column": "answer"}
    texts = [item(one.completion, answer=str(one.columns["answer"])) for one in prose]
    objects = [item(f'{{"name": "Ann", "age": {right if right % 2 else -right}}}') for right in said]
    person = {"properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}}}
    return {
        "exact_match": ({"type": "exact_match"}, exact, {}),
        "regex": ({"type": "regex", "params": pattern}, texts, {}),
        "numeric": ({"type": "numeric"}, prose, {}),
        "math": ({"type": "math"}, latex, {}),
        "json_schema": (
            {"type": "json_schema", "params": {"schema": {"type": "object", "required": ["age"], **person}}},
            objects,
            {},
        ),
        "sql": sql_task(numbers, said),
        "python (a pair)": (
            {"type": "python", "params": {"tests_column": "tests"}},
            pairs(numbers, said),
            {},
        ),
        "python (an assertion)": (
            {"type": "python", "params": {"tests_column": "tests"}},
            assertions(numbers, said),
            {},
        ),
        "function": (
            {"type": "function", "params": {"name": "brevity", "version": source.version_of(BREVITY)}},
            prose,
            {"limit": 30},
        ),
        "remote": ({"type": "remote", "params": {"url": url}}, prose, {}),
        "weighted (numeric + regex)": (
            {
                "type": "weighted",
                "params": {
                    "graders": [
                        {"grader": {"type": "numeric"}, "weight": 0.9},
                        {"grader": {"type": "regex", "params": {"pattern": r"\.$"}}, "weight": 0.1},
                    ]
                },
            },
            prose,
            {},
        ),
    }


def sql_task(numbers: list[int], said: list[int]) -> Task:
    """Queries on one small database, with a reference query each."""
    rows = ", ".join(f"('name {number}', {number % 60 + 20}, {number * 37 % 90})" for number in range(PEOPLE))
    schema = f"CREATE TABLE people (name TEXT, age INTEGER, pay INTEGER); INSERT INTO people VALUES {rows};"
    query = "SELECT name, pay FROM people WHERE age > {} ORDER BY pay DESC LIMIT 5"
    items = [
        item(query.format(right), gold=query.format(left)) for left, right in zip(numbers, said, strict=True)
    ]
    params = {"query_column": "gold", "ordered": True, "partial": 0.1}
    return {"type": "sql", "params": params}, items, {"schema": schema}


def pairs(numbers: list[int], said: list[int]) -> list[ScoreItem]:
    """Programs that read and print."""
    return [
        item(f"print(int(input()) + {right - left})", tests={"stdin": f"{left}\n", "stdout": f"{left}\n"})
        for left, right in zip(numbers, said, strict=True)
    ]


def assertions(numbers: list[int], said: list[int]) -> list[ScoreItem]:
    """Programs with a function."""
    return [
        item(
            f"def add(a, b):\n    return a + b + {right - left}", tests=f"assert add({left}, 1) == {left + 1}"
        )
        for left, right in zip(numbers, said, strict=True)
    ]


def item(completion: str, **columns: Any) -> ScoreItem:
    return ScoreItem(prompt="", completion=completion, columns=columns)


async def measure(scorers: Iterator[Scorer], task: Task, at_once: int) -> float:
    """Scores per second, the median of the rounds; a first one warms up."""
    spec, items, columns = SPEC.validate_python(task[0], context=CHECKED), task[1], task[2]
    speeds = []
    for _ in range(ROUNDS + 1):
        begin, done = time.perf_counter(), 0

        async def work(end: float = begin + SECONDS) -> int:
            shards = 0
            while time.perf_counter() < end:
                scores = await next(scorers).score("local", spec, items, columns)
                assert not any(score.excluded for score in scores), scores
                shards += 1
            return shards

        done = sum(await asyncio.gather(*(work() for _ in range(at_once))))
        speeds.append(done * len(items) / (time.perf_counter() - begin))
    return statistics.median(speeds[1:])


@contextlib.asynccontextmanager
async def runners(cores: int, sandbox: Place) -> AsyncIterator[dict[str, Runner]]:
    """As the service has them on so many cores."""

    async def find(*_: str) -> Code:
        return Code(BREVITY, "brevity")

    turns = asyncio.Semaphore(cores)
    async with Pool(cores) as pool, Client(Guard([HOST]), Keys({}, {}), calls=16) as client:
        yield {
            **dict.fromkeys(graders.GRADERS, pool),
            "python": PythonRunner(sandbox, turns),
            "function": FunctionRunner(sandbox, turns, find),
            "remote": RemoteRunner(client),
        }


def forgetful(found: dict[str, Runner]) -> Iterator[Scorer]:
    """Scorers of which none remembers what another has scored."""
    while True:
        yield Scorer(found)


class Answering(BaseHTTPRequestHandler):
    """A user's service: 1 for each completion."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"rewards": [1.0] * len(asked["completions"])}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def answer(line: Connection) -> None:
    """Serve for ever, and say on which port."""
    with ThreadingHTTPServer((HOST, 0), Answering) as server:
        line.send(server.server_port)
        server.serve_forever()


@contextlib.contextmanager
def answering() -> Iterator[str]:
    """The URL of a user's service in a process of its own."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # so that its death is heard
    try:
        yield f"http://{HOST}:{ours.recv()}/"
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def only(cores: int) -> Iterator[None]:
    """This process, and those that it starts now, on so many cores."""
    had = os.sched_getaffinity(0)
    if len(had) < cores:
        raise RuntimeError(f"{cores} cores are needed, {len(had)} are here")
    os.sched_setaffinity(0, sorted(had)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, had)


async def measure_all() -> list[list[Cell]]:
    with answering() as url:
        found = tasks(url)
        speeds: dict[str, list[float]] = {name: [] for name in found}
        for cores in (1, 2):
            with only(cores):
                async with Sandbox(GUESTS) as sandbox, runners(cores, sandbox) as of_cores:
                    for name, task in found.items():
                        speeds[name].append(await measure(forgetful(of_cores), task, cores + 1))
    return [[name, round(one), round(two), round(two / one, 2)] for name, (one, two) in speeds.items()]


def main() -> None:
    """Measure and record the table."""
    rows = asyncio.run(measure_all())
    note = (
        f"Shards of {SHARD_ITEMS} items, medians of {ROUNDS} rounds of {SECONDS:g} s; the service's own process shares "
        f"the cores with what grades. SQL: {PEOPLE} rows, ordered results of 5 rows, a reference query for each item; "
        "what answers and reference queries come to is kept. Programs have one test each, functions are called for "
        f"{SHARD_ITEMS} items, the remote service is on this machine."
    )
    columns = ["grader", "scores/s per core", "scores/s on two cores", "ratio"]
    record("rewards", columns, rows, command="task bench -- rewards", note=note)


if __name__ == "__main__":
    main()
