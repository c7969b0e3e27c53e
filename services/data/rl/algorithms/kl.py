"""KL to the base model as a penalty inside the advantages.

    A_t ← A_t − c · Σ_{u≥t} γ^(u−t) · (log π(o_u) − log π_base(o_u))

The bracket is the estimate k1 of the KL of a token (Schulman 2020, http://joschu.net/blog/kl-approx.html), the
logprobs are those of sampling. With γ = 0 a token answers for itself alone; with γ = 1 for all that follows, which is
the gradient of the KL of whole completions.

Axis: T tokens of one completion.
"""

from collections.abc import Sequence

from rekindle.types.rl import Kl


def penalties(logprobs_T: Sequence[float], base_logprobs_T: Sequence[float], kl: Kl) -> list[float]:
    """What is taken off the T advantages, before the algorithm's weights. Raises ValueError for unequal lengths."""
    penalties_T, later = [], 0.0
    for logprob, base in reversed(list(zip(logprobs_T, base_logprobs_T, strict=True))):
        later = (logprob - base) + kl.discount * later
        penalties_T.append(kl.coefficient * later)
    return penalties_T[::-1]
