"""A process that grades: reads shards, writes one line for every item, and can be killed at any moment.

Lines of JSON on two pipes of its own, standard input and output as they were at its start; graders see an empty
standard input, and what they print goes to standard error. A shard is `{"spec", "columns", "items"}`, an item
`[prompt, completion, columns]`. The answers: `{"ready", "reason"}` when the grader is loaded or cannot be,
`{"phase"}` whenever the rollout's code begins or ends, and `{"outcome", "value", "reason", "seconds"}` for each
item in turn.

It lives as long as its parent: it ends at the end of its input, and at the parent's death at once. Memory, processor
time, open files and the size of files are limited.
"""

import ctypes
import importlib
import json
import logging
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, BinaryIO

from services.reward import graders
from services.reward.graders.base import Item, Judge, Phase
from services.reward.runner import cut

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
OPEN_FILES = 64
SPECS_KEPT = 32
SECONDS_BEYOND = 5
"""Of processor time beyond an item's limit: only if nobody is left to end it by the clock."""

Say = Callable[[dict[str, Any]], None]


def main(memory_bytes: int, parent: int, modules: list[str]) -> None:
    """Grade until the input ends. `modules` are imported first: they may register graders."""
    requests, say = _channel()
    _confine(memory_bytes, parent)
    for module in modules:
        importlib.import_module(module)

    @lru_cache(maxsize=SPECS_KEPT)
    def load(text: str) -> tuple[Judge, float]:
        spec = graders.parse(json.loads(text))
        return graders.load(spec, mark), spec.params.seconds

    def mark(phase: Phase) -> None:
        say({"phase": phase})

    for line in requests:
        shard = json.loads(line)
        try:
            judge, seconds = load(shard["spec"])
        except Exception as error:
            log.warning("a grader cannot be loaded", exc_info=error)
            say({"ready": False, "reason": cut(f"{type(error).__name__}: {error}")})
            continue
        say({"ready": True})
        for prompt, completion, columns in shard["items"]:
            _limit_processor_time(seconds)
            item = Item(prompt, completion, {**shard["columns"], **columns})
            begin = time.perf_counter()
            outcome = _outcome(judge, item)
            say({**outcome, "seconds": time.perf_counter() - begin})


def _outcome(judge: Judge, item: Item) -> dict[str, Any]:
    """What became of an item; nothing that a grader raises becomes a number."""
    try:
        graded = judge(item)
        if graded.value is not None and not math.isfinite(graded.value):
            raise ValueError(f"the grader's value is {graded.value}")
    except MemoryError:
        raise  # a fresh process has more
    except TimeoutError as error:
        return {"outcome": "timeout", "value": None, "reason": cut(str(error))}
    except Exception as error:
        log.debug("a grader failed", exc_info=error)
        return {"outcome": "error", "value": None, "reason": cut(f"{type(error).__name__}: {error}")}
    outcome = "scored" if graded.valid else "invalid"
    return {"outcome": outcome, "value": graded.value, "reason": graded.reason and cut(graded.reason)}


def _channel() -> tuple[BinaryIO, Say]:
    """The pipes to the parent, moved to where no grader finds them by habit."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", 0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message).encode() + b"\n")

    return requests, say


def _confine(memory_bytes: int, parent: int) -> None:
    """Limits that nothing here can raise again, and an end with the parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the parent's business
    for kind, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _limit_processor_time(seconds: float) -> None:
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + seconds) + SECONDS_BEYOND, hard))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
