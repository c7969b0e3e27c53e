"""The row of metrics of a step, and whether it gives alarm. Pure.

Logprobs are those of the raw model: q the sampler's, p the trainer's for the same token, r = p / q. The estimates k1
and k3 of the KL of sampler from trainer are Schulman's (2020, http://joschu.net/blog/kl-approx.html).

Axes: R rollouts, C tokens of all completions that were trained, end to end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from rekindle.types import ForwardBackwardOutput
from rekindle.types.rl import MetricsRow, RlRunSpec
from services.data.rl import alarms
from services.data.rl.batch import Batch
from services.data.rl.messages import Report
from services.data.rl.results import Group

Values = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What is known of a step when it is reported."""

    report: Report
    groups: Sequence[Group]
    """Those of the batch's places whose results are still there."""
    batch: Batch | None
    """What was learned from; None: nothing, or it is no longer known."""
    passed: ForwardBackwardOutput | None
    """What the trainer said of it."""


def row_of(
    step: Step, spec: RlRunSpec, seconds: Values, now: datetime, before: datetime | None
) -> MetricsRow:
    """The row. `before` is when the row before was written; None: there is none, or it is not known."""
    report = step.report
    values: Values = {"row": report.row, "time": now, "evaluations": report.evaluations, **seconds}
    if before is not None:
        values["seconds"] = max(0.0, (now - before).total_seconds())
    if report.train is None:
        return MetricsRow(**values)
    values |= {
        "step": report.train.step,
        "version": report.train.step + 1,
        "learning_rate": report.train.learning_rate,
        "groups": len(report.train.groups),
        "dropped": report.dropped,
        "uniform": report.uniform,
        "overdue": report.overdue,
        "skipped": report.skipped,
        "refilled": report.refilled,
    }
    values |= _rewards(step) | _lengths(step) | _staleness(step) | _policy(step) | _agreement(step, spec)
    if values.get("seconds"):
        values["tokens_per_second"] = values.get("tokens_sampled", 0) / values["seconds"]
    return MetricsRow(**{name: _plain(value) for name, value in values.items()})


def _rewards(step: Step) -> Values:
    verdicts = [verdict for group in step.groups for verdict in group.verdicts]
    if not verdicts:
        return {}
    rewards = [verdict.value for verdict in verdicts if verdict.value is not None]
    count, total = step.report.refilled_rewards
    found: Values = {
        "excluded": sum(verdict.excluded for verdict in verdicts) / len(verdicts),
        "invalid": sum(verdict.outcome == "invalid" for verdict in verdicts) / len(verdicts),
    }
    if rewards or count:
        found["reward"] = (sum(rewards) + total) / (len(rewards) + count)
    if rewards:
        found["reward_std"] = np.std(rewards)
    return found


def _lengths(step: Step) -> Values:
    sequences = [sequence for group in step.groups for sequence in group.sequences]
    if not sequences:
        return {}
    lengths_R = [len(sequence.tokens) for sequence in sequences]
    return {
        "length": np.mean(lengths_R),
        "length_max": max(lengths_R),
        "stopped": np.mean([sequence.stop_reason == "stop" for sequence in sequences]),
        "tokens_sampled": sum(lengths_R),
        "entropy": -np.concatenate([sequence.logprobs for sequence in sequences]).astype(np.float64).mean(),
    }


def _staleness(step: Step) -> Values:
    train = step.report.train
    assert train is not None, "only a step has rollouts"
    lags = [train.step - score.sample.version for score in train.groups]
    return {"staleness": np.mean(lags), "staleness_max": max(lags)} if lags else {}


def _policy(step: Step) -> Values:
    """What the trainer makes of the rollouts."""
    if step.batch is None or not step.batch.rollouts:
        return {}
    rollouts = step.batch.rollouts
    found: Values = {
        "advantage": np.mean([np.abs(rollout.advantages_T).mean() for rollout in rollouts]),
        "tokens_trained": sum(len(one.prompt_P) + len(one.sequence.tokens) for one in rollouts),
    }
    leaving = [
        sequence.logprobs - base
        for group in step.groups
        for sequence, base in zip(group.sequences, group.base_logprobs or (), strict=False)
    ]
    if leaving:
        found["kl_base"] = np.concatenate(leaving).astype(np.float64).mean()
    return found | _ratios(step)


def _ratios(step: Step) -> Values:
    if step.passed is None or step.batch is None:
        return {}
    differences_C = np.concatenate(alarms.differences(step.batch, step.passed))
    ratio_C = np.exp(differences_C)
    found: Values = {
        "loss": step.passed.metrics.get("loss:sum"),
        "kl_sampler": -differences_C.mean(),
        "kl_sampler_k3": (ratio_C - 1 - differences_C).mean(),
        "ratio": ratio_C.mean(),
        "ratio_max": ratio_C.max(),
    }
    if (clipped := step.passed.metrics.get("clipped_tokens:sum")) is not None:
        found["clipped"] = clipped / len(ratio_C)
    if (entropies := alarms.entropies(step.batch, step.passed)) is not None:
        found["entropy_trainer"] = np.concatenate(entropies).mean()
    return found


def _agreement(step: Step, spec: RlRunSpec) -> Values:
    """Whether sampler and trainer agree."""
    train = step.report.train
    found: Values = {"gap": step.report.gap}
    if step.batch is not None and step.passed is not None and train is not None:
        fresh = alarms.gap(step.batch, step.passed, train.step)
        found["gap"] = step.report.gap if fresh is None else fresh
        found["entropy_errors"] = alarms.excess(step.batch, step.passed, spec)
    return found


def alarm_of(step: Step, spec: RlRunSpec) -> str | None:
    """Why the run must not go on, for people; None: all is well."""
    if step.batch is None or step.passed is None or step.report.train is None:
        return None
    found = alarms.gap(step.batch, step.passed, step.report.train.step)
    errors = alarms.excess(step.batch, step.passed, spec)
    return alarms.gap_alarm(found, spec) or alarms.entropy_alarm(errors, spec)


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's; what is not finite is not known."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
