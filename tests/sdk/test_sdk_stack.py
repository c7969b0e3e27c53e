"""The SDK against the real stack, and beside the `tinker` SDK: the same numbers from the same seed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tinker

from rekindle import (
    AdamParams,
    BadRequest,
    Datum,
    ModelInput,
    NotFound,
    RequestFailed,
    SamplingParams,
    ServiceClient,
    TrainingClient,
)
from tests.e2e.conftest import connected
from tests.e2e.loops import counting
from tests.stack import Stack

WAIT = 120.0
ADAM = {"learning_rate": 1e-2, "eps": 1e-8}
PROMPT = [5, 6, 7, 8]


def data() -> list[Datum]:
    """The batch of `tests.e2e.loops`, in this SDK's words."""
    return [from_tinker(counting(7 * index, 6 + index)) for index in range(4)]


def from_tinker(datum: tinker.Datum) -> Datum:
    arrays = {name: tensor.to_numpy() for name, tensor in datum.loss_fn_inputs.items()}
    return Datum(ModelInput.from_ints(datum.model_input.to_ints()), arrays)


def train(training: TrainingClient, steps: int) -> list[float]:
    """The loss of each step; all are submitted before the first is awaited."""
    futures = []
    for _ in range(steps):
        futures.append(training.forward_backward(data(), "cross_entropy"))
        training.optim_step(AdamParams(**ADAM))
    return [future.result(WAIT).metrics["loss:sum"] for future in futures]


def client(service: ServiceClient, stack: Stack, seed: int = 1) -> TrainingClient:
    return service.create_lora_training_client(stack.base_model, rank=4, seed=seed).result(WAIT)


@pytest.fixture(scope="module")
def beside(stack: Stack) -> Iterator[tinker.ServiceClient]:
    """The other SDK on the same server."""
    with connected(stack.url) as service:
        yield service


def test_both_clients_train_to_the_same_losses(
    rekindled: ServiceClient, beside: tinker.ServiceClient, stack: Stack
) -> None:
    ours = train(client(rekindled, stack), 4)
    theirs = beside.create_lora_training_client(stack.base_model, rank=4, seed=1).result(WAIT)
    losses = []
    for _ in range(4):
        batch = [counting(7 * index, 6 + index) for index in range(4)]
        losses.append(theirs.forward_backward(batch, "cross_entropy").result(WAIT).metrics["loss:sum"])
        theirs.optim_step(tinker.AdamParams(**ADAM)).result(WAIT)
    assert ours == pytest.approx(losses, rel=1e-5)
    assert ours[-1] < ours[0]


def test_both_clients_sample_the_same_tokens_and_scores(
    rekindled: ServiceClient, beside: tinker.ServiceClient, stack: Stack
) -> None:
    ours = rekindled.create_sampling_client(stack.base_model).result(WAIT)
    theirs = beside.create_sampling_client(base_model=stack.base_model).result(WAIT)
    options = {"include_prompt_logprobs": True, "topk_prompt_logprobs": 2, "topk_sample_logprobs": 3}
    found = ours.sample(PROMPT, 3, SamplingParams(max_tokens=8, seed=5), **options).result(WAIT)  # type: ignore[arg-type]
    said = theirs.sample(
        tinker.ModelInput.from_ints(PROMPT), 3, tinker.SamplingParams(max_tokens=8, seed=5), **options
    ).result(WAIT)  # type: ignore[arg-type]
    for one, other in zip(found.sequences, said.sequences, strict=True):
        assert one.tokens == other.tokens and one.stop_reason == other.stop_reason
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert one.topk is not None and one.topk.logprobs.shape == (len(one.tokens), 3)
    assert found.prompt_logprobs is not None and found.prompt_logprobs[0] is None
    assert found.prompt_logprobs[1:] == pytest.approx(said.prompt_logprobs[1:], abs=1e-5)
    assert found.topk_prompt is not None and found.topk_prompt.token_ids.shape == (len(PROMPT), 2)
    scores = ours.compute_logprobs(PROMPT).result(WAIT)
    assert scores[1:] == pytest.approx(found.prompt_logprobs[1:], abs=1e-5)


