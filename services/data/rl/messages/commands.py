"""What the state machine says: commands, each with an id of its own and the event that answers it.

The package's docstring says what the numbers mean, and how a driver keeps its word.
"""

from typing import Annotated, Literal

from pydantic import Field

from services.data.rl.messages.word import Word


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
    skipped: int = 0
    """Groups left out because their row cannot be asked, or its answers cannot be scored."""
    refilled: int = 0
    """Groups that taught nothing and were replaced by a further prompt."""
    refilled_rewards: tuple[int, float] = (0, 0.0)
    """Count and sum of the rewards of the groups replaced."""
    drop_versions: tuple[int, ...] = ()
    """Sampler weights that nobody will use again."""
    drop_saved: tuple[int, ...] = ()
    """Versions whose training checkpoint is beyond those to keep."""
    forget: tuple[Score, ...] = ()
    """Places whose rollouts and rewards nobody will read again."""
    closed: tuple[int, ...] = ()
    """Versions without weights of which nobody will read a sample again."""
    needed: int = 0
    """From which number of the log on results may be read again."""

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
