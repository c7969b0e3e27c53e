"""One loop undisturbed, one under fire, on two equal stacks; then what they left behind is compared and counted.

    python -m tests.chaos.trial [--steps 30] [--kills 40] [--seed 0]

Prints kills survived, recovery, and what was compared; exits 1 when anything differs.
"""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from events import names
from events.bus import Bus
from services.local import nats_server
from tests.chaos.killer import Kill, Killer
from tests.chaos.rl_loop import Trace, run_loop
from tests.stack import Stack, running_stack
from tests.tiny_model import make_tiny_model

KINDS = ("train", "sample", "reward", "data", "checkpoint", "gateway", "dispatcher", "nats")
TENANT = "local"
RELEASE_SECONDS = 30.0
"""What becomes of a session may wait for processes that were killed last."""
QUEUES = ("SAMPLE", "REWARD", "DATA", "CHECKPOINT")


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a loop under fire."""

    calm: Trace
    hurt: Trace
    kills: list[Kill]
    findings: list[str]
    """What is not as it should be; empty when all is well."""


def try_loop(model: Path, folder: Path, *, steps: int, kills: int, seed: int) -> Trial:
    """Run both loops; the one under fire gets at least `kills` if its steps last long enough."""
    with deterministic_stack(model, folder / "calm") as stack:
        calm = run_loop(
            stack.url, stack.base_model, steps, folder / "calm-adapter", lambda _: None, lambda _: None
        )
    with deterministic_stack(model, folder / "hurt") as stack:
        findings: list[str] = []
        killer = Killer(stack.data_dir, stack.base_model, KINDS, random.Random(seed))
        with killing(killer, kills):
            hurt = run_loop(
                stack.url,
                stack.base_model,
                steps,
                folder / "hurt-adapter",
                lambda step: say(f"step {step}: {len(killer.kills)} killed"),
                lambda run_id: findings.extend(asyncio.run(audit(stack, run_id))),
            )
        findings += compare(calm, hurt) + asyncio.run(left_behind(stack))
    return Trial(calm, hurt, killer.kills, findings)


@contextlib.contextmanager
def deterministic_stack(model: Path, folder: Path) -> Iterator[Stack]:
    folder.mkdir(parents=True)
    os.environ["REKINDLE_DETERMINISTIC"] = "true"
    try:
        with running_stack(model, folder / "data") as stack:
            yield stack
    finally:
        del os.environ["REKINDLE_DETERMINISTIC"]


@contextlib.contextmanager
def killing(killer: Killer, most: int) -> Iterator[None]:
    """Kill beside what runs in the block; an error of the killer's is raised at its end."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            loop.run_until_complete(killer.run(stop, most))
        except BaseException as error:  # noqa: BLE001 - raised again where the block ends
            failure.append(error)
        finally:
            loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            loop.call_soon_threadsafe(stop.set)
        thread.join()
    if failure:
        raise failure[0]


def compare(calm: Trace, hurt: Trace) -> list[str]:
    """In what the traces differ; with deterministic servers, not in one bit."""
    found = []
    for name in ("tokens", "rewards", "losses", "adapter"):
        one, other = getattr(calm, name), getattr(hurt, name)
        if one != other:
            first = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
            found.append(f"{name} differ, first at {first}")
    return found


async def audit(stack: Stack, run_id: str) -> list[str]:
    """Whether every operation of the run has one terminal record."""
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")
    stream, root = names.run_stream(stack.base_model), names.run_root(stack.base_model, TENANT, run_id)
    info = await bus.js.stream_info(stream, subjects_filter=f"{root}.result.*")
    await bus.close()
    counts = {int(s.rpartition(".")[2]): n for s, n in (info.state.subjects or {}).items()}
    found = []
    if doubled := {number: count for number, count in counts.items() if count != 1}:
        found.append(f"results written more than once: {doubled}")
    if missing := set(range(max(counts) + 1)) - counts.keys():
        found.append(f"operations without a result: {sorted(missing)}")
    return found


async def left_behind(stack: Stack) -> list[str]:
    """What is there though the session has ended for so long that nothing should be."""
    bus = await Bus.connect(nats_server.address(stack.data_dir).url, name="auditor")
    deadline = time.monotonic() + RELEASE_SECONDS
    while (found := await _left(stack, bus)) and time.monotonic() < deadline:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.2)
    await bus.close()
    return found


async def _left(stack: Stack, bus: Bus) -> list[str]:
    found = []
    for queue in QUEUES:
        subjects = [s for s in await bus.subjects(queue, ">") if not s.startswith("later.")]
        if subjects:
            found.append(f"{queue} still holds {subjects[:3]}")
    root = f"{names.run_base(stack.base_model)}.>"
    if left := [
        s for s in await bus.subjects(names.run_stream(stack.base_model), root) if ".checkpoint." not in s
    ]:
        found.append(f"the run's log still holds {left[:3]}")
    if aside := [path.name for path in (stack.data_dir / "blobs" / "aside").iterdir()]:
        found.append(f"left aside: {aside[:3]}")
    return found


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def report(trial: Trial) -> None:
    """The counts of a trial, for a person."""
    kills = trial.kills
    by_kind = Counter(kill.kind for kill in kills)
    recoveries = sorted(kill.recovery for kill in kills)
    say(f"kills survived: {len(kills)} ({', '.join(f'{k} {n}' for k, n in sorted(by_kind.items()))})")
    say(f"with a command or delivery in hand: {sum(kill.in_hand for kill in kills)}")
    if recoveries:
        p95 = recoveries[min(len(recoveries) - 1, int(0.95 * len(recoveries)))]
        say(f"recovery: p50 {statistics.median(recoveries):.2f} s, p95 {p95:.2f} s")
    say(f"steps: {len(trial.hurt.losses)}, sequences: {sum(map(len, trial.hurt.tokens))}")
    for finding in trial.findings:
        say(f"WRONG: {finding}")
    if not trial.findings:
        say("tokens, rewards, losses and the final adapter are those of the undisturbed loop, bit for bit")


def main() -> None:
    parser = argparse.ArgumentParser(prog="task chaos --", description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--kills", type=int, default=1000, help="at most so many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_model(Path(folder) / "models" / "tiny")
        trial = try_loop(model, Path(folder), steps=options.steps, kills=options.kills, seed=options.seed)
    report(trial)
    sys.exit(1 if trial.findings else 0)


if __name__ == "__main__":
    main()
