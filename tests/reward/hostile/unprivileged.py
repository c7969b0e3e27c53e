"""All attacks, by whoever starts this; what became of them is printed as JSON.

    python -m tests.reward.hostile.unprivileged

It is a program, and not a test, because a user is what a process is.
"""

import asyncio
import dataclasses
import json
import os
import sys
from typing import Any

from services.reward import runner
from tests.reward.hostile import honest
from tests.reward.hostile.assault import Place, Siege, sandbox, switchable
from tests.reward.hostile.attacks import ATTACKS


async def main() -> dict[str, Any]:
    """`attacks`: name → result; `switched`: name → (with, without); `honest`: whether those had their rewards."""
    runner.BACKOFF = 0.01
    possible = [attack for attack in ATTACKS if attack.possible]
    async with sandbox() as entered:
        siege = Siege(entered)
        *results, scores = await asyncio.gather(
            *map(siege.attack, possible), honest.work(Place(entered), len(honest.PROGRAMS))
        )
        own = [one for one in possible if "unprivileged" in one.needs and switchable(one, entered)]
        switched = [await siege.with_and_without(one) for one in own]
    return {
        "user": os.getuid(),
        "attacks": {
            one.name: dataclasses.asdict(result) for one, result in zip(possible, results, strict=True)
        },
        "switched": {one.name: found for one, found in zip(own, switched, strict=True)},
        "honest": honest.all_rewarded(scores),
    }


if __name__ == "__main__":
    json.dump(asyncio.run(main()), sys.stdout)
