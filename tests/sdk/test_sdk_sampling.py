"""Sampling: results as people use them, servers that push back, samples that get lost."""

import asyncio
import sys

import httpx
import pytest

from rekindle import (
    Gone,
    InvalidField,
    ModelInput,
    SampledSequence,
    SamplingClient,
    SamplingParams,
    ServiceClient,
    sampling,
    tokenizers,
)
from tests.sdk.fake_server import FakeServer, always


@pytest.fixture
def sampler(fake: FakeServer, faked: ServiceClient) -> SamplingClient:
    return faked.create_sampling_client(base_model="base").result(10)


def test_a_sample_has_tokens_logprobs_reason_and_id(fake: FakeServer, sampler: SamplingClient) -> None:
    found = sampler.sample(ModelInput.from_ints([5, 6]), 2, SamplingParams(max_tokens=4)).result(10)
    assert found.sequences == [
        SampledSequence([7, 2], [-0.5, -0.25], "stop", f"s1:sample:0:0:{index}") for index in range(2)
    ]
    assert found.prompt_logprobs == [None, -1.5]
    assert sampler.compute_logprobs([5, 6]).result(10) == [None, -1.5]
    first, second = fake.bodies("/asample")
    assert (first["seq_id"], first["num_samples"], first["sampling_params"]["max_tokens"]) == (0, 2, 4)
    assert (second["seq_id"], second["prompt_logprobs"], second["sampling_params"]["max_tokens"]) == (
        1,
        True,
        1,
    )


def test_many_samples_are_in_flight_at_once(fake: FakeServer, sampler: SamplingClient) -> None:
    async def all_of_them() -> list[object]:
        return await asyncio.gather(*(sampler.sample([5, 6]) for _ in range(300)))

    assert len(asyncio.run(all_of_them())) == 300
    assert sorted(body["seq_id"] for body in fake.bodies("/asample")) == list(range(300))


def test_a_server_that_pushes_back_gets_the_same_sample_later(
    fake: FakeServer, sampler: SamplingClient
) -> None:
    fake.trouble["/asample"] = always(429, times=3, **{"retry-after": "0.1"})
    assert sampler.sample([5, 6]).result(10).sequences
    assert [body["seq_id"] for body in fake.bodies("/asample")] == [0] * 4


def test_a_sample_that_the_server_lost_is_asked_for_under_a_new_number(
    fake: FakeServer, sampler: SamplingClient
) -> None:
    fake.trouble["/retrieve_future"] = always(410, times=2)
    found = sampler.sample([5, 6]).result(10)
    assert found.sequences[0].sequence_id == "s1:sample:0:2:0"
    assert [body["seq_id"] for body in fake.bodies("/asample")] == [0, 1, 2]


def test_a_server_that_loses_everything_is_not_asked_for_ever(
    fake: FakeServer, sampler: SamplingClient
) -> None:
    fake.trouble["/retrieve_future"] = always(410, times=1000)
    with pytest.raises(Gone):
        sampler.sample([5, 6]).result(10)
    assert len(fake.bodies("/asample")) == sampling.MOST_LOSSES + 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"num_samples": 0}, "num_samples"),
        ({"prompt": [[1, 2], [3]]}, "^prompt: "),
        ({"prompt": [0.5]}, "^prompt: "),
        ({"prompt": [-1]}, r"prompt\[0\]"),
        ({"target_prompt_logprobs": [1, 2]}, "target_prompt_logprobs"),
        ({"topk_prompt_logprobs": -1}, "topk_prompt_logprobs"),
    ],
)
def test_a_wrong_argument_is_named_at_once(
    sampler: SamplingClient, options: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidField, match=field):
        sampler.sample(**{"prompt": [5, 6], **options})  # type: ignore[arg-type]


def test_an_answer_with_too_few_samples_is_an_error(fake: FakeServer, sampler: SamplingClient) -> None:
    fake.trouble["/asample"] = lambda _: httpx.Response(
        200, json={"request_id": "s1:sample:0:9", "sample_sequence_ids": ["a", "b"]}
    )
    fake._sample({"sampling_session_id": "s1:sample:0", "seq_id": 9, "num_samples": 1})
    with pytest.raises(InvalidField, match="sequences: 1, but 2 ids"):
        sampler.sample([5, 6]).result(10)


def test_neither_a_model_nor_a_checkpoint_is_refused_at_once(faked: ServiceClient) -> None:
    with pytest.raises(InvalidField, match="base_model"):
        faked.create_sampling_client()
    with pytest.raises(InvalidField, match="model_path"):
        faked.create_sampling_client(model_path="my/checkpoint")


def test_a_missing_transformers_says_what_to_install(
    sampler: SamplingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    tokenizers.load_tokenizer.cache_clear()
    with pytest.raises(ImportError, match="pip install transformers"):
        sampler.get_tokenizer()
