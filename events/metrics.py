"""What a person who runs this wants to count, by Prometheus' conventions; docs/metrics.md lists it.

Labels take few values: types of commands, outcomes, base models, names of services. Never a run's or a tenant's id:
that is what traces and logs are for. Every process has all of these, at nothing where it does no such work.
"""

from datetime import UTC, datetime

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from events import catalog
from events.failure import Failure

disable_created_metrics()  # type: ignore[no-untyped-call]  # a third more lines, which nobody reads

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
STEPS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
TYPES = frozenset(kind.type for kind in catalog.TABLE)

# Every service

HTTP_ANSWERS = Counter("rekindle_http_answers", "HTTP requests answered, by status", ["status"])
COMMANDS = Counter(
    "rekindle_commands",
    "Commands that ended: `ok`, or by whose fault, `user` or `server`",
    ["type", "outcome"],
)
COMMAND_SECONDS = Histogram(
    "rekindle_command_seconds", "From a command's storing to its result", ["type"], buckets=SECONDS
)
IN_HAND_SECONDS = Histogram(
    "rekindle_command_in_hand_seconds", "The part of that in which it was done", ["type"], buckets=SECONDS
)
DEAD_LETTERS = Counter("rekindle_dead_letters", "Commands put aside to be looked at", ["type"])
DISCONNECTIONS = Counter("rekindle_nats_disconnections", "Losses of the connection to NATS")

# Gateway

POLLS_WAITING = Gauge("rekindle_futures_waiting", "Polls that wait for a result now")

# Dispatcher

QUEUED = Gauge(
    "rekindle_queue_commands", "Commands, or of a trainer runs with some, that wait or run", ["service"]
)
ACTIVATIONS = Gauge("rekindle_activations_open", "Activations open now", ["service"])

# Sampler

PROMPT_TOKENS = Counter("rekindle_prompt_tokens", "Tokens of prompts that were sampled from", ["base_model"])
SAMPLED_TOKENS = Counter("rekindle_sampled_tokens", "Tokens sampled", ["base_model"])
ADAPTERS_LOADED = Counter("rekindle_adapters_loaded", "Adapter versions read into memory")
ADAPTERS_EVICTED = Counter("rekindle_adapters_evicted", "Adapter versions that made room for others")

# Trainer

TRAINED_TOKENS = Counter("rekindle_trained_tokens", "Tokens through forward and backward", ["base_model"])
FORWARD_TOKENS = Counter("rekindle_forward_tokens", "Tokens through forward alone", ["base_model"])
PASS_SECONDS = Histogram("rekindle_pass_seconds", "A shared pass", ["base_model"], buckets=SECONDS)
PASS_RUNS = Histogram("rekindle_pass_runs", "Runs that share a pass", ["base_model"], buckets=COUNTS)

# Reward service

SCORES = Counter("rekindle_scores", "Items scored, by type of grader and outcome", ["grader", "outcome"])

# Data service

RL_STEPS = Counter("rekindle_rl_steps", "Steps of server-side RL runs", ["base_model"])
STALENESS = Histogram(
    "rekindle_rl_staleness_steps",
    "How many steps behind the trained weights a step's rollouts were, on average",
    ["base_model"],
    buckets=STEPS,
)


def kind_of(type_: str | None) -> str:
    """A command's type as a label, `other` if it is none of ours. Example: kind_of(catalog.SCORE) → "reward.score"."""
    return type_.removeprefix(catalog.PREFIX) if type_ in TYPES else "other"


def answered(type_: str | None, stored: datetime, failure: Failure | None = None) -> None:
    """A command has its result, after it was `stored`."""
    kind = kind_of(type_)
    COMMANDS.labels(kind, "ok" if failure is None else failure.category).inc()
    waited = datetime.now(UTC) - stored
    COMMAND_SECONDS.labels(kind).observe(max(0.0, waited.total_seconds()))  # by two clocks


def worked(type_: str | None, seconds: float) -> None:
    """A command was in hand for so long."""
    IN_HAND_SECONDS.labels(kind_of(type_)).observe(seconds)


def sampled(base: str, prompt_tokens: int, tokens: int) -> None:
    """A prompt was sampled from."""
    PROMPT_TOKENS.labels(base).inc(prompt_tokens)
    SAMPLED_TOKENS.labels(base).inc(tokens)


def passed(base: str, runs: int, seconds: float) -> None:
    """A pass is through."""
    PASS_RUNS.labels(base).observe(runs)
    PASS_SECONDS.labels(base).observe(seconds)


def stepped(base: str, staleness: float | None) -> None:
    """An RL run has done a step."""
    RL_STEPS.labels(base).inc()
    if staleness is not None:
        STALENESS.labels(base).observe(staleness)
