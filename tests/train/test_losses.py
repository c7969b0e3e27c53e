"""The losses: numbers worked by hand, and float64 references for value and gradient."""

import numpy as np
import pytest
import torch

from rekindle.types.losses import LOSSES as SPECS
from services.train.losses import LOSSES

LN2 = float(np.log(2))


def loss_and_gradient(name: str, p_C: list[float], /, **inputs: list[float]) -> tuple[float, list[float]]:
    p = torch.tensor(p_C, dtype=torch.float64, requires_grad=True)
    given = {key: torch.tensor(values, dtype=torch.float64) for key, values in inputs.items()}
    loss, _ = LOSSES[name](p, given)
    loss.backward()
    return loss.item(), p.grad.tolist()


def test_every_loss_that_requests_may_name_is_here():
    assert LOSSES.keys() == SPECS.keys()


def test_cross_entropy_is_minus_the_weighted_sum():
    loss, gradient = loss_and_gradient("cross_entropy", [-1.0, -2.0, -3.0], weights=[1.0, 0.5, -2.0])
    assert loss == 1.0 + 1.0 - 6.0
    assert gradient == [-1.0, -0.5, 2.0]


def test_importance_sampling_weighs_advantages_by_the_ratio():
    # ratios: 1, 2, 1/2
    loss, gradient = loss_and_gradient(
        "importance_sampling",
        [-1.0, -1.0, -1.0],
        logprobs=[-1.0, -1.0 - LN2, -1.0 + LN2],
        advantages=[1.0, 3.0, -4.0],
    )
    assert loss == pytest.approx(-(1 + 6 - 2))
    assert gradient == pytest.approx([-1, -6, 2])  # d(-r·A)/dp = -r·A


def test_ppo_cuts_off_only_what_would_gain():
    # ratios 2, 2, 1/2, 1/2, 1 with bounds 0.8 and 1.2
    loss, gradient = loss_and_gradient(
        "ppo",
        [-1.0] * 5,
        logprobs=[-1 - LN2, -1 - LN2, -1 + LN2, -1 + LN2, -1.0],
        advantages=[1.0, -1.0, 1.0, -1.0, 5.0],
        clip_low_threshold=[0.8] * 5,
        clip_high_threshold=[1.2] * 5,
    )
    # minima: 1.2 (cut), -2, 0.5, -0.8 (cut), 5
    assert loss == pytest.approx(-(1.2 - 2 + 0.5 - 0.8 + 5))
    assert gradient == pytest.approx([0, 2, -0.5, 0, -5])


def test_ppo_takes_bounds_for_each_token_and_counts_what_it_cuts_off():
    p = torch.full((3,), -1.0)
    inputs = {
        "logprobs": torch.full((3,), -1 - LN2),  # ratio 2
        "advantages": torch.ones(3),
        "clip_low_threshold": torch.zeros(3),
        "clip_high_threshold": torch.tensor([1.5, 2.5, 1.0]),
    }
    loss, metrics = LOSSES["ppo"](p, inputs)
    assert loss.item() == pytest.approx(-(1.5 + 2 + 1))
    assert metrics["clipped_tokens:sum"].item() == 2


def reference(name: str, p: np.ndarray, x: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
    """Value and derivative in float64, from the formulas."""
    if name == "cross_entropy":
        return -np.sum(x["weights"] * p), -x["weights"]
    gain = np.exp(p - x["logprobs"]) * x["advantages"]
    if name == "importance_sampling":
        return -np.sum(gain), -gain
    ratio = np.exp(p - x["logprobs"])
    clipped = np.clip(ratio, x["clip_low_threshold"], x["clip_high_threshold"]) * x["advantages"]
    return -np.sum(np.minimum(gain, clipped)), np.where(gain <= clipped, -gain, 0.0)


@pytest.mark.parametrize("name", LOSSES)
def test_float32_losses_and_gradients_agree_with_float64(name: str):
    random = np.random.default_rng(0)
    size = 5000
    p = -random.exponential(size=size)
    x = {
        "weights": random.normal(size=size),
        "logprobs": p + random.normal(scale=0.3, size=size),
        "advantages": random.normal(size=size),
        "clip_low_threshold": np.full(size, 0.8),
        "clip_high_threshold": np.full(size, 1.2),
    }
    single = {key: torch.tensor(values, dtype=torch.float32) for key, values in x.items()}
    p_C = torch.tensor(p, dtype=torch.float32, requires_grad=True)
    loss, _ = LOSSES[name](p_C, single)
    loss.backward()
    # the reference sees what the loss sees: inputs rounded to float32
    rounded = {key: values.double().numpy() for key, values in single.items()}
    expected, gradient = reference(name, p_C.detach().double().numpy(), rounded)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-4)
    np.testing.assert_allclose(p_C.grad.numpy(), gradient, rtol=1e-5, atol=1e-6)
