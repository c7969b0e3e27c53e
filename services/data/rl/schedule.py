"""The learning rate of a step: a warm-up, then a course down to a final share.

    k < w:       peak · (k + 1) / w                         w warm-up steps; the last of them has the peak
    constant:    peak
    linear:      peak · (f + (1 − f) · (1 − x))             x = (k − w) / (K − w), f the final share
    cosine:      peak · (f + (1 − f) · (1 + cos πx) / 2)    Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983

Step K, the first after the last, would have the final share. A run that takes more steps than K stays there.
"""

import math

from rekindle.types.rl import Optimizer


def learning_rate(optimizer: Optimizer, step: int, steps: int) -> float:
    """Of a step from 0, in a run of so many steps."""
    warmup, peak = optimizer.warmup_steps, optimizer.learning_rate
    if step < warmup:
        return peak * (step + 1) / warmup
    if optimizer.schedule == "constant":
        return peak
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    left = 1 - done if optimizer.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return peak * (optimizer.final + (1 - optimizer.final) * left)
