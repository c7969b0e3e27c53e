"""What the state machine of an RL run hears (events) and says (commands).

Numbers that all of them share. Step k trains batch k, both from 0. Version v of the weights is that after v
optimizer steps: batch k makes version k + 1 of version k. A batch has places (`group`, from 0), each with a group of
rollouts of one prompt. Prompt p is the p-th that the run draws; `prompts_order` says which row that is. An attempt of
a place (from 0) is one try to have it sampled or scored; a later attempt makes earlier ones void.

Commands that name a `seq` go into the training run's log under that number and are submitted in the order in
which they are said. All others stand for themselves and may run together.

How a driver keeps its word: it commits the state that follows from an event, then publishes the commands that were
said with it. Whoever begins from a committed state publishes `machine.outstanding(state)` first: a command that was
published before is the same again, with the same id, and one that the last driver did not come to is not lost.
Nothing is ever published that no committed state has decided, so a number of the log never has two meanings.
Several events may be folded into one commit. Every command but `Finish` is answered by one event, or by `Failed`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Phase = Literal["running", "paused", "completed", "failed", "cancelled"]


class Word(BaseModel):
    """An event or a command: a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# --- events -----------------------------------------------------------------------------------------------------


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
    """A command failed. Example: Failed(command="train-2", message="out of memory", category="server")."""

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


# --- commands ---------------------------------------------------------------------------------------------------


class Create(Word):
    """Create the training run: a new adapter, or one from a checkpoint. `Created`."""

    kind: Literal["create"] = "create"
    seq: int = 0

    @property
    def id(self) -> str:
        return "create"


class Publish(Word):
    """Save the weights for samplers, under the name of their version. `Published`."""

    kind: Literal["publish"] = "publish"
    version: int
    seq: int

    @property
    def id(self) -> str:
        return f"publish-{self.version}"


class Sample(Word):
    """Draw the group's rollouts. `Sampled` or `Lost`.

    Example: Sample(batch=2, group=5, attempt=0, prompt=21, version=1).
    """

    kind: Literal["sample"] = "sample"
    batch: int
    group: int
    attempt: int
    prompt: int
    version: int

    @property
    def id(self) -> str:
        return f"sample-{self.batch}-{self.group}-{self.attempt}-p{self.prompt}-v{self.version}"


class Score(Word):
    """Score the rollouts of `sample`, and find their logprobs under the base model where the spec asks for KL.

    `Scored` or `Lost`.
    """

    kind: Literal["score"] = "score"
    batch: int
    group: int
    attempt: int
    sample: Sample
    """The command that drew them; of the same attempt, or of an earlier one where scoring failed before."""

    @property
    def id(self) -> str:
        return f"score-{self.batch}-{self.group}-{self.attempt}-{self.sample.attempt}"


class Await(Word):
    """Say `Overdue` when the spec's `stragglers.seconds` have passed; what happens before makes it void."""

    kind: Literal["await"] = "await"
    batch: int

    @property
    def id(self) -> str:
        return f"await-{self.batch}"


class Train(Word):
    """One step: forward_backward under `seq`, optim_step under `seq + 1`. `Trained`, when both are done."""

    kind: Literal["train"] = "train"
    step: int
    seq: int
    groups: tuple[Score, ...]
    """Whose rollouts and rewards it learns from, by place. Empty: no gradient; both numbers must be taken all the same,
    by entries that leave the weights as they are."""
    uniform: int = 0
    """Groups that are left out because all their rewards are the same; a mean over groups counts them."""
    learning_rate: float
    baseline: float | None = None
    """What is subtracted from rewards, where the algorithm keeps a running mean; None: it keeps none."""

    @property
    def id(self) -> str:
        return f"train-{self.step}"


class Save(Word):
    """Save a checkpoint that can resume training, under the name of its version. `Saved`."""

    kind: Literal["save"] = "save"
    version: int
    seq: int

    @property
    def id(self) -> str:
        return f"save-{self.version}"


class Evaluate(Word):
    """Sample and score the held-out rows with one version. `Evaluated`."""

    kind: Literal["evaluate"] = "evaluate"
    version: int
    attempt: int

    @property
    def id(self) -> str:
        return f"evaluate-{self.version}-{self.attempt}"


class Report(Word):
    """Write a row of metrics, say that the step is completed, and delete what nobody needs any more. `Reported`.

    Rows are said one after the other. Row k is that of step k; a last one may hold evaluations alone.
    """

    kind: Literal["report"] = "report"
    row: int
    train: Train | None
    """The step, with its numbers; None: no step, the row holds evaluations alone."""
    groups: tuple[Score, ...] = ()
    """Every place of the batch that was scored, also those that taught nothing."""
    evaluations: tuple[tuple[int, float], ...] = ()
    """(version, value) that came since the row before."""
    dropped: int = 0
    """Groups left out because too few of their rollouts have a reward."""
    uniform: int = 0
    """Groups left out because all their rewards are the same."""
    gap: float | None = None
    """What the last `Probe` found since the row before; None: nothing."""
    overdue: int = 0
    """Groups left out because they took too long."""
    refilled: int = 0
    """Groups that taught nothing and were replaced by a further prompt."""
    refilled_rewards: tuple[int, float] = (0, 0.0)
    """Count and sum of the rewards of the groups replaced."""
    drop_versions: tuple[int, ...] = ()
    """Sampler weights that nobody will use again."""
    drop_saved: tuple[int, ...] = ()
    """Versions whose training checkpoint is beyond those to keep."""

    @property
    def id(self) -> str:
        return f"report-{self.row}"


class Probe(Word):
    """Compare the sampler's logprobs of a few rollouts with those that the trainer gave them in this step, under the
    weights that it trained. Said where older weights drew all of the batch; nothing waits for it. `Probed`."""

    kind: Literal["probe"] = "probe"
    train: Train

    @property
    def id(self) -> str:
        return f"probe-{self.train.step}"


class Finish(Word):
    """There is nothing to drive: the run is over, or paused until somebody resumes it. Nothing answers it."""

    kind: Literal["finish"] = "finish"
    phase: Literal["paused", "completed", "failed", "cancelled"]
    reason: str | None
    """Why, for people; None: it did all that it should."""
    order: int
    """How often the run has halted, this time included."""

    @property
    def id(self) -> str:
        return f"finish-{self.order}"


Command = Annotated[
    Create | Publish | Sample | Score | Await | Train | Save | Evaluate | Report | Probe | Finish,
    Field(discriminator="kind"),
]
