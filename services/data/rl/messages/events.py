"""What the state machine hears: answers to its commands, and what its owner and the clock say.

The package's docstring says what the numbers mean.
"""

from typing import Annotated, Literal

from pydantic import Field

from services.data.rl.messages.word import Word


class Created(Word):
    """The training run exists. Answers `Create`."""

    kind: Literal["created"] = "created"


class Published(Word):
    """Weights can be sampled. Answers `Publish`. Example: Published(version=3)."""

    kind: Literal["published"] = "published"
    version: int


class Sampled(Word):
    """A group has its rollouts. Answers `Sample`. Example: Sampled(batch=2, group=5, attempt=0)."""

    kind: Literal["sampled"] = "sampled"
    batch: int
    group: int
    attempt: int


class Scored(Word):
    """A group has its rewards. Answers `Score`. Example: Scored(batch=2, group=5, attempt=0, rewards=(1.0, None))."""

    kind: Literal["scored"] = "scored"
    batch: int
    group: int
    attempt: int
    rewards: tuple[float | None, ...]
    """By rollout; None: left out, as the grader failed on it."""
    failure: str | None = None
    """Why it did, on the first that it failed on; None: on none."""


class Trained(Word):
    """The optimizer step is applied. Answers `Train`. Example: Trained(step=2)."""

    kind: Literal["trained"] = "trained"
    step: int


class Saved(Word):
    """A checkpoint that can resume training is there. Answers `Save`. Example: Saved(version=20)."""

    kind: Literal["saved"] = "saved"
    version: int


class Evaluated(Word):
    """The held-out rows are scored. Answers `Evaluate`. Example: Evaluated(version=20, attempt=0, value=0.62)."""

    kind: Literal["evaluated"] = "evaluated"
    version: int
    attempt: int
    value: float | None
    """Mean reward of the rows that could be scored; None: none could."""


class Reported(Word):
    """A row of metrics is written. Answers `Report`. Example: Reported(row=2)."""

    kind: Literal["reported"] = "reported"
    row: int
    alarm: str | None = None
    """Why the run must not go on before somebody looked; None: all is well."""


class Probed(Word):
    """Sampler and trainer were compared. Answers `Probe`. Example: Probed(step=7, gap=0.002)."""

    kind: Literal["probed"] = "probed"
    step: int
    gap: float | None
    """Mean absolute difference of their logprobs, in nats a token; None: what was to be compared is gone."""
    alarm: str | None = None
    """Why the run must not go on before somebody looked; None: all is well."""


class Overdue(Word):
    """The grace for the stragglers of a batch is over. Answers `Await`. Example: Overdue(batch=2)."""

    kind: Literal["overdue"] = "overdue"
    batch: int


class Lost(Word):
    """What a place was sampled or scored with is gone (results live a day): it must be sampled again.

    Answers `Sample` and `Score`, and is said of places that are settled, before their batch is trained.
    Example: Lost(batch=2, group=5, attempt=0).
    """

    kind: Literal["lost"] = "lost"
    batch: int
    group: int
    attempt: int


class Failed(Word):
    """A command failed; one to sample or to score, by the user's fault, because its row cannot be asked.

    Example: Failed(command="train-2", message="out of memory", category="server").
    """

    kind: Literal["failed"] = "failed"
    command: str
    """Its id."""
    message: str
    category: Literal["user", "server", "unknown"]
    retryable: bool = False
    """Whether the same may go well another time."""


class Wanted(Word):
    """What the owner wants. Example: Wanted(what="pause", order=4)."""

    kind: Literal["wanted"] = "wanted"
    what: Literal["run", "pause", "cancel"]
    order: int
    """Which word it was, ascending: a later one stands, an earlier one that comes again is ignored."""
    reason: str | None = None
    """For people; None: none was given."""


class TimeUp(Word):
    """The minutes of `stop` are over."""

    kind: Literal["time_up"] = "time_up"


Event = Annotated[
    Created
    | Published
    | Sampled
    | Scored
    | Trained
    | Saved
    | Evaluated
    | Reported
    | Probed
    | Overdue
    | Lost
    | Failed
    | Wanted
    | TimeUp,
    Field(discriminator="kind"),
]
