"""Programs that mean well, to run beside the others: each earns all that there is."""

import asyncio

from rekindle.types.rewards import Score
from tests.reward.hostile.assault import Place, grade
from tests.reward.hostile.attack import ASSERTION, PAIR

SECONDS = 20.0
PROGRAMS: list[tuple[str, object]] = [
    ("def add(a, b): return a + b", ASSERTION),
    ("print(sum(map(int, input().split())))", PAIR),
    ("import json, re\ndef add(a, b): return json.loads(re.sub('x', str(a + b), 'x'))", ASSERTION),
    ("import sys\nprint(sum(int(n) for n in sys.stdin.read().split() for _ in range(1)))", PAIR),
]


async def work(place: Place, count: int) -> list[Score]:
    """So many programs, two at the same time."""
    gate = asyncio.Semaphore(2)

    async def one(number: int) -> Score:
        program, test = PROGRAMS[number % len(PROGRAMS)]
        async with gate:
            return await grade(place, program, [test], SECONDS)

    return list(await asyncio.gather(*map(one, range(count))))


def all_rewarded(scores: list[Score]) -> bool:
    return all((one.outcome, one.value) == ("scored", 1.0) for one in scores)
