"""What an RL run is to do: one value, written as YAML or JSON, in which nearly everything has a default.

A key that is not known is a mistake, and every mistake names its field. `RlRunSpec.model_json_schema()` is the schema.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from rekindle.types.datasets import ColumnName, DatasetName, PartName
from rekindle.types.errors import InvalidField
from rekindle.types.fields import ModelName, Path, first_mistake
from rekindle.types.models import MAX_LORA_RANK, Seed
from rekindle.types.paths import NAME_PATTERN
from rekindle.types.rewards import Exact, Grader
from rekindle.types.rl.algorithms import Algorithm, Grpo, Reinforce
from rekindle.types.rl.templates import template_columns
from rekindle.types.sampling import MAX_SAMPLES, Stop

NEW_RANK = 32
"""Of a new adapter, unless the spec says another."""
MAX_GROUPS = 1024
MAX_STALENESS = 8
MAX_STEPS = MAX_EPOCHS = 1_000_000
MAX_MINUTES = 10 * 365 * 24 * 60
MAX_TEMPLATE = 32 * 1024
"""Characters of one template."""
MAX_SPEC = 128 * 1024
"""Characters of a spec."""
MAX_DEPTH = 32
"""Levels of lists and objects in one."""


def _check_template(text: str) -> str:
    template_columns(text)
    return text


Template = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_TEMPLATE), AfterValidator(_check_template)
]
"""A text over the columns of a row: `{question}`; `{{` is a brace."""
Every = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
RunName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Lora(Exact):
    """The adapter. E.g. `{"rank": 16}`."""

    rank: Annotated[int, Field(ge=1, le=MAX_LORA_RANK)] | None = None
    """None: the checkpoint's, of a new adapter 32."""
    seed: Seed | None = None
    """Of the random half of the adapter; None: the run's."""
    train_attn: bool = True
    train_mlp: bool = True
    train_unembed: bool = True
    """The output matrix."""

    @model_validator(mode="after")
    def _trains_something(self) -> "Lora":
        if not (self.train_attn or self.train_mlp or self.train_unembed):
            raise InvalidField(
                "train_attn", "at least one of train_attn, train_mlp, train_unembed must be true"
            )
        return self


class DatasetRef(Exact):
    """Rows of a dataset. E.g. `{"name": "spider", "split": "train"}`."""

    name: DatasetName
    version: Annotated[int, Field(ge=1)] | Literal["latest"] = "latest"
    """`latest`: the newest when the run begins, which it keeps."""
    split: PartName | None = None
    """The version must be this part of a split; `latest` is then the newest such part. None: any version."""


class ChatMessage(Exact):
    """One message of a prompt. E.g. `{"role": "user", "content": "{question}"}`."""

    role: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    content: Template


class Sampling(Exact):
    """How rollouts are drawn. E.g. `{"max_tokens": 64}`."""

    max_tokens: Annotated[int, Field(ge=1)] = 256
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """At 0 all rollouts of a group would be the same."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: int = -1
    """-1: off."""
    stop: Stop | None = None
    """None: only the end of sequence stops."""
    seed: Seed | None = None
    """None: the run's."""

    @model_validator(mode="after")
    def _top_k_is_a_count(self) -> "Sampling":
        if self.top_k != -1 and self.top_k < 1:
            raise InvalidField("top_k", f"{self.top_k}, expected -1 (off) or 1 and more")
        return self


class Optimizer(Exact):
    """AdamW and the course of its learning rate. E.g. `{"learning_rate": 1e-4, "schedule": "cosine"}`."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """The highest one."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How it falls after the warm-up, over the steps of the run."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which it rises evenly; the last of them has all of it."""
    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of it that is reached when the steps are over; says nothing of a constant one."""
    beta1: Rate = 0.9
    beta2: Rate = 0.95
    eps: Annotated[float, Field(gt=0)] = 1e-12
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    grad_clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Largest global L2 norm of the gradient; 0: no clipping."""


class Kl(Exact):
    """How dear it is to leave the base model. E.g. `{"coefficient": 0.01}`."""

    coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Taken off a token's advantage per nat of logprob above the base model's; 0: the base model is not asked."""
    discount: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How much of the penalties of later tokens a token bears, by distance; 1: all, the exact gradient."""


class Evaluation(Exact):
    """When and on what the run is measured. E.g. `{"every": 10, "split": "test"}`."""

    every: Every = 10
    """Steps; the weights before the first and after the last step are measured too."""
    split: PartName | None = None
    """Part of the run's own dataset: its newest version that is this part."""
    dataset: DatasetRef | None = None
    """Another dataset; exactly one of the two is given."""
    rows: Annotated[int, Field(ge=1, le=4096)] = 64
    """The first so many rows."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0: the likeliest token."""
    grader: Grader | None = None
    """Of the answers to them; None: the run's own."""

    @model_validator(mode="after")
    def _has_rows(self) -> "Evaluation":
        if (self.split is None) == (self.dataset is None):
            raise InvalidField("split", "expected either split or dataset")
        return self


class Checkpoints(Exact):
    """Which weights are kept. E.g. `{"every": 20, "keep": 2}`."""

    every: Every = 20
    """Steps; the weights after the last step are kept too."""
    keep: Every = 2
    """How many; older ones are deleted."""
    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=100)] = "step"
    """Version 20 is called `step-000020`."""


