"""Which ids a run's commands go by on the bus: all derive from the run and the command, so that a repeated command
is the same one.
"""

import hashlib

from events import trace
from events.ids import future_id, sampler_id, score_id
from events.records import RlRunRecord
from rekindle.types import TinkerPath
from services.data.rl.messages import (
    Await,
    Command,
    Create,
    Evaluate,
    Finish,
    Probe,
    Publish,
    Report,
    Sample,
    Save,
    Score,
    Train,
)

NUMBER_BYTES = 6
"""Of a sample's number: 2^48 of them, so that no two of a run's samples meet."""
BASE = 0
"""Which of the run's samplers is the bare base model; version v has sampler v + 1."""


def sampler(session_id: str, version: int) -> str:
    """The sampler of a version of the weights."""
    return sampler_id(session_id, version + 1)


def base_sampler(session_id: str) -> str:
    return sampler_id(session_id, BASE)


def number(*parts: object) -> int:
    """Of a sample in its sampler."""
    return int.from_bytes(_digest(*parts)[:NUMBER_BYTES], "big")


def sample_future(session_id: str, command: Sample) -> str:
    return future_id(sampler(session_id, command.version), number(command.id))


def base_number(command: Score, index: int) -> int:
    """Of the request that scores one rollout under the base model."""
    return number(command.id, "base", index)


def evaluation_number(command: Evaluate, index: int) -> int:
    """Of the sample of one held-out row."""
    return number(command.id, index)


def score_key(run: RlRunRecord, command: Score | Evaluate) -> str:
    """Idempotency key of a request to the graders, which outlives a deleted run: another may get the run's id."""
    return f"{run.run_id}@{run.created.timestamp()}/{command.id}"


def score_future(run: RlRunRecord, command: Score | Evaluate) -> str:
    return future_id(score_id(score_key(run, command)), 0)


def seed(*parts: object) -> int:
    """62 bits that derive from the parts, none of which is a run's id: equal specs draw the same."""
    return int.from_bytes(_digest("seed", *parts)[:8], "big") >> 2


def step_of(command: Command) -> int:
    """The step that a command is for; -1 is what comes before all steps. Weights come from the step before them."""
    match command:
        case Create() | Finish():
            return -1
        case Publish() | Save() | Evaluate():
            return command.version - 1
        case Sample() | Score() | Await():
            return command.batch
        case Train():
            return command.step
        case Probe():
            return command.train.step
        case Report():  # evaluations alone are of the last step
            return command.row - (command.train is None)


def step_trace(run_id: str, step: int) -> str:
    """The `traceparent` of all that is done for a step, whoever drives the run meanwhile."""
    return trace.derived(run_id, step)


def version_path(run: RlRunRecord, version: int) -> TinkerPath:
    """Of the weights that are sampled."""
    return TinkerPath(run.training_run, "sampler_weights", f"version-{version:06d}")


def saved_path(run: RlRunRecord, version: int) -> TinkerPath:
    """Of a checkpoint that can resume training."""
    wanted = run.spec.checkpoints
    name = "step" if wanted is None else wanted.name
    return TinkerPath(run.training_run, "weights", f"{name}-{version:06d}")


def _digest(*parts: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
