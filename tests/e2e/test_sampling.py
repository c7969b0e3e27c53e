"""Sampling through the SDK: scores, alternatives, stops, many at once."""

import pickle

import numpy as np
import pytest
import tinker
import torch
from tinker import types
from transformers import AutoModelForCausalLM

from tests.e2e.loops import WAIT, tokens
from tests.stack import Stack

PROMPT = [5, 6, 7, 8, 9, 10, 11]
N = len(PROMPT)


@pytest.fixture(scope="module")
def sampler(service: tinker.ServiceClient, stack: Stack) -> tinker.SamplingClient:
    return service.create_sampling_client(base_model=stack.base_model).result(WAIT)


@pytest.fixture(scope="module")
def logprobs_N_V(stack: Stack) -> np.ndarray:
    """What plain transformers says after each token of the prompt."""
    model = AutoModelForCausalLM.from_pretrained(stack.base_model, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([PROMPT])).logits.log_softmax(-1)[0].numpy()


def params(**values: object) -> types.SamplingParams:
    return types.SamplingParams(**{"max_tokens": 8, "temperature": 1.0, **values})  # type: ignore[arg-type]


def test_prompt_logprobs_are_those_of_plain_transformers(
    sampler: tinker.SamplingClient, logprobs_N_V: np.ndarray
) -> None:
    expected = [logprobs_N_V[i, PROMPT[i + 1]] for i in range(N - 1)]
    found = sampler.compute_logprobs(tokens(*PROMPT)).result(WAIT)
    assert found[0] is None and np.allclose(found[1:], expected, atol=1e-4)
    last = sampler.compute_logprobs(tokens(*PROMPT), prompt_logprobs_last_n=2).result(WAIT)
    assert last[:-2] == [None] * (N - 2) and np.allclose(last[-2:], expected[-2:], atol=1e-4)


def test_top_k_of_prompt_and_sample_are_sorted_and_right(
    sampler: tinker.SamplingClient, logprobs_N_V: np.ndarray
) -> None:
    answer = sampler.sample(
        tokens(*PROMPT),
        2,
        params(seed=1),
        include_prompt_logprobs=True,
        topk_prompt_logprobs=3,
        topk_sample_logprobs=2,
    ).result(WAIT)
    topk = answer.topk_prompt_logprobs_np
    assert topk is not None and topk.token_ids.shape == (N, 3)
    for row in range(1, N):
        best = np.argsort(-logprobs_N_V[row - 1])[:3]
        assert np.allclose(topk.logprobs[row], logprobs_N_V[row - 1][best], atol=1e-4)
    for sequence in answer.sequences:
        assert sequence.topk_logprobs_np is not None
        assert sequence.topk_logprobs_np.logprobs.shape == (len(sequence.tokens), 2)
        assert (np.diff(sequence.topk_logprobs_np.logprobs, axis=1) <= 0).all()
    assert np.allclose(
        answer.sequences[0].topk_logprobs_np.logprobs[0], -np.sort(-logprobs_N_V[-1])[:2], atol=1e-4
    )


def test_target_logprobs_come_back_in_the_layout_they_were_asked_in(
    sampler: tinker.SamplingClient, logprobs_N_V: np.ndarray
) -> None:
    targets = np.full((N - 1, 2), -1, np.int64)
    targets[0, 0], targets[3, 1], targets[5] = 9, 12, (20, 21)
    expected = np.where(targets >= 0, np.take_along_axis(logprobs_N_V[:-1], targets.clip(0), 1), 0.0)
    dense = types.TensorData.from_numpy(targets)
    found = sampler.sample(tokens(*PROMPT), 1, params(), target_prompt_logprobs=dense).result(WAIT)
    assert found.target_prompt_logprobs is not None
    assert np.allclose(np.reshape(found.target_prompt_logprobs.to_numpy(), (N - 1, 2)), expected, atol=1e-4)
    listed = targets >= 0
    crow = [0, *np.cumsum(listed.sum(1)).tolist()]
    sparse = types.TensorData(
        data=targets[listed], dtype="int64", shape=[N - 1, 2],
        sparse_crow_indices=crow, sparse_col_indices=np.nonzero(listed)[1].tolist(),
    )  # fmt: skip
    found = sampler.sample(tokens(*PROMPT), 1, params(), target_prompt_logprobs=sparse).result(WAIT)
    assert (
        found.target_prompt_logprobs is not None and found.target_prompt_logprobs.sparse_crow_indices == crow
    )
    assert np.allclose(found.target_prompt_logprobs.data, expected[listed], atol=1e-4)


def test_alternatives_are_draws_with_their_own_logprobs(
    sampler: tinker.SamplingClient, logprobs_N_V: np.ndarray
) -> None:
    answer = (
        sampler.sample(tokens(*PROMPT), 1, params(), prompt_alt_tokens_k=4).result(WAIT).prompt_alt_tokens
    )
    assert answer is not None
    ids, logprobs = (np.reshape(part.to_numpy(), (N - 1, 4)) for part in (answer.tokens, answer.logprobs))
    assert np.allclose(logprobs, np.take_along_axis(logprobs_N_V[:-1], ids, 1), atol=1e-4)


