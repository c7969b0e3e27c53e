"""The one table of everything that is said on the bus.

Commands are imperatives: work for one service, with a result on a subject of its own. Facts are past
participles: news for anyone, at least once, with a deterministic id; subscribers dedupe on (source, id).
"""

from dataclasses import dataclass
from typing import Literal

PREFIX = "dev.rekindle."

CREATE_MODEL = f"{PREFIX}train.create_model"
FORWARD_BACKWARD = f"{PREFIX}train.forward_backward"
OPTIM_STEP = f"{PREFIX}train.optim_step"
LOAD_WEIGHTS = f"{PREFIX}train.load_weights"
SAVE_WEIGHTS = f"{PREFIX}train.save_weights"
SAVE_WEIGHTS_FOR_SAMPLER = f"{PREFIX}train.save_weights_for_sampler"
SAVE_WEIGHTS_EXTERNAL = f"{PREFIX}train.save_weights_external"
SAMPLE = f"{PREFIX}sample.generate"
SCORE = f"{PREFIX}reward.score"
REGISTER = f"{PREFIX}reward.register"
TAKE_IN = f"{PREFIX}data.take_in"
DERIVE = f"{PREFIX}data.derive"
GATHER_ROLLOUTS = f"{PREFIX}data.gather_rollouts"
EXPIRE_UPLOAD = f"{PREFIX}data.expire_upload"
COLLECT_DATASET = f"{PREFIX}data.collect"
FIRE = f"{PREFIX}data.fire"
DRIVE = f"{PREFIX}data.drive"
COLLECT = f"{PREFIX}checkpoint.collect"
EXPIRE_CLAIMS = f"{PREFIX}checkpoint.expire_claims"
EXPIRE_CHECKPOINT = f"{PREFIX}checkpoint.expire"
ACTIVATE = f"{PREFIX}<service>.activate"
RELEASE = f"{PREFIX}checkpoint.release"
LOOK = f"{PREFIX}checkpoint.look"

REJECTED = f"{PREFIX}train.rejected"
RELEASED = f"{PREFIX}train.released"
LEASE = f"{PREFIX}train.lease"
HEAD = f"{PREFIX}train.head"
CHECKPOINT = f"{PREFIX}train.checkpoint"

ALIVE = f"{PREFIX}replica.alive"
RECORD = f"{PREFIX}record.written"
MANIFEST = f"{PREFIX}request.sharded"
FIRING = f"{PREFIX}trigger.firing"
RL_STATE = f"{PREFIX}rl.state"
RL_CONTROL = f"{PREFIX}rl.control"
RL_METRICS = f"{PREFIX}rl.metrics"
PINNED = f"{PREFIX}request.pinned"

RESOLVED = f"{PREFIX}future.resolved"
FAILED = f"{PREFIX}future.failed"

SAMPLE_COMPLETED = f"{PREFIX}sample.completed"
ROLLOUT_COMPLETED = f"{PREFIX}rollout.completed"
ROLLOUT_SCORED = f"{PREFIX}rollout.scored"
ROLLOUT_EXCLUDED = f"{PREFIX}rollout.excluded"
DATASET_UPLOADED = f"{PREFIX}dataset.uploaded"
DATASET_DELETED = f"{PREFIX}dataset.deleted"
BATCH_TRAINED = f"{PREFIX}batch.trained"
STEP_APPLIED = f"{PREFIX}step.applied"
WEIGHTS_PUBLISHED = f"{PREFIX}weights.published"
CHECKPOINT_SAVED = f"{PREFIX}checkpoint.saved"
CHECKPOINT_DELETED = f"{PREFIX}checkpoint.deleted"
RUN_STARTED = f"{PREFIX}run.started"
RUN_PAUSED = f"{PREFIX}run.paused"
RUN_COMPLETED = f"{PREFIX}run.completed"
RUN_FAILED = f"{PREFIX}run.failed"
RUN_CANCELLED = f"{PREFIX}run.cancelled"
ROW_SKIPPED = f"{PREFIX}row.skipped"
STEP_COMPLETED = f"{PREFIX}step.completed"
SAMPLER_MISMATCH = f"{PREFIX}sampler.mismatch"


