"""One loop, two SDKs: the module is an argument, and the curve is the same."""

from importlib import import_module
from typing import Any

import pytest

from tests.e2e.conftest import forgiven
from tests.stack import Stack

PROMPT, STEPS, WAIT = [5, 6, 7], 5, 60.0


def curve(sdk: Any, stack: Stack) -> list[tuple[float, float]]:
    """(mean reward, loss) of each step: odd tokens are rewarded."""
    steps = []
    with sdk.ServiceClient(base_url=stack.url, api_key="tml-local") as service:
        training = service.create_lora_training_client(stack.base_model, rank=8, seed=3).result(WAIT)
        for step in range(STEPS):
            sampler = training.save_weights_and_get_sampling_client().result(WAIT)
            params = sdk.SamplingParams(max_tokens=6, temperature=1.0, seed=step, stop=[])
            group = sampler.sample(sdk.ModelInput.from_ints(PROMPT), 16, params).result(WAIT).sequences
            rewards = [sum(token % 2 for token in sequence.tokens) for sequence in group]
            mean, pad = sum(rewards) / len(rewards), [0.0] * (len(PROMPT) - 1)
            batch = [
                sdk.Datum(
                    model_input=sdk.ModelInput.from_ints(PROMPT + sequence.tokens[:-1]),
                    loss_fn_inputs={
                        "target_tokens": PROMPT[1:] + sequence.tokens,
                        "logprobs": pad + sequence.logprobs,
                        "advantages": pad + [reward - mean] * len(sequence.tokens),
                    },
                )
                for sequence, reward in zip(group, rewards, strict=True)
            ]
            gradient = training.forward_backward(batch, "importance_sampling")
            update = training.optim_step(sdk.AdamParams(learning_rate=2e-2, eps=1e-8))
            steps.append((mean, gradient.result(WAIT).metrics["loss:sum"]))
            update.result(WAIT)
    return steps


def test_the_same_seed_gives_the_same_curve(stack: Stack) -> None:
    ours = curve(import_module("rekindle"), stack)
    with forgiven():
        theirs = curve(import_module("tinker"), stack)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-3)
    assert ours[-1][0] > ours[0][0] + 0.5, "the loop learns something"
