"""AdamW with decoupled weight decay (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101).

With g the accumulated gradient, scaled to the norm `grad_clip_norm` where that is set and exceeded, and t the
number of steps including this one:

    m = β1·m + (1-β1)·g                 v = β2·v + (1-β2)·g²
    θ = θ·(1 - lr·wd) - lr · (m / (1-β1^t)) / (√(v / (1-β2^t)) + ε)

Every hyper-parameter comes with the step, nothing but m, v and t carries over. The gradient is zero after a
step; a step with nothing accumulated is a step with a zero gradient.
"""

import torch

from rekindle.types.requests import AdamParams
from services.train.run import TrainRun


@torch.no_grad()
def adamw_step(run: TrainRun, params: AdamParams) -> dict[str, float]:
    """Change `run` in place. Returns `grad_norm` (L2, before clipping) when clipping is on."""
    gradient_P, metrics = run.gradient_P, {}
    if params.grad_clip_norm > 0:
        norm = float(torch.linalg.vector_norm(gradient_P, dtype=torch.float64))
        metrics["grad_norm"] = norm
        if norm > params.grad_clip_norm:
            gradient_P.mul_(params.grad_clip_norm / norm)
    run.step += 1
    run.mean_P.lerp_(gradient_P, 1 - params.beta1)
    run.variance_P.mul_(params.beta2).addcmul_(gradient_P, gradient_P, value=1 - params.beta2)
    root_P = (run.variance_P / (1 - params.beta2**run.step)).sqrt_().add_(params.eps)
    run.parameters_P.mul_(1 - params.learning_rate * params.weight_decay)
    rate = params.learning_rate / (1 - params.beta1**run.step)
    run.parameters_P.addcdiv_(run.mean_P, root_P, value=-rate)
    gradient_P.zero_()
    return metrics
