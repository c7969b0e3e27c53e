"""Training through the SDK: what a loop relies on."""

import concurrent.futures
import math

import numpy as np
import pytest
import tinker
import torch
from tinker import types

from tests.e2e.loops import ADAM, WAIT, batch, client, counting, loss, tokens, train
from tests.stack import Stack


@pytest.fixture(scope="module")
def training(service: tinker.ServiceClient, stack: Stack) -> tinker.TrainingClient:
    """A client for tests that leave no gradient behind."""
    return client(service, stack.base_model)


def test_the_loss_of_a_supervised_loop_falls(service: tinker.ServiceClient, stack: Stack) -> None:
    losses = train(client(service, stack.base_model, rank=8), steps=8)
    assert losses[-1] < losses[0] / 2
    assert all(math.isfinite(value) for value in losses)


def test_a_model_says_what_it_is(training: tinker.TrainingClient, stack: Stack) -> None:
    info = training.get_info()
    assert info.model_name == info.model_data.model_name == stack.base_model
    assert info.is_lora and info.lora_rank == 4 and info.model_id == training.model_id
    assert (
        training.get_tokenizer().decode(training.get_tokenizer().encode("What is 1 + 2?")) == "What is 1 + 2?"
    )


def test_forward_gives_the_outputs_of_forward_backward_and_no_gradient(
    service: tinker.ServiceClient, stack: Stack
) -> None:
    training = client(service, stack.base_model)
    train(training, 1)
    before = loss(training)
    with_gradient = training.forward_backward(batch(), "cross_entropy").result(WAIT)
    without = training.forward(batch(), "cross_entropy").result(WAIT)
    assert with_gradient.metrics["loss:sum"] == pytest.approx(without.metrics["loss:sum"], rel=1e-5)
    for one, other in zip(with_gradient.loss_fn_outputs, without.loss_fn_outputs, strict=True):
        assert np.allclose(one["logprobs"].to_numpy(), other["logprobs"].to_numpy(), atol=1e-5)
    training.optim_step(types.AdamParams(learning_rate=0.0)).result(WAIT)  # clears the gradient
    for _ in range(3):
        training.forward(batch(), "cross_entropy").result(WAIT)
    step = training.optim_step(types.AdamParams(learning_rate=0.0, grad_clip_norm=1e12)).result(WAIT)
    assert all(value == 0 for value in (step.metrics or {}).values())
    assert loss(training) == pytest.approx(before, rel=1e-5)


def test_an_rl_loop_of_samples_and_importance_sampling_reaches_its_reward(
    service: tinker.ServiceClient, stack: Stack
) -> None:
    training = client(service, stack.base_model, rank=8)
    prompt, rewards = [5, 6, 7], []
    for step in range(8):
        sampler = training.save_weights_and_get_sampling_client().result(WAIT)
        params = types.SamplingParams(max_tokens=6, temperature=1.0, seed=step, stop=[])
        sequences = sampler.sample(tokens(*prompt), 16, params).result(WAIT).sequences
        scores = np.array([sum(token % 2 for token in sequence.tokens) for sequence in sequences], float)
        rewards.append(scores.mean())
        data = [
            rollout(prompt, sequence, advantage)
            for sequence, advantage in zip(sequences, scores - scores.mean(), strict=True)
        ]
        training.forward_backward(data, "importance_sampling").result(WAIT)
        training.optim_step(types.AdamParams(learning_rate=2e-2, eps=1e-8)).result(WAIT)
    assert rewards[-1] > rewards[0] + 1, f"odd tokens of six: {rewards}"


def rollout(prompt: list[int], sequence: types.SampledSequence, advantage: float) -> types.Datum:
    """The datum of a policy loss: prompt positions carry no advantage."""
    ids = [*prompt, *sequence.tokens]
    padding = [0.0] * (len(prompt) - 1)
    assert sequence.logprobs is not None
    inputs = {
        "target_tokens": ids[1:],
        "logprobs": [*padding, *sequence.logprobs],
        "advantages": [*padding, *[float(advantage)] * len(sequence.tokens)],
    }
    return types.Datum(model_input=tokens(*ids[:-1]), loss_fn_inputs=inputs)


def test_on_policy_ratios_are_one_and_ppo_and_importance_sampling_agree(
    service: tinker.ServiceClient, stack: Stack
) -> None:
    training = client(service, stack.base_model)
    train(training, 2)
    sampler = training.save_weights_and_get_sampling_client().result(WAIT)
    sequences = (
        sampler.sample(tokens(5, 6, 7), 4, types.SamplingParams(max_tokens=8, seed=3)).result(WAIT).sequences
    )
    data = [rollout([5, 6, 7], sequence, 0.5) for sequence in sequences]
    expected = -0.5 * sum(len(sequence.tokens) for sequence in sequences)
    for loss_fn in ("importance_sampling", "ppo"):
        found = training.forward(data, loss_fn).result(WAIT)
        assert found.metrics["loss:sum"] == pytest.approx(expected, rel=1e-3)
    config = {"clip_low_threshold": 0.9, "clip_high_threshold": 0.95}
    clipped = training.forward(data, "ppo", config).result(WAIT)
    assert clipped.metrics["loss:sum"] == pytest.approx(0.95 * expected, rel=1e-3)


