"""Mistakes in sampling commands: a failed future under the number where it can be read, else a 4xx."""

from typing import Any

import pytest

from tests.gateway.wire import PROTOBUF, Wire

LONG = 10**6
TEXT = {"type": "encoded_text", "tokens": [5, 6, 7]}


@pytest.fixture(scope="module")
def sampler(wire: Wire) -> str:
    return wire.sampler()


def request(sampler: str, number: Any, **changes: Any) -> dict[str, Any]:
    """A sample of two tokens; changes to the parameters go by `params`."""
    params = {"max_tokens": 2, **changes.pop("params", {})}
    prompt = {"chunks": [TEXT]}
    asked = {"sampling_session_id": sampler, "seq_id": number, "prompt": prompt, "sampling_params": params}
    return {**asked, **changes}


def prompt(*chunks: object) -> dict[str, Any]:
    return {"prompt": {"chunks": list(chunks)}}


def params(**values: Any) -> dict[str, Any]:
    return {"params": values}


def targets(**values: Any) -> dict[str, Any]:
    return {"target_prompt_logprobs": {"dtype": "int64", "shape": [2, 1], "data": [1, 2], **values}}


BAD_SAMPLES = {
    "no prompt": {"prompt": None},
    "prompt as text": {"prompt": "hello"},
    "no chunks": prompt(),
    "only empty chunks": prompt({"type": "encoded_text", "tokens": []}),
    "token beyond the vocabulary": prompt({"type": "encoded_text", "tokens": [10**6]}),
    "token beyond 32 bits": prompt({"type": "encoded_text", "tokens": [2**40]}),
    "token below zero": prompt({"type": "encoded_text", "tokens": [-1]}),
    "token as fraction": prompt({"type": "encoded_text", "tokens": [1.5]}),
    "token as text": prompt({"type": "encoded_text", "tokens": ["a"]}),
    "longer than the context": prompt({"type": "encoded_text", "tokens": [5] * 1000}),
    "an image": prompt({"type": "image", "data": "aGk=", "format": "png"}),
    "unknown chunk": prompt({"type": "video"}),
    "chunk without type": prompt({"tokens": [1]}),
    "no parameters": {"sampling_params": None},
    "no tokens": params(max_tokens=0),
    "tokens below zero": params(max_tokens=-1),
    "negative temperature": params(temperature=-1),
    "temperature as text": params(temperature="hot"),
    "top_p of 0": params(top_p=0),
    "top_p above 1": params(top_p=1.5),
    "top_k of 0": params(top_k=0),
    "unknown parameter": params(min_p=0.5),
    "seed beyond 64 bits": params(seed=2**64),
    "stop of two sorts": params(stop=["a", 5]),
    "empty stop text": params(stop=[""]),
    "stop as number": params(stop=5),
    "a thousand stops": params(stop=["a"] * 1000),
    "no samples": {"num_samples": 0},
    "too many samples": {"num_samples": 10**6},
    "samples as flag": {"num_samples": [1]},
    "top-k above the vocabulary": {"topk_sample_logprobs": 1000},
    "absurd top-k": {"topk_prompt_logprobs": 10**9},
    "last n without logprobs": {"prompt_logprobs_last_n": 1},
    "last n beyond the prompt": {"prompt_logprobs": True, "prompt_logprobs_last_n": 50},
    "unknown field": {"penalty": 1.5},
    "targets of other length": targets(shape=[5, 1], data=[1] * 5),
    "targets that do not fit": targets(data=[1]),
    "targets beyond the vocabulary": targets(data=[1, 10**6]),
    "targets of another type": targets(dtype="float32"),
    "targets of huge shape": targets(shape=[2, 2**62]),
    "sparse targets out of range": targets(data=[1], sparse_crow_indices=[0, 1, 1], sparse_col_indices=[7]),
}


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_a_bad_sample_fails_under_its_number(wire: Wire, sampler: str, case: str) -> None:
    number = 100 + list(BAD_SAMPLES).index(case)
    answer = wire.ok("/asample", request(sampler, number, **BAD_SAMPLES[case]))
    assert answer["sample_sequence_ids"]
    failure = wire.failure(answer["request_id"])
    assert failure["category"] == "user" and ":" in failure["error"]


def test_after_all_bad_samples_the_sampler_goes_on(wire: Wire, sampler: str) -> None:
    answer = wire.ok("/asample", request(sampler, 1, num_samples=3))
    assert len(answer["sample_sequence_ids"]) == 3
    assert wire.result(answer["request_id"]).headers["content-type"] == PROTOBUF


@pytest.mark.parametrize("number", [None, -1, 1.5, "1", True, 2**63])
def test_a_number_that_cannot_be_read_is_refused(wire: Wire, sampler: str, number: object) -> None:
    answer = wire.post("/asample", request(sampler, number))
    assert answer.status_code == 400 and answer.json()["detail"].startswith("seq_id:")


def test_numbers_of_clones_fill_64_bits(wire: Wire, sampler: str) -> None:
    for number in (2**31 + 5, 999_999_999 * 10**9 + 3, 2**63 - 1):
        answer = wire.ok("/asample", request(sampler, number))
        assert wire.result(answer["request_id"]).headers["content-type"] == PROTOBUF


@pytest.mark.parametrize("sampler_id", ["x", "*", ">", "a/b", "a.b", "é", "x" * 200, "..", " ", "\0"])
def test_an_unknown_sampler_is_not_found(wire: Wire, sampler_id: str) -> None:
    assert wire.post("/asample", request(sampler_id, 1)).status_code == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"base_model": "gpt-5"}, 400),
        ({"base_model": ""}, 400),
        ({"base_model": None}, 400),
        ({"session_id": "nobody"}, 404),
        ({"session_id": None}, 400),
        ({"sampling_session_seq_id": -1}, 400),
        ({"sampling_session_seq_id": None}, 400),
        ({"model_path": "tinker://a/weights/b"}, 404),
        ({"model_path": "/etc/passwd"}, 400),
        ({"model_path": "tinker://a/../b"}, 400),
        ({"model_path": 5}, 400),
    ],
)
def test_a_bad_sampling_session_is_refused(wire: Wire, change: dict[str, object], status: int) -> None:
    body = {"session_id": wire.session(), "sampling_session_seq_id": 0, "base_model": wire.base_model}
    answer = wire.post("/create_sampling_session", {**body, **change})
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]


def test_a_prompt_of_many_megabytes_is_refused_while_others_are_served(wire: Wire, sampler: str) -> None:
    body = request(sampler, 5000, **prompt({"type": "encoded_text", "tokens": [5] * (4 * LONG)}))
    answer = wire.ok("/asample", body)
    assert "context" in wire.failure(answer["request_id"])["error"]