@dataclass(frozen=True, slots=True)
class Kind:
    """One line of the table."""

    type: str
    role: Literal["command", "entry", "result", "fact"]
    """`entry`: written beside commands, in a run's log or among the records; no work for anyone."""
    payload: str
    result: str | None
    """What a command's future resolves to, None = nothing to resolve."""
    subject: str
    """NATS subject, `<…>` are tokens made by names.py."""


_RUN = "run.<base>.<tenant>.<run>."
_COMMAND = _RUN + "cmd.<n>"
_DATA = "data.<tenant>.<owner>.<n>"

TABLE: tuple[Kind, ...] = (
    Kind(CREATE_MODEL, "command", "RunRecord (JSON)", "{model_id, type}", _COMMAND),
    Kind(FORWARD_BACKWARD, "command", "ForwardBackwardRequest (protobuf)", "ForwardBackwardOutput", _COMMAND),
    Kind(OPTIM_STEP, "command", "OptimStepRequest (JSON)", "{metrics, type}", _COMMAND),
    Kind(LOAD_WEIGHTS, "command", "LoadCommand (JSON)", "{path, model_id, type}", _COMMAND),
    Kind(SAVE_WEIGHTS, "command", "SaveCommand (JSON)", "{path, type}", _COMMAND),
    Kind(SAVE_WEIGHTS_FOR_SAMPLER, "command", "SaveCommand (JSON)", "{path | sampling_session_id}", _COMMAND),
    Kind(SAVE_WEIGHTS_EXTERNAL, "command", "SaveCommand (JSON)", "{path, size_bytes, type}", _COMMAND),
    Kind(
        SAMPLE,
        "command",
        "SampleCommand (JSON)",
        "SampleResponse",
        "sample.<base>.<tenant>.<run>.<sampler>.<n>",
    ),
    Kind(SCORE, "command", "ScoreShard (JSON)", "[Score]", "reward.<tenant>.<request>.<shard>"),
    Kind(
        REGISTER, "command", "RegisterRequest (JSON)", "RegisterResponse", "reward.<tenant>.<request>.<shard>"
    ),
    Kind(TAKE_IN, "command", "UploadRecord (JSON)", "DatasetVersion", _DATA),
    Kind(DERIVE, "command", "DeriveCommand (JSON)", "DatasetVersion | {versions}", _DATA),
    Kind(GATHER_ROLLOUTS, "command", "GatherCommand (JSON)", "DatasetVersion", _DATA),
    Kind(EXPIRE_UPLOAD, "command", "UploadRecord (JSON)", None, _DATA),
    Kind(COLLECT_DATASET, "command", "CollectCommand (JSON)", None, _DATA),
    Kind(FIRE, "command", "FireCommand (JSON)", None, _DATA),
    Kind(DRIVE, "command", "DriveCommand (JSON)", None, _DATA),
    Kind(RELEASE, "command", "ReleaseCommand (JSON)", None, "checkpoint.<tenant>.release.<session | run>"),
    Kind(LOOK, "command", "LookCommand (JSON)", None, "checkpoint.<tenant>.look.<session>"),
    Kind(COLLECT, "command", "CheckpointEntry (JSON)", None, "checkpoint.<tenant>.collect.<path>"),
    Kind(EXPIRE_CLAIMS, "command", "ExpireCommand (JSON)", None, "checkpoint.<tenant>.expire.<day>"),
    Kind(
        EXPIRE_CHECKPOINT, "command", "CheckpointEntry (JSON)", None, "checkpoint.<tenant>.ttl.<checkpoint>"
    ),
    Kind(ACTIVATE, "command", "Activation (JSON)", None, "none: POST /activate of a service"),
    Kind(REJECTED, "entry", "Failure (JSON)", None, _COMMAND),
    Kind(RELEASED, "entry", "Failure (JSON)", None, _COMMAND),
    Kind(LEASE, "entry", "Lease (JSON)", None, _RUN + "lease"),
    Kind(HEAD, "entry", "Head (JSON)", None, _RUN + "head"),
    Kind(ALIVE, "entry", "{} (JSON), gone when it is not repeated", None, "alive.<replica>"),
    Kind(CHECKPOINT, "entry", "CheckpointEntry (JSON)", None, _RUN + "checkpoint.<kind>.<name>"),
    Kind(RECORD, "entry", "a record of records.py (JSON)", None, "record.<kind>.<tenant>.<key>"),
    Kind(MANIFEST, "entry", "{shards, digest} (JSON)", None, "rewards.result.<tenant>.<request>.manifest"),
    Kind(RL_STATE, "entry", "Standing (JSON)", None, "rl.<tenant>.<session>.state"),
    Kind(RL_CONTROL, "entry", "Control (JSON)", None, "rl.<tenant>.<session>.control"),
    Kind(RL_METRICS, "entry", "MetricsRow (JSON)", None, "rl.<tenant>.<session>.metric.<step>"),
    Kind(PINNED, "entry", "{digest, functions} (JSON)", None, "rewards.result.<tenant>.<request>.pins"),
    Kind(FIRING, "entry", "Firing (JSON)", None, "firing.<tenant>.<trigger>.<event>"),
    Kind(
        RESOLVED,
        "result",
        "the command's result",
        None,
        _RUN + "result.<n> | result.<queue>.<tenant>.<owner>.<n>",
    ),
    Kind(FAILED, "result", "Failure (JSON)", None, _RUN + "result.<n> | result.<queue>.<tenant>.<owner>.<n>"),
    Kind(
        SAMPLE_COMPLETED,
        "fact",
        "{sampler, version, sequences, tokens}",
        None,
        "facts.<tenant>.sample.completed",
    ),
    Kind(
        ROLLOUT_COMPLETED,
        "fact",
        "{run, sampler, number, version, prompt_tokens, sequences: [{sequence_id, tokens, logprobs, stop_reason}]}",
        None,
        "facts.<tenant>.rollout.completed",
    ),
    Kind(
        ROLLOUT_SCORED,
        "fact",
        "{request, shard, scores: [{sequence_id, outcome, value, reason, grader_version, seconds, attempts}]}",
        None,
        "facts.<tenant>.rollout.scored",
    ),
    Kind(
        ROLLOUT_EXCLUDED,
        "fact",
        "{request, shard, item, sequence_id, outcome, reason, grader_version, attempts}",
        None,
        "facts.<tenant>.rollout.excluded",
    ),
    Kind(
        DATASET_UPLOADED,
        "fact",
        "DatasetVersion",
        None,
        "facts.<tenant>.dataset.uploaded",
    ),
    Kind(DATASET_DELETED, "fact", "{name, version}", None, "facts.<tenant>.dataset.deleted"),
    Kind(BATCH_TRAINED, "fact", "{number, datums, tokens, loss}", None, "facts.<tenant>.batch.trained"),
    Kind(STEP_APPLIED, "fact", "{number, step, metrics}", None, "facts.<tenant>.step.applied"),
    Kind(WEIGHTS_PUBLISHED, "fact", "{path, step}", None, "facts.<tenant>.weights.published"),
    Kind(CHECKPOINT_SAVED, "fact", "{path, step, size_bytes}", None, "facts.<tenant>.checkpoint.saved"),
    Kind(CHECKPOINT_DELETED, "fact", "{path}", None, "facts.<tenant>.checkpoint.deleted"),
    Kind(RUN_STARTED, "fact", "{base, rank}", None, "facts.<tenant>.run.started"),
    Kind(RUN_PAUSED, "fact", "{reason, step}", None, "facts.<tenant>.run.paused"),
    Kind(RUN_COMPLETED, "fact", "{reason, step}", None, "facts.<tenant>.run.completed"),
    Kind(RUN_FAILED, "fact", "{reason, step}", None, "facts.<tenant>.run.failed"),
    Kind(RUN_CANCELLED, "fact", "{reason, step}", None, "facts.<tenant>.run.cancelled"),
    Kind(ROW_SKIPPED, "fact", "{step, dataset, version, row, reason}", None, "facts.<tenant>.row.skipped"),
    Kind(STEP_COMPLETED, "fact", "MetricsRow (JSON)", None, "facts.<tenant>.step.completed"),
    Kind(SAMPLER_MISMATCH, "fact", "{reason, step}", None, "facts.<tenant>.sampler.mismatch"),
)

BY_TYPE: dict[str, Kind] = {kind.type: kind for kind in TABLE}
