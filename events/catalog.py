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
COLLECT = f"{PREFIX}checkpoint.collect"

REJECTED = f"{PREFIX}train.rejected"
RELEASED = f"{PREFIX}train.released"
LEASE = f"{PREFIX}train.lease"
CHECKPOINT = f"{PREFIX}train.checkpoint"

RECORD = f"{PREFIX}record.written"

RESOLVED = f"{PREFIX}future.resolved"
FAILED = f"{PREFIX}future.failed"

SAMPLE_COMPLETED = f"{PREFIX}sample.completed"
BATCH_TRAINED = f"{PREFIX}batch.trained"
STEP_APPLIED = f"{PREFIX}step.applied"
WEIGHTS_PUBLISHED = f"{PREFIX}weights.published"
CHECKPOINT_SAVED = f"{PREFIX}checkpoint.saved"
CHECKPOINT_DELETED = f"{PREFIX}checkpoint.deleted"
RUN_STARTED = f"{PREFIX}run.started"


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
    Kind(COLLECT, "command", "CheckpointEntry (JSON)", None, "checkpoint.<tenant>.collect.<path>"),
    Kind(REJECTED, "entry", "Failure (JSON)", None, _COMMAND),
    Kind(RELEASED, "entry", "Failure (JSON)", None, _COMMAND),
    Kind(LEASE, "entry", "{epoch, holder} (JSON)", None, _RUN + "lease"),
    Kind(CHECKPOINT, "entry", "CheckpointEntry (JSON)", None, _RUN + "checkpoint.<kind>.<name>"),
    Kind(RECORD, "entry", "a record of records.py (JSON)", None, "record.<kind>.<tenant>.<key>"),
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
    Kind(BATCH_TRAINED, "fact", "{number, datums, tokens, loss}", None, "facts.<tenant>.batch.trained"),
    Kind(STEP_APPLIED, "fact", "{number, step, metrics}", None, "facts.<tenant>.step.applied"),
    Kind(WEIGHTS_PUBLISHED, "fact", "{path, step}", None, "facts.<tenant>.weights.published"),
    Kind(CHECKPOINT_SAVED, "fact", "{path, step, size_bytes}", None, "facts.<tenant>.checkpoint.saved"),
    Kind(CHECKPOINT_DELETED, "fact", "{path}", None, "facts.<tenant>.checkpoint.deleted"),
    Kind(RUN_STARTED, "fact", "{base, rank}", None, "facts.<tenant>.run.started"),
)

BY_TYPE: dict[str, Kind] = {kind.type: kind for kind in TABLE}
