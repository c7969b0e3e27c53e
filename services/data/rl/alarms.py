"""Whether sampler and trainer agree: two statistics that only a fault moves far. Pure.

The gap: logprobs of the same tokens under the same weights are the same, whoever computes them. Its mean absolute
value over tokens, in nats, is that of the wrong weights, the wrong base model or a wrong kernel.

The entropy: raw logprobs do not depend on the temperature, so the gap cannot see a wrong one. Let a token y be drawn
from the sampler's q, of whatever version, and p be the trainer's distribution at the same place, with H and V the mean
and variance of -log p under p. Then

    X = p(y) / q(y) · (-log p(y) - H),        E_q[X] = Σ p·(-log p - H) = 0        given all that came before y,

and the sum S of X over tokens is a martingale: older weights need no allowance, for the ratio takes their part. What
is drawn from q^(1/τ) moves S, by about V·(τ - 1) a token. S is looked at in standard errors σ, of which

    σ² = ([S] + 2⟨S⟩) / 3        [S] = Σ X², the variance seen;  ⟨S⟩ = Σ V, that to be expected (where p is near q).

From exp(x - x²/6) ≤ 1 + x + x²/3 follows E[exp(λS - λ²σ²/2)] ≤ 1 (Delyon 2009, Exponential inequalities for sums of
weakly dependent variables, Electronic Journal of Probability 14), hence a tail like a Gaussian's however skew tokens
are. [S] alone would be far too small for a policy that is nearly certain and by chance drew no rare token, ⟨S⟩ alone
where it drew some. Rollouts of a group share their prompt, given which S has mean 0, so they need no allowance either.
But which rollouts the trainer sees depends on their rewards: those count for which it does not, see
`Rollout.independent`.

Axes: R rollouts, C tokens of all completions that were trained, end to end, T of one of them.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from rekindle.types import ForwardBackwardOutput
from rekindle.types.rl import RlRunSpec
from services.data.rl.batch import Batch

RESOLUTION = 1e-3
"""Nats a token that add to the standard error: arithmetic of the engines', not sampling."""


def differences(batch: Batch, passed: ForwardBackwardOutput) -> list[np.ndarray]:
    """log p − log q of every completion token, float64, by rollout."""
    logprobs = completions(batch, passed.logprobs)
    return [
        one_T - rollout.sequence.logprobs for one_T, rollout in zip(logprobs, batch.rollouts, strict=True)
    ]


def completions(batch: Batch, arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Of the trainer's arrays, one value for each token that it was to predict, those of the completions (T,)."""
    return [
        array[len(rollout.prompt_P) - 1 :].astype(np.float64)
        for rollout, array in zip(batch.rollouts, arrays, strict=True)
    ]


def entropies(batch: Batch, passed: ForwardBackwardOutput) -> list[np.ndarray] | None:
    """The trainer's entropy at every completion token, by rollout; None where it reports none."""
    if not all("entropy" in output for output in passed.outputs):
        return None
    return completions(batch, (output["entropy"] for output in passed.outputs))


# The gap


def gap(batch: Batch, passed: ForwardBackwardOutput, step: int) -> float | None:
    """Nats a token over the rollouts that the weights of the step drew; None: older weights drew all of them."""
    found = differences(batch, passed)
    fresh = [one for one, rollout in zip(found, batch.rollouts, strict=True) if rollout.version == step]
    return distance(fresh) if fresh else None


def distance(differences: Sequence[np.ndarray]) -> float:
    """Mean absolute value over all tokens."""
    return float(np.abs(np.concatenate(differences)).mean())


def gap_alarm(gap: float | None, spec: RlRunSpec) -> str | None:
    """Why the run must not go on, for people; None: all is well, or not known."""
    if gap is None or spec.alarms.gap is None or gap <= spec.alarms.gap:
        return None
    return (
        f"logprobs of sampler and trainer differ by {gap:.3g} nats a token under the same weights; "
        f"alarms.gap is {spec.alarms.gap:g}"
    )


# The entropy


def excess(batch: Batch, passed: ForwardBackwardOutput, spec: RlRunSpec) -> float | None:
    """S / σ: how many standard errors the tokens are more surprising than they should be.

    None: no rollout counts, the trainer reports no entropies, or tokens were not drawn at temperature 1 from all of
    the vocabulary.
    """
    wanted = spec.sampling
    found = entropies(batch, passed)
    if found is None or (wanted.temperature, wanted.top_p, wanted.top_k) != (1.0, 1.0, -1):
        return None
    counting = [rollout.independent for rollout in batch.rollouts]
    if not any(counting):
        return None
    variances = completions(batch, (output["entropy_variance"] for output in passed.outputs))
    return standard_errors(
        _chosen(completions(batch, passed.logprobs), counting),
        np.exp(_chosen(differences(batch, passed), counting)),
        _chosen(found, counting),
        _chosen(variances, counting),
    )


def standard_errors(
    logp_C: np.ndarray, ratio_C: np.ndarray, entropy_C: np.ndarray, variance_C: np.ndarray
) -> float:
    """S / σ of the module's docstring; all float64."""
    x_C = ratio_C * (-logp_C - entropy_C)
    variance = (np.square(x_C).sum() + 2 * variance_C.sum()) / 3
    return float(x_C.sum() / np.sqrt(variance + (RESOLUTION * len(x_C)) ** 2))


def _chosen(arrays: Sequence[np.ndarray], chosen: Sequence[bool]) -> np.ndarray:
    return np.concatenate([array for array, one in zip(arrays, chosen, strict=True) if one])


def entropy_alarm(errors: float | None, spec: RlRunSpec) -> str | None:
    """Why the run must not go on, for people; None: all is well, or not known."""
    limit = spec.alarms.entropy_errors
    if errors is None or limit is None or abs(errors) <= limit:
        return None
    return (
        f"sampled tokens are {'more' if errors > 0 else 'less'} surprising than the trainer's entropy admits, by "
        f"{abs(errors):.1f} standard errors; alarms.entropy_errors is {limit:g}: is the temperature right?"
    )
