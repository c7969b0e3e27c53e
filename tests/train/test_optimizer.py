"""AdamW against numbers by hand and against a float64 reference over many steps."""

import numpy as np
import pytest
import torch

from rekindle.types.requests import AdamParams
from services.model.lora import LoraSpec
from services.train.engine import TrainEngine
from services.train.run import TrainRun


@pytest.fixture
def run(engine: TrainEngine) -> TrainRun:
    return engine.new_run(LoraSpec(rank=2, seed=0))


def test_the_first_step_moves_each_parameter_by_the_learning_rate_against_its_gradient(
    engine: TrainEngine, run: TrainRun
):
    before = run.parameters_P.clone()
    run.gradient_P.fill_(5.0)[0] = -0.001
    assert engine.optim_step(run, AdamParams(learning_rate=0.1)) == {}
    moved = run.parameters_P - before
    torch.testing.assert_close(moved[1:], torch.full_like(moved[1:], -0.1))
    assert moved[0].item() == pytest.approx(0.1, rel=1e-5)


def test_weight_decay_is_decoupled_and_zero_gradients_are_a_step(engine: TrainEngine, run: TrainRun):
    before = run.parameters_P.clone()
    engine.optim_step(run, AdamParams(learning_rate=0.1, weight_decay=0.5))
    torch.testing.assert_close(run.parameters_P, before * 0.95)
    assert run.step == 1


def test_clipping_reports_the_norm_before_it_scales(engine: TrainEngine, run: TrainRun):
    run.gradient_P.zero_()[:2] = torch.tensor([3.0, 4.0])
    assert engine.optim_step(run, AdamParams(grad_clip_norm=1.0)) == {"grad_norm": 5.0}
    # first moment: (1 - beta1) · clipped gradient
    torch.testing.assert_close(run.mean_P[:2], 0.1 * torch.tensor([0.6, 0.8]))


def test_a_generous_clip_changes_nothing_but_the_metrics(engine: TrainEngine):
    runs = [engine.new_run(LoraSpec(rank=2, seed=0)) for _ in range(2)]
    for run, clip in zip(runs, (0.0, 1e12), strict=True):
        run.gradient_P.fill_(0.5)
        engine.optim_step(run, AdamParams(grad_clip_norm=clip))
    assert torch.equal(runs[0].parameters_P, runs[1].parameters_P)


def test_the_adapter_sees_the_step_and_the_gradient_starts_again_from_zero(
    engine: TrainEngine, run: TrainRun
):
    run.gradient_P.fill_(1.0)
    engine.optim_step(run, AdamParams(learning_rate=0.1))
    flat = torch.cat([factor.flatten() for factor in run.adapter.parameters()])
    assert torch.equal(flat, run.parameters_P)
    assert all((factor == -0.1).all() for factor in run.adapter.b.values())
    assert not run.gradient_P.any()


class Reference:
    """The same in float64, after Loshchilov & Hutter, algorithm 2."""

    def __init__(self, theta: np.ndarray) -> None:
        self.theta, self.m, self.v, self.t = theta, np.zeros_like(theta), np.zeros_like(theta), 0

    def step(self, g: np.ndarray, h: AdamParams) -> None:
        norm = np.sqrt(np.sum(g**2))
        if 0 < h.grad_clip_norm < norm:
            g = g * h.grad_clip_norm / norm
        self.t += 1
        self.m = h.beta1 * self.m + (1 - h.beta1) * g
        self.v = h.beta2 * self.v + (1 - h.beta2) * g**2
        m_hat, v_hat = self.m / (1 - h.beta1**self.t), self.v / (1 - h.beta2**self.t)
        decayed = self.theta - h.learning_rate * h.weight_decay * self.theta
        self.theta = decayed - h.learning_rate * m_hat / (np.sqrt(v_hat) + h.eps)


def test_many_steps_with_changing_hyper_parameters_agree_with_float64(engine: TrainEngine, run: TrainRun):
    schedule = [
        AdamParams(learning_rate=1e-2),
        AdamParams(learning_rate=3e-3, weight_decay=0.1),
        AdamParams(learning_rate=1e-2, grad_clip_norm=0.5),
        AdamParams(learning_rate=1e-2, beta1=0.5, beta2=0.999, eps=1e-3),
        AdamParams(learning_rate=0.0),
        AdamParams(learning_rate=2e-2, weight_decay=0.3, grad_clip_norm=2.0, eps=1e-8),
    ] * 4
    random = np.random.default_rng(0)
    reference = Reference(run.parameters_P.double().numpy())
    for params in schedule:
        gradient = random.normal(size=len(reference.theta)).astype(np.float32) * random.uniform(0.01, 10)
        run.gradient_P.copy_(torch.from_numpy(gradient.astype(np.float32)))
        reference.step(gradient.astype(np.float32).astype(np.float64), params)
        engine.optim_step(run, params)
    np.testing.assert_allclose(run.parameters_P.numpy(), reference.theta, rtol=1e-5, atol=1e-6)
