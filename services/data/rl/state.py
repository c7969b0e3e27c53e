"""All that an RL run remembers between two events.

Its size depends on the batches under way (at most twice `1 + max_staleness`, plus one that is being reported), never
on the steps done. JSON and back gives the same state.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from services.data.rl.messages import Phase, Probe, Report, Sample, Score

Stage = Literal["due", "sampling", "sampled", "scoring", "settled", "overdue", "skipped"]
LEFT = ("settled", "overdue", "skipped")
"""Stages of places for which nothing is waited any more."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tally(Part):
    """What became of a group's rewards. Example: Tally(count=7, total=3.0, uniform=False)."""

    count: int
    """Rollouts that have a reward."""
    total: float
    """Sum of their rewards."""
    uniform: bool
    """Whether these are all the same."""
    failure: str | None = None
    """Why none has a reward; None: some have."""


class Group(Part):
    """One place of a batch. Example: Group(prompt=21, attempt=1, stage="scoring", version=3, drawn=0)."""

    prompt: int
    attempt: int = 0
    """The one under way, or with which it was settled."""
    stage: Stage = "due"
    failures: int = 0
    """Attempts at this prompt that failed."""
    refills: int = 0
    """Prompts before this one that were replaced here."""
    version: int | None = None
    """Weights that it is or was sampled with; None: it is still due."""
    drawn: int | None = None
    """Attempt of the sample command whose rollouts it has; None: it has none yet."""
    tally: Tally | None = None
    """None: not settled by rewards."""
    fault: str | None = None
    """Why the row was skipped; None: it was not."""


class Batch(Part):
    """One batch, from its first prompt until its row of metrics is asked for."""

    number: int
    groups: tuple[Group, ...]
    grace: Literal["none", "running", "over"] = "none"
    """Of the stragglers."""
    refilled: int = 0
    """Groups that taught nothing and were replaced."""
    refilled_rewards: tuple[int, float] = (0, 0.0)
    """Count and sum of their rewards."""
    seq: int | None = None
    """First number of its training commands; None: not submitted yet."""
    baseline: float | None = None
    """With which it is trained; None: none."""
    learning_rate: float | None = None
    """With which it is trained; None: not submitted yet, or in a state from before it was kept."""
    trained: bool = False
    published: bool = False

    @property
    def settled(self) -> bool:
        return all(group.stage in LEFT for group in self.groups)

    def count(self, stage: Stage) -> int:
        """Places at a stage."""
        return sum(group.stage == stage for group in self.groups)

    def sample(self, place: int) -> Sample:
        """The command that draws, or drew, the rollouts of a place."""
        group = self.groups[place]
        attempt = group.attempt if group.drawn is None else group.drawn
        assert group.version is not None, "a group that is due has no sample command yet"
        return Sample(
            batch=self.number, group=place, attempt=attempt, prompt=group.prompt, version=group.version
        )

    def score(self, place: int) -> Score:
        """The command that scores, or scored, a place."""
        attempt = self.groups[place].attempt
        return Score(batch=self.number, group=place, attempt=attempt, sample=self.sample(place))


class Evaluating(Part):
    """An evaluation under way."""

    version: int
    attempt: int = 0


class Saving(Part):
    """A checkpoint that is being saved, under a number of the log."""

    version: int
    seq: int


class State(Part):
    """Where a run stands. Example: `machine.initial(spec, rows=1000)`."""

    phase: Phase = "running"
    reason: str | None = None
    """Why it is in this phase, for people; None: there is nothing to say."""
    order: int = -1
    """The last word of the owner's that was heard."""
    halts: int = 0
    """How often it has paused or ended."""
    stop: str | None = None
    """Why no further batch begins; None: as long as there are steps and prompts."""
    total: int | None = None
    """Prompts there are to draw; None: no end of them."""
    cursor: int = 0
    """The next prompt number: exactly those below it are drawn, each by one place of one batch."""
    begun: int = 0
    """The next batch."""
    submitted: int = 0
    """The next step."""
    trained: int = 0
    """Steps that are applied."""
    skipped: int = 0
    """Rows that could not be asked."""
    next_seq: int = 1
    """The next number of the training run's log; 0 creates it."""
    created: bool = False
    newest: int | None = None
    """Newest version that can be sampled; None: none yet."""
    live: tuple[int, ...] = ()
    """Versions whose sampler weights are there, ascending."""
    batches: tuple[Batch, ...] = ()
    """Under way, ascending."""
    asked: int = -1
    """The last version of which an evaluation was asked; -1: none."""
    evaluating: tuple[Evaluating, ...] = ()
    evaluations: tuple[tuple[int, float], ...] = ()
    """(version, value) in no row of metrics yet."""
    values: tuple[float, ...] = ()
    """The last values of evaluations, as many as a stop condition looks at."""
    rewards: tuple[float, ...] = ()
    """Mean rewards of the last batches, as many as a stop condition looks at."""
    baseline: float | None = None
    """Running mean of rewards; None: the algorithm keeps none, or there was no batch yet."""
    saving: tuple[Saving, ...] = ()
    saved: tuple[int, ...] = ()
    """Versions whose training checkpoint is kept, ascending."""
    rows: int = 0
    """The next row of metrics."""
    reported: tuple[Score, ...] = ()
    """Places of rows that were said, of which all is still there."""
    dropped: tuple[int, ...] = ()
    """Versions whose sampler weights are deleted, and whose samples are still there."""
    reporting: Report | None = None
    """The row that is being written; None: none."""
    probing: Probe | None = None
    """The comparison of sampler and trainer under way; None: none."""
    probed: int = -1
    """The last step whose weights were compared; -1: none yet."""
    gap: float | None = None
    """What the last comparison found; None: it is in a row of metrics, or found nothing."""