def test_given_targets_and_alternatives_are_scored(rekindled: ServiceClient, stack: Stack) -> None:
    sampler = rekindled.create_sampling_client(stack.base_model).result(WAIT)
    targets = np.full((len(PROMPT) - 1, 2), -1)
    targets[:, 0] = PROMPT[1:]
    found = sampler.sample(
        PROMPT, 1, SamplingParams(max_tokens=1), target_prompt_logprobs=targets, prompt_alt_tokens_k=3
    ).result(WAIT)
    scores = sampler.compute_logprobs(PROMPT).result(WAIT)
    assert found.target_prompt_logprobs is not None and found.prompt_alt_tokens is not None
    assert found.target_prompt_logprobs[:, 0] == pytest.approx(scores[1:], abs=1e-5)
    assert not found.target_prompt_logprobs[:, 1].any()
    assert found.prompt_alt_tokens.tokens.shape == (len(PROMPT) - 1, 3)


def test_a_loop_of_samples_and_steps_runs_asynchronously(rekindled: ServiceClient, stack: Stack) -> None:
    async def loop() -> list[float]:
        training = await rekindled.create_lora_training_client(stack.base_model, rank=4, seed=2)
        rewards = []
        for step in range(4):
            sampler = await training.save_weights_and_get_sampling_client()
            group = (
                await sampler.sample(PROMPT, 8, SamplingParams(max_tokens=4, seed=step, stop=()))
            ).sequences
            scores = [sum(token % 2 for token in sequence.tokens) for sequence in group]
            mean, pad = sum(scores) / len(scores), [0.0] * (len(PROMPT) - 1)
            batch = [
                Datum(
                    ModelInput.from_ints(PROMPT + sequence.tokens[:-1]),
                    {
                        "target_tokens": PROMPT[1:] + sequence.tokens,
                        "logprobs": pad + sequence.logprobs,
                        "advantages": pad + [score - mean] * len(sequence.tokens),
                    },
                )
                for sequence, score in zip(group, scores, strict=True)
            ]
            gradient = training.forward_backward(batch, "importance_sampling")
            await asyncio.gather(gradient, training.optim_step(AdamParams(learning_rate=2e-2)))
            rewards.append(mean)
        return rewards

    assert all(0 <= reward <= 4 for reward in asyncio.run(loop()))


def test_going_on_from_a_state_equals_never_having_stopped(rekindled: ServiceClient, stack: Stack) -> None:
    training = client(rekindled, stack)
    train(training, 2)
    path = training.save_state("sdk-middle", ttl_seconds=3600).result(WAIT).path
    resumed = rekindled.create_training_client_from_state_with_optimizer(path).result(WAIT)
    fresh = rekindled.create_training_client_from_state(path).result(WAIT)
    after = train(training, 2)
    assert train(resumed, 2) == pytest.approx(after, rel=1e-6)
    assert train(fresh, 2)[0] == pytest.approx(after[0], rel=1e-6)
    training.load_state_with_optimizer(path).result(WAIT)
    assert train(training, 2) == pytest.approx(after, rel=1e-6)
    assert resumed.get_info().result(WAIT).lora_rank == 4


def test_named_weights_are_sampled_listed_changed_and_deleted(rekindled: ServiceClient, stack: Stack) -> None:
    training = client(rekindled, stack)
    path = training.save_weights_for_sampler("sdk-named").result(WAIT).path
    assert path is not None
    sampler = training.create_sampling_client(path).result(WAIT)
    assert sampler.get_base_model() == stack.base_model
    checkpoints = rekindled.checkpoints
    assert checkpoints.info(path).result(WAIT).lora_rank == 4
    checkpoints.publish(path).result(WAIT)
    checkpoints.set_ttl(path, 7200).result(WAIT)
    found = checkpoints.get(path).result(WAIT)
    assert found.public and found.expires_at is not None and found.checkpoint_type == "sampler"
    checkpoints.unpublish(path).result(WAIT)
    checkpoints.set_ttl(path, None).result(WAIT)
    found = checkpoints.get(path).result(WAIT)
    assert not found.public and found.expires_at is None
    assert path in [one.tinker_path for one in checkpoints.list(limit=None).result(WAIT)]
    assert [one.tinker_path for one in rekindled.runs.checkpoints(training.model_id).result(WAIT)] == [path]
    checkpoints.delete(path).result(WAIT)
    with pytest.raises(NotFound):
        checkpoints.get(path).result(WAIT)