def test_greedy_sampling_takes_the_likeliest_tokens(
    sampler: tinker.SamplingClient, logprobs_N_V: np.ndarray
) -> None:
    answer = sampler.sample(tokens(*PROMPT), 2, params(temperature=0.0)).result(WAIT)
    assert answer.sequences[0].tokens == answer.sequences[1].tokens
    assert answer.sequences[0].tokens[0] == int(logprobs_N_V[-1].argmax())
    assert answer.sequences[0].sequence_id != answer.sequences[1].sequence_id


def test_a_seed_repeats_and_its_samples_differ(sampler: tinker.SamplingClient) -> None:
    first, again, other = (
        [
            s.tokens
            for s in sampler.sample(tokens(*PROMPT), 6, params(seed=seed, stop=[])).result(WAIT).sequences
        ]
        for seed in (7, 7, 8)
    )
    assert first == again != other
    assert len({tuple(found) for found in first}) > 1


def test_stops_of_every_form_end_a_sample_and_are_part_of_it(sampler: tinker.SamplingClient) -> None:
    tokenizer = sampler.get_tokenizer()

    def sample(**values: object) -> types.SampledSequence:
        return (
            sampler.sample(tokens(*PROMPT), 1, params(seed=3, max_tokens=30, **values))
            .result(WAIT)
            .sequences[0]
        )

    free = sample(stop=[])
    assert free.stop_reason == "length" and len(free.tokens) == 30
    by_token = sample(stop=[free.tokens[4]])
    assert (
        by_token.stop_reason == "stop"
        and by_token.tokens == free.tokens[: free.tokens.index(free.tokens[4]) + 1]
    )
    text = tokenizer.decode(free.tokens[:6])[-2:]
    for stop in (text, [text], [text, "\0never"]):
        by_text = sample(stop=stop)
        assert by_text.stop_reason == "stop" and text in tokenizer.decode(by_text.tokens)
        assert text not in tokenizer.decode(by_text.tokens[:-1])
    default = sample()
    ends = default.tokens[-1] == tokenizer.eos_token_id
    assert default.stop_reason == ("stop" if ends else "length")


def test_without_a_limit_a_sample_fills_the_context(sampler: tinker.SamplingClient) -> None:
    answer = sampler.sample(tokens(*PROMPT), 1, params(max_tokens=None, stop=[])).result(WAIT)
    assert len(answer.sequences[0].tokens) == 512 - N and answer.sequences[0].stop_reason == "length"


def test_empty_parts_of_a_prompt_are_nothing(sampler: tinker.SamplingClient) -> None:
    chunks = [types.EncodedTextChunk(tokens=part) for part in (PROMPT[:3], [], PROMPT[3:], [])]
    parts = types.ModelInput(chunks=chunks)
    whole = sampler.compute_logprobs(tokens(*PROMPT)).result(WAIT)
    assert sampler.compute_logprobs(parts).result(WAIT)[1:] == pytest.approx(whole[1:])


def test_two_hundred_samples_at_once_all_come_back(sampler: tinker.SamplingClient) -> None:
    futures = [
        sampler.sample(tokens(*PROMPT[: 1 + i % N]), 1, params(max_tokens=1 + i % 8, seed=i, stop=[]))
        for i in range(200)
    ]
    lengths = [len(future.result(WAIT).sequences[0].tokens) for future in futures]
    assert lengths == [1 + i % 8 for i in range(200)]


def test_a_pickled_copy_samples_under_its_own_numbers(sampler: tinker.SamplingClient) -> None:
    copy = pickle.loads(pickle.dumps(sampler))
    answer = copy.sample(tokens(*PROMPT), 1, params(seed=7)).result(WAIT)
    assert (
        answer.sequences[0].tokens
        == sampler.sample(tokens(*PROMPT), 1, params(seed=7)).result(WAIT).sequences[0].tokens
    )


def test_a_bad_sample_fails_with_the_field(sampler: tinker.SamplingClient) -> None:
    with pytest.raises(tinker.RequestFailedError, match="expected a token id"):
        sampler.sample(tokens(10**6), 1, params()).result(WAIT)
    with pytest.raises(tinker.RequestFailedError, match="context length"):
        sampler.compute_logprobs(tokens(*[5] * 1000)).result(WAIT)


def test_an_unknown_model_or_path_cannot_be_sampled(service: tinker.ServiceClient) -> None:
    with pytest.raises(tinker.BadRequestError, match="not served"):
        service.create_sampling_client(base_model="gpt-5").result(WAIT)
    with pytest.raises(tinker.NotFoundError):
        service.create_sampling_client(model_path="tinker://x:train:0/weights/a").result(WAIT)
