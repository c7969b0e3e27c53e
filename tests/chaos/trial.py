"""One loop under fire, one undisturbed, on two equal stacks; then what they saw is compared, and what they left.

    python -m tests.chaos.trial [--steps 30] [--kills 42] [--seed 0] [--brisk]

The loop under fire goes on for more steps where the kills find no room in it, and the other does as many. Prints
kills survived, recovery, commands replayed, and what was compared; exits 1 when anything is not as it should be.
With --brisk the deliveries of a dead worker come back sooner, so that the same number of kills takes less time.
"""

import argparse
import asyncio
import contextlib
import math
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import mortal, remains
from tests.chaos.hands import OpenRequests
from tests.chaos.killer import SHARES, Kill, Killer
from tests.chaos.rl_loop import Trace, run_loop
from tests.ending import leave
from tests.stack import Stack, running_stack
from tests.tiny_model import make_tiny_model

STEPS, KILLS = 30, 42
LEAST_KILLS, LEAST_IN_HAND, LEAST_OF_A_KIND = 40, 25, 3
"""What a trial of full size must reach to count."""
MOST_LONGER = 2
"""How many times as many steps there may be, to place all kills."""


@dataclass(slots=True)
class Trial:
    """What came of a loop under fire."""

    kills: list[Kill]
    hurt: Trace
    replayed: int
    """Commands that trainers applied again."""
    findings: list[str] = field(default_factory=list)
    """What is not as it should be; empty when all is well."""


def try_loop(model: Path, folder: Path, options: argparse.Namespace) -> Trial:
    """Run both loops and compare them."""
    trial = run_hurt(model, folder / "hurt", options)
    done = len(trial.hurt.losses)
    with deterministic_stack(model, folder / "calm") as stack:
        out = folder / "calm-adapter"
        calm = run_loop(stack.url, stack.base_model, out, lambda step: step < done, lambda _: None)
    trial.findings += compare(calm, trial.hurt)
    return trial


def run_hurt(model: Path, folder: Path, options: argparse.Namespace) -> Trial:
    """The loop under fire, and what it left behind."""
    steps, kills = options.steps, options.kills
    findings: list[str] = []
    runs: list[str] = []
    with deterministic_stack(model, folder, brisk=options.brisk) as stack:
        killer = Killer(stack, OpenRequests().follow(), kills, random.Random(options.seed))
        if options.brisk:
            killer.rest = mortal.PATIENCES["events.worker", "ACK_WAIT"] + 1.0

        def go_on(step: int) -> bool:
            say(f"{step} steps, {len(killer.kills)} killed")
            killer.due = math.ceil(kills * (step + 1) / steps)
            return step < steps or (not killer.done and step < MOST_LONGER * steps)

        def at_end(run_id: str) -> None:
            runs.append(run_id)
            findings.extend(asyncio.run(remains.audit(stack, run_id)))

        with killing(killer):
            hurt = run_loop(stack.url, stack.base_model, folder / "adapter", go_on, at_end)
        findings += asyncio.run(remains.left_behind(stack, runs[0]))
    findings += remains.files_left(stack.data_dir, folder / "tmp") + remains.processes_left()
    return Trial(killer.kills, hurt, remains.replayed(stack.data_dir), findings)


@contextlib.contextmanager
def deterministic_stack(model: Path, folder: Path, *, brisk: bool = False) -> Iterator[Stack]:
    """A stack on `folder`/data whose temporary files go to `folder`/tmp."""
    (folder / "tmp").mkdir(parents=True)
    with running_stack(
        model,
        folder / "data",
        ["--deterministic"],
        module=mortal.MODULE if brisk else "rekindle.cli",
        environment={"TMPDIR": str(folder / "tmp")},
    ) as stack:
        yield stack


@contextlib.contextmanager
def killing(killer: Killer) -> Iterator[None]:
    """Kill beside what runs in the block; an error of the killer's is raised at its end."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            loop.run_until_complete(killer.run(stop))
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


def too_little(kills: list[Kill]) -> list[str]:
    """What a trial of full size lacks."""
    counts = Counter(kill.kind for kill in kills)
    found = []
    if len(kills) < LEAST_KILLS:
        found.append(f"{len(kills)} kills, fewer than {LEAST_KILLS}")
    if (busy := sum(kill.in_hand > 0 for kill in kills)) < LEAST_IN_HAND:
        found.append(f"{busy} kills with something in hand, fewer than {LEAST_IN_HAND}")
    if rare := {kind: counts[kind] for kind in SHARES if counts[kind] < LEAST_OF_A_KIND}:
        found.append(f"too few kills of a kind: {rare}")
    return found


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def report(trial: Trial, seconds: float) -> None:
    """The counts of a trial, for a person."""
    kills, busy = trial.kills, [kill for kill in trial.kills if kill.in_hand]
    say(f"kills survived: {len(kills)} ({_by_kind(kills)})")
    say(f"with a command or delivery in hand: {len(busy)} ({_by_kind(busy)})")
    if recoveries := sorted(kill.recovery for kill in kills):
        p95 = recoveries[math.ceil(0.95 * len(recoveries)) - 1]
        say(f"recovery: p50 {statistics.median(recoveries):.2f} s, p95 {p95:.2f} s")
    say(f"commands replayed: {trial.replayed}")
    say(f"steps: {len(trial.hurt.losses)}, sequences: {sum(map(len, trial.hurt.tokens))}, {seconds:.0f} s")
    for finding in trial.findings:
        say(f"WRONG: {finding}")
    if not trial.findings:
        say("tokens, rewards, losses and the final adapter are those of the undisturbed loop, bit for bit")
        say("nothing is left behind: stream entries, blobs, processes, temporary files")


def _by_kind(kills: list[Kill]) -> str:
    counts = Counter(kill.kind for kill in kills)
    return ", ".join(f"{kind} {counts[kind]}" for kind in SHARES)


def main() -> None:
    parser = argparse.ArgumentParser(prog="task chaos --", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--brisk", action="store_true")
    options = parser.parse_args()
    begun = time.monotonic()
    remains.adopt_orphans()
    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_model(Path(folder) / "models" / "tiny")
        trial = try_loop(model, Path(folder), options)
    if options.kills >= LEAST_KILLS:
        trial.findings += too_little(trial.kills)
    report(trial, time.monotonic() - begun)
    leave(1 if trial.findings else 0)


if __name__ == "__main__":
    main()
