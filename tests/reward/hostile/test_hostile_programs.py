"""No attack earns a reward or gets what it wants; without the layer that stops it, it does; honest code goes on."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from events import tasks
from services.reward import runner
from tests.reward.hostile import honest
from tests.reward.hostile.assault import Place, Result, Siege, sandbox, switchable
from tests.reward.hostile.attack import Attack
from tests.reward.hostile.attacks import ATTACKS
from tests.reward.hostile.observer import lives, parent

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[3]
HONEST = 24
BY_ITSELF = {"clean environment", "death with parent", "namespaces"}
"""Mechanisms that belong to a sandbox as a whole: each has a test of its own below."""
POSSIBLE = [one for one in ATTACKS if one.possible]
HERE = {"root"} if os.geteuid() == 0 else {"unprivileged"}
SWITCHED = [
    one
    for one in POSSIBLE
    if one.mechanical and one.switched and one.by not in BY_ITSELF and one.needs <= {"x86_64", *HERE}
]
CHEATS = [one for one in POSSIBLE if one.cheats]


def named(attacks: list[Attack]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("attack", attacks, ids=[one.name for one in attacks])


def only(mechanism: str) -> Attack:
    (found,) = [one for one in ATTACKS if one.by == mechanism]
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def siege() -> AsyncIterator[Siege]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "BACKOFF", 0.01)
        async with sandbox() as entered:
            yield Siege(entered)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def beside(siege: Siege) -> dict[str, Result | bool]:
    """All attacks, and honest programs beside them."""
    *results, scores = await asyncio.gather(
        *map(siege.attack, POSSIBLE), honest.work(Place(siege.sandbox), HONEST)
    )
    found = dict(zip([one.name for one in POSSIBLE], results, strict=True))
    return {**found, "honest": honest.all_rewarded(scores)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def switched(siege: Siege) -> dict[str, tuple[bool, bool]]:
    """Attacks with nothing to stop them but one mechanism, and without it."""
    able = [one for one in SWITCHED if switchable(one, siege.sandbox)]
    found = await asyncio.gather(*map(siege.with_and_without, able))
    return dict(zip([one.name for one in able], found, strict=True))


@named(POSSIBLE)
async def test_no_attack_earns_a_reward_or_gets_what_it_wants(attack: Attack, beside: dict[str, Result]):
    result = beside[attack.name]
    assert result.is_as_expected(attack), result
    assert re.search(attack.says, result.reason), result


async def test_honest_programs_beside_them_all_have_their_rewards(beside: dict[str, bool]):
    assert beside["honest"]


@named(SWITCHED)
async def test_an_attack_succeeds_without_the_layer_that_stops_it(
    attack: Attack, switched: dict[str, tuple[bool, bool]]
):
    if attack.name not in switched:
        pytest.skip(f"{attack.by} is not in force here, or needs another user")
    assert switched[attack.name] == (False, True), "with it, without it"


@named(CHEATS)
async def test_a_cheat_fools_a_grader_that_runs_program_and_test_together(attack: Attack, siege: Siege):
    assert await siege.fools(attack)


async def test_an_attack_reads_keys_where_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("API_KEY", "hostile-test-key")
    attack = only("clean environment")
    for without in (frozenset(), frozenset({attack.by})):
        async with sandbox(without=without) as entered:
            assert (await Siege(entered).attack(attack, without)).got == bool(without)


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap (Debian: apt install bubblewrap)")
async def test_an_attack_past_everything_else_is_held_by_namespaces(siege: Siege):
    attack = only("namespaces")
    everything = frozenset(attack.also)
    async with sandbox(namespaces=True, without=everything) as entered:
        if not switchable(attack, entered):
            pytest.skip("bubblewrap may make no namespaces here")
        assert not (await Siege(entered).attack(attack, everything)).got
    assert (await siege.attack(attack, everything)).got


SERVICE = """
import asyncio, sys
from services.reward.sandbox import Limits, Sandbox
from services.reward.guests.program import SCRIPT

async def main():
    async with Sandbox([SCRIPT.partition(":")[0]], namespaces=False) as sandbox:
        without = frozenset(sys.argv[2:])
        run = asyncio.create_task(sandbox.attempt(SCRIPT, sys.argv[1].encode(), Limits(seconds=60), without))
        while not sandbox._watched:
            await asyncio.sleep(0.01)
        (watched,) = sandbox._watched
        while not run.done():
            print(watched.guest.process, flush=True)
            await asyncio.sleep(0.1)

asyncio.run(main())
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that other users may pass through; what a killed service has left goes with it."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o711)
        yield Path(path)


@pytest.mark.parametrize("off", [False, True])
async def test_an_attack_goes_on_without_the_service_only_where_it_is_let(open_folder: Path, off: bool):
    attack = only("death with parent")
    service = subprocess.Popen(  # noqa: ASYNC220 - nothing else goes on here
        [sys.executable, "-c", SERVICE, attack.program, *[attack.by][: int(off)]],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(open_folder), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
    )
    with service:
        lines = [service.stdout.readline() for _ in range(3)]  # so that it is confined when the end comes
        service.kill()
    guest = int(lines[0])
    async with asyncio.timeout(20):
        while lives(guest) and parent(guest) != 1:  # noqa: ASYNC110 - other processes set no events
            await asyncio.sleep(0.01)
    assert lives(guest) == off
    if off:
        os.kill(guest, signal.SIGKILL)


@pytest.mark.slow
async def test_honest_code_beside_attacks_loses_no_more_than_its_share(siege: Siege):
    async def seconds() -> float:
        begin = time.perf_counter()
        assert honest.all_rewarded(await honest.work(Place(siege.sandbox), 200))
        return time.perf_counter() - begin

    async def besiege() -> None:
        while True:
            await asyncio.gather(*(siege.attack(one) for one in POSSIBLE if one.seconds < 1))

    await honest.work(Place(siege.sandbox), 20)
    alone = await seconds()
    attackers = asyncio.create_task(besiege())
    beside = await seconds()
    await tasks.end(attackers)
    # two among eight that want two cores, and as much again for what a busy machine does to clocks
    assert beside < 8 * alone, f"{200 / alone:.0f} programs/s alone, {200 / beside:.0f} beside attacks"