def test_sampled_logprobs_are_those_of_the_trainer(service: tinker.ServiceClient, stack: Stack) -> None:
    training = client(service, stack.base_model, rank=8)
    train(training, 3)
    sampler = training.save_weights_and_get_sampling_client().result(WAIT)
    params = types.SamplingParams(max_tokens=24, temperature=0.7, top_p=0.9, seed=5)
    prompt = [5, 6, 7, 8]
    for sequence in sampler.sample(tokens(*prompt), 3, params).result(WAIT).sequences:
        ids = [*prompt, *sequence.tokens]
        inputs = {"target_tokens": ids[1:], "weights": [1.0] * (len(ids) - 1)}
        datum = types.Datum(model_input=tokens(*ids[:-1]), loss_fn_inputs=inputs)
        trained = (
            training.forward([datum], "cross_entropy").result(WAIT).loss_fn_outputs[0]["logprobs"].to_numpy()
        )
        assert np.allclose(trained[len(prompt) - 1 :], sequence.logprobs, atol=1e-4)
        scored = sampler.compute_logprobs(tokens(*ids)).result(WAIT)
        assert scored[0] is None and np.allclose(scored[1:], trained, atol=1e-4)


def test_a_custom_loss_moves_the_weights_as_its_own_gradient_says(
    service: tinker.ServiceClient, stack: Stack
) -> None:
    training, plain = client(service, stack.base_model), client(service, stack.base_model)

    def negative_sum(
        data: list[types.Datum], logprobs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        return -sum(one.sum() for one in logprobs), {"sequences": float(len(data))}

    for _ in range(2):
        found = training.forward_backward_custom(batch(), negative_sum).result(WAIT)
        training.optim_step(ADAM).result(WAIT)
        expected = plain.forward_backward(batch(), "cross_entropy").result(WAIT)
        plain.optim_step(ADAM).result(WAIT)
        assert found.metrics["loss:sum"] == pytest.approx(expected.metrics["loss:sum"], rel=1e-4)
        assert found.metrics["sequences"] == 4
    assert loss(training) == pytest.approx(loss(plain), rel=1e-3)


def test_many_datums_go_in_chunks_and_add_up(service: tinker.ServiceClient, stack: Stack) -> None:
    training, halves = client(service, stack.base_model), client(service, stack.base_model)
    data = [counting(index, 2 + index % 5, weight=1e-3) for index in range(2500)]
    whole = training.forward_backward(data, "cross_entropy").result(WAIT * 2)
    training.optim_step(ADAM).result(WAIT)
    parts = [
        halves.forward_backward(data[start : start + 500], "cross_entropy") for start in range(0, 2500, 500)
    ]
    halves.optim_step(ADAM).result(WAIT)
    losses = [part.result(WAIT).metrics["loss:sum"] for part in parts]
    assert whole.metrics["loss:sum"] == pytest.approx(sum(losses), rel=1e-5)
    assert [len(output["logprobs"].tolist()) for output in whole.loss_fn_outputs] == [
        2 + i % 5 for i in range(2500)
    ]
    assert loss(training) == pytest.approx(loss(halves), rel=1e-4)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_soft_targets_are_taken_dense_and_sparse(training: tinker.TrainingClient) -> None:
    targets, weights = torch.zeros(3, 30, dtype=torch.int64), torch.zeros(3, 30)
    targets[0, 0], targets[1, :2], weights[0, 0] = 7, torch.tensor([8, 9]), 1.0
    weights[1, :3] = torch.tensor(
        [0.25, 0.5, 0.25]
    )  # the third weighs token 0, which the targets do not list
    dense = types.TensorData.from_torch
    forms = (
        {"target_tokens": dense(targets), "weights": dense(weights)},
        {"target_tokens": targets, "weights": weights},  # sent as CSR, being smaller so
        {"target_tokens": dense(targets), "weights": weights},
    )
    data = [types.Datum(model_input=tokens(5, 6, 7), loss_fn_inputs=form) for form in forms]
    results = [training.forward([datum], "cross_entropy").result(WAIT) for datum in data]
    logprobs = np.reshape(results[0].loss_fn_outputs[0]["logprobs"].to_numpy(), (3, 30))
    expected = -(weights.numpy() * logprobs).sum()
    assert [result.metrics["loss:sum"] for result in results] == pytest.approx([expected] * 3, rel=1e-5)


def test_a_mistake_fails_its_own_future_and_the_loop_goes_on(training: tinker.TrainingClient) -> None:
    good = training.forward(batch(), "cross_entropy")
    bad = training.forward(batch(), "hinge")  # type: ignore[arg-type]
    after = training.forward(batch(), "cross_entropy")
    with pytest.raises(tinker.RequestFailedError, match="hinge") as failed:
        bad.result(WAIT)
    assert failed.value.category == types.RequestErrorCategory.User
    assert after.result(WAIT).metrics["loss:sum"] == pytest.approx(good.result(WAIT).metrics["loss:sum"])


def test_an_unknown_base_model_fails_at_once(service: tinker.ServiceClient) -> None:
    with pytest.raises(tinker.RequestFailedError, match="is not served"):
        service.create_lora_training_client("gpt-5", rank=4).result(WAIT)


def test_a_step_without_gradient_changes_nothing(service: tinker.ServiceClient, stack: Stack) -> None:
    training = client(service, stack.base_model)
    before = loss(training)
    training.optim_step(ADAM).result(WAIT)
    assert loss(training) == pytest.approx(before, rel=1e-6)


def test_two_clients_train_at_once_and_do_not_mix(service: tinker.ServiceClient, stack: Stack) -> None:
    alone = train(client(service, stack.base_model, rank=4, seed=11), 4)
    pair = [client(service, stack.base_model, rank=rank, seed=seed) for rank, seed in ((4, 11), (8, 12))]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda training: train(training, 4), pair))
    assert np.allclose(alone, together[0], rtol=1e-3)
    assert not np.allclose(together[0], together[1], rtol=1e-3)