class StopWhen(Exact):
    """What ends a run before its steps are done. E.g. `{"reward_at_least": 0.95}`."""

    reward_at_least: float | None = None
    """Mean reward of the last `over` batches."""
    evaluation_at_least: float | None = None
    """Mean of the last `over` evaluations."""
    over: Annotated[int, Field(ge=1, le=100)] = 5
    minutes: Annotated[float, Field(gt=0, le=MAX_MINUTES)] | None = None
    """Wall clock since the run was made; None: as long as it takes."""


class Stragglers(Exact):
    """How long a batch waits for its last groups. E.g. `{"seconds": 30}`."""

    seconds: Annotated[float, Field(gt=0)] | None = None
    """From when `share` of the groups have their rewards; the rest is then left out. None: for ever."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.75


class Alarms(Exact):
    """What pauses a run, because its sampler and its trainer disagree."""

    gap: Annotated[float, Field(gt=0)] | None = 0.05
    """Largest mean difference of their logprobs of the same tokens under the same weights, in nats; None: any."""
    entropy_errors: Annotated[float, Field(gt=0)] | None = 6.0
    """Most by which sampled tokens may surprise more or less than the trainer's entropy says, in standard errors;
    None: any."""


class RlRunSpec(Exact):
    """An RL run. E.g. `{"base_model": "Qwen/Qwen3-8B", "dataset": {"name": "gsm8k"}, "prompt": "{question}",
    "grader": {"type": "math"}, "steps": 100}`.
    """

    name: RunName | None = None
    """For people; None: its id."""
    tags: Annotated[tuple[Tag, ...], Field(max_length=64)] = ()
    base_model: ModelName | None = None
    """Trains a new adapter of it."""
    checkpoint: Path | None = None
    """Goes on with the adapter of this checkpoint; exactly one of the two is given."""
    lora: Lora = Lora()
    """Of a new adapter; a checkpoint has its own, and a rank that is said must be that."""
    dataset: DatasetRef
    prompt: Template | None = None
    """The prompt's text as it is."""
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=64)] | None = None
    """Or messages for the model's chat template; exactly one of the two is given."""
    grader: Grader
    """The row's columns travel with each rollout."""
    algorithm: Algorithm = Grpo()
    groups: Annotated[int, Field(ge=1, le=MAX_GROUPS)] = 8
    """Prompts of a batch."""
    group_size: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 8
    """Rollouts of a prompt."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    """Batches; None: as `epochs` says."""
    epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)] | None = None
    """Passes over the rows, after which the run ends; None: as many as `steps` need."""
    sampling: Sampling = Sampling()
    optimizer: Optimizer = Optimizer()
    kl: Kl = Kl()
    max_staleness: Annotated[int, Field(ge=0, le=MAX_STALENESS)] = 1
    """How many steps older than the weights that it trains a batch's sampler may be; 0: no step overlaps another."""
    stragglers: Stragglers = Stragglers()
    evaluation: Evaluation | None = None
    """None: no evaluation."""
    checkpoints: Checkpoints | None = Checkpoints()
    """None: nothing is kept but the newest weights for samplers."""
    stop: StopWhen = StopWhen()
    alarms: Alarms = Alarms()
    seed: Seed = 0
    """Of everything that has none of its own: the order of the rows, the adapter, sampling."""

    @model_validator(mode="after")
    def _is_of_one_mind(self) -> "RlRunSpec":
        for one, other in (("base_model", "checkpoint"), ("prompt", "messages")):
            if (getattr(self, one) is None) == (getattr(self, other) is None):
                raise InvalidField(one, f"expected either {one} or {other}")
        if self.steps is None and self.epochs is None:
            raise InvalidField("steps", "expected steps, epochs or both")
        if self.group_size < 2 and not isinstance(self.algorithm, Reinforce):
            raise InvalidField(
                "group_size", f"1, but {self.algorithm.type} compares rollouts of a group: 2 or more"
            )
        if self.steps is not None and self.optimizer.warmup_steps > self.steps:
            raise InvalidField(
                "optimizer.warmup_steps",
                f"{self.optimizer.warmup_steps}, expected at most steps, {self.steps}",
            )
        if self.stop.evaluation_at_least is not None and self.evaluation is None:
            raise InvalidField("stop.evaluation_at_least", "needs evaluation")
        return self

    def columns(self) -> tuple[ColumnName, ...]:
        """What every row must have: the columns of the prompt and those that the grader needs."""
        texts = [self.prompt] if self.prompt else [message.content for message in self.messages or ()]
        named = [name for text in texts for name in template_columns(text)]
        return tuple(dict.fromkeys([*named, *self.grader.params.needs()]))

    @classmethod
    def of(cls, value: Any) -> "RlRunSpec":
        """The spec that a JSON value says. Raises InvalidField for its first mistake."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise first_mistake(error) from error

    @classmethod
    def from_yaml(cls, text: str) -> "RlRunSpec":
        """The spec that a YAML (or JSON) document says. Raises InvalidField for its first mistake."""
        return cls.of(read_yaml(text))


def read_yaml(text: str) -> Any:
    """The value of one YAML document of plain data. Raises InvalidField that says where it is wrong."""
    import yaml  # only who reads YAML pays for it

    if len(text) > MAX_SPEC:
        raise InvalidField("spec", f"{len(text)} characters, the limit is {MAX_SPEC}")
    depth = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise InvalidField(
                    "spec", "an alias, which could make a small text large; write the value out"
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise InvalidField("spec", f"more than {MAX_DEPTH} levels")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidField("spec", f"not YAML: {' '.join(str(error).split())}") from error
