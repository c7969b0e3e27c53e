"""What is known of an RL run: where it stands, and a row of metrics for every step."""

from typing import Annotated, Literal

from pydantic import Field

from rekindle.types.fields import MAX_INT64, Count, Id, Message, ModelName, Time
from rekindle.types.rewards import Exact
from rekindle.types.rl.spec import RlRunSpec

MAX_ROWS = 10_000
"""Rows of metrics in one answer."""

RlPhase = Literal["running", "paused", "completed", "failed", "cancelled"]


class MetricsRow(Exact):
    """One step, or evaluations that came when all steps were over. E.g. `{"row": 0, "step": 0, "reward": 0.4}`.

    None: not known, or the step has nothing of the kind.
    """

    row: Count
    """Its number: that of the step; evaluations alone come as the last row."""
    step: Count | None = None
    """Which batch was trained, from 0; None: none, the row holds evaluations."""
    time: Time | None = None
    """When it was written."""
    reward: float | None = None
    """Mean over all rollouts that have one."""
    reward_std: float | None = None
    excluded: float | None = None
    """Share of rollouts on which the grader failed."""
    invalid: float | None = None
    """Share of rollouts that were at fault themselves."""
    groups: Count | None = None
    """Groups that it learned from."""
    dropped: Count | None = None
    """Groups left out because too few of their rollouts have a reward."""
    uniform: Count | None = None
    """Groups left out because all their rewards are the same."""
    overdue: Count | None = None
    """Groups left out because they took too long."""
    skipped: Count | None = None
    """Groups left out because their row cannot be asked, as one whose prompt fills the context."""
    refilled: Count | None = None
    """Groups that taught nothing and were replaced by a further prompt."""
    advantage: float | None = None
    """Mean absolute advantage."""
    loss: float | None = None
    kl_base: float | None = None
    """Estimated KL from the base model, in nats a token (k1)."""
    kl_sampler: float | None = None
    """Mean of sampler logprob − trainer logprob, in nats a token (k1)."""
    kl_sampler_k3: float | None = None
    """The estimate r − 1 − log r of the same, which is never negative."""
    ratio: float | None = None
    """Mean probability ratio of trainer and sampler."""
    ratio_max: float | None = None
    clipped: float | None = None
    """Share of tokens whose ratio was clipped."""
    entropy: float | None = None
    """Mean −logprob of the sampled tokens, in nats."""
    entropy_trainer: float | None = None
    """Mean entropy that the trainer computed at the same positions, in nats."""
    gap: float | None = None
    """Mean absolute difference of the logprobs of sampler and trainer for the same tokens under the same weights, in
    nats: of the rollouts that the step's own weights drew, or else of the last comparison since the row before."""
    entropy_errors: float | None = None
    """By how many standard errors the sampled tokens surprise more (below 0: less) than the trainer's entropy says."""
    length: float | None = None
    """Mean tokens of a completion."""
    length_max: Count | None = None
    stopped: float | None = None
    """Share of completions that ended by themselves."""
    tokens_sampled: Count | None = None
    tokens_trained: Count | None = None
    """Prompt and completion."""
    tokens_per_second: float | None = None
    """Sampled, by the wall clock of the step."""
    staleness: float | None = None
    """Mean steps by which the sampling weights were older than those trained."""
    staleness_max: Count | None = None
    seconds_sample: float | None = None
    """Wall clock from the first prompt out to the last rollout in."""
    seconds_score: float | None = None
    """From the first rollout in to the last reward in."""
    seconds_train: float | None = None
    """From the batch's submission to its weights being published."""
    seconds: float | None = None
    """Since the row before."""
    learning_rate: float | None = None
    version: Count | None = None
    """Of the weights that the step made."""
    evaluations: tuple[tuple[Count, float], ...] = ()
    """(version, mean reward of the held-out rows) that came since the row before."""


class MetricsQuery(Message):
    """Query of `rl_runs/{id}/metrics`."""

    after: Annotated[int, Field(ge=-1, le=MAX_INT64)] = -1
    """The last row that is known; -1: none."""
    limit: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 1000
    wait: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Seconds for which the answer may wait for a row; the server may answer sooner, without one."""
    phase: RlPhase | None = None
    """The phase that is known: another one is answered at once. None: whichever it is when the request comes."""


class MetricsResponse(Exact):
    """Rows in order."""

    rows: tuple[MetricsRow, ...]
    next: int
    """What to ask after next time: the last row given, or what was asked after."""


class RlRunInfo(Exact):
    """Answer of `rl_runs/{id}`."""

    id: Id
    name: str
    """The spec's, or the id."""
    phase: RlPhase
    reason: str | None = None
    """Why it is in this phase, for people; None: there is nothing to say."""
    step: Count
    """Steps trained."""
    steps: Count
    """Steps when all goes as planned; fewer where something stops the run."""
    version: Count | None = None
    """Newest weights that can be sampled; None: none yet."""
    cursor: Count
    """Prompts drawn: exactly those below this number, each once."""
    skipped: Count = 0
    """Those of them whose row could not be asked; the facts `row.skipped` say which, and why."""
    base_model: ModelName
    training_run: Id
    """Its checkpoints are listed there."""
    dataset_version: Count
    checkpoint: str | None = None
    """Path of the newest checkpoint; None: none yet."""
    trigger: str | None = None
    """What started it; None: a person."""
    created: Time
    updated: Time
    """When it last went on."""
    ended: Time | None = None
    """None: it has not."""
    metrics: MetricsRow | None = None
    """The last row; None: none yet."""
    spec: RlRunSpec
    """With all that was open fixed."""


class RlRunsResponse(Exact):
    """Answer of `GET rl_runs`: newest first."""

    runs: tuple[RlRunInfo, ...]