def test_an_adapter_is_downloaded_from_a_run_and_from_a_checkpoint(
    rekindled: ServiceClient, stack: Stack, tmp_path: Path
) -> None:
    training = client(rekindled, stack)
    train(training, 1)
    seen: list[int] = []
    files = training.download(tmp_path / "run", progress=lambda done, total: seen.append(done)).result(WAIT)
    assert [file.name for file in files] == ["adapter_config.json", "adapter_model.safetensors"]
    assert seen[-1] == sum(file.stat().st_size for file in files)
    path = training.save_state("sdk-download").result(WAIT).path
    again = rekindled.checkpoints.download(path, tmp_path / "checkpoint").result(WAIT)
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]
    assert not [file for file in tmp_path.rglob("*") if file.name.startswith(".")]


def test_runs_are_listed_by_pages_and_found(rekindled: ServiceClient, stack: Stack) -> None:
    metadata = {"purpose": "listing"}
    training = rekindled.create_lora_training_client(stack.base_model, rank=4, user_metadata=metadata).result(
        WAIT
    )
    newest = rekindled.runs.list(limit=2).result(WAIT)
    assert len(newest) == 2 and newest[0].training_run_id == training.model_id
    assert rekindled.runs.list(limit=1, offset=1).result(WAIT) == newest[1:]
    assert rekindled.runs.get(training.model_id).result(WAIT).user_metadata == metadata
    with pytest.raises(NotFound):
        rekindled.runs.get("nobody").result(WAIT)


def test_what_is_wrong_fails_clearly_and_the_run_goes_on(rekindled: ServiceClient, stack: Stack) -> None:
    training = client(rekindled, stack)
    with pytest.raises(RequestFailed, match="is not served") as failed:
        rekindled.create_lora_training_client("gpt-5").result(WAIT)
    assert failed.value.category == "user"
    with pytest.raises(BadRequest, match="not served"):
        rekindled.create_sampling_client("gpt-5").result(WAIT)
    short = Datum(PROMPT, {"target_tokens": PROMPT[:2], "weights": [1, 1]})
    bad, good = training.forward_backward([short], "cross_entropy"), training.forward(data(), "cross_entropy")
    with pytest.raises(RequestFailed, match="rows, expected 4"):
        bad.result(WAIT)
    assert good.result(WAIT).metrics["loss:sum"] > 0
    sampler = training.save_weights_and_get_sampling_client().result(WAIT)
    with pytest.raises(RequestFailed, match="context length"):
        sampler.compute_logprobs([5] * 1000).result(WAIT)


def test_hundreds_of_samples_in_flight_all_come_back(rekindled: ServiceClient, stack: Stack) -> None:
    sampler = rekindled.create_sampling_client(stack.base_model).result(WAIT)
    futures = [
        sampler.sample(PROMPT, 1, SamplingParams(max_tokens=1 + index % 8, seed=index, stop=()))
        for index in range(300)
    ]
    assert [len(future.result(WAIT).sequences[0].tokens) for future in futures] == [
        1 + index % 8 for index in range(300)
    ]


def test_a_tokenizer_comes_from_the_base_model(rekindled: ServiceClient, stack: Stack) -> None:
    tokenizer = client(rekindled, stack).get_tokenizer()
    assert tokenizer.decode(tokenizer.encode("What is 1 + 2?")) == "What is 1 + 2?"
