"""What this server does not offer fails soon and clearly in the SDK, instead of being retried for minutes."""

import time
from collections.abc import Callable

import pytest
import tinker
from tinker import types

from tests.e2e.loops import WAIT, client, tokens, train
from tests.stack import Stack

CALLS: dict[str, Callable[[tinker.RestClient], object]] = {
    "copy_weights": lambda rest: rest.copy_weights("tinker://x:train:0/weights/a", "project"),
    "search_sessions": lambda rest: rest.search_sessions(types.SessionSearchRequest()),
    "assign_session_project": lambda rest: rest.assign_session_project("x", "y"),
    "export_session_trace": lambda rest: rest.export_session_trace("x"),
    "get_sampler": lambda rest: rest.get_sampler("nobody"),
    "get_training_run": lambda rest: rest.get_training_run("nobody"),
    "get_session": lambda rest: rest.get_session("nobody"),
}


@pytest.mark.filterwarnings("ignore::tinker.ExperimentalWarning")
@pytest.mark.parametrize("call", CALLS)
def test_it_fails_soon_with_a_reason(rest: tinker.RestClient, call: str) -> None:
    started = time.monotonic()
    with pytest.raises(tinker.APIStatusError) as failed:
        CALLS[call](rest).result(WAIT)  # type: ignore[attr-defined]
    assert failed.value.status_code in (400, 404, 405)
    assert "detail" in str(failed.value)
    assert time.monotonic() - started < 20


def test_another_optimizer_is_refused_at_creation(service: tinker.ServiceClient, stack: Stack) -> None:
    with pytest.raises(tinker.RequestFailedError, match="adamw") as failed:
        service.create_lora_training_client(
            stack.base_model, rank=4, optimizer=types.DimuonOptimizerConfig()
        ).result(WAIT)
    assert failed.value.category == types.RequestErrorCategory.User


def test_encrypted_exports_are_refused(service: tinker.ServiceClient, stack: Stack) -> None:
    training = client(service, stack.base_model)
    with pytest.raises(tinker.RequestFailedError, match="encryption"):
        training.save_weights_external("x", age_encryption_recipients=["age1xyz"]).result(WAIT)
    assert train(training, 1)


def test_inflight_samplers_move_on_with_the_weights(service: tinker.ServiceClient, stack: Stack) -> None:
    training = client(service, stack.base_model)
    early = training.save_weights_and_get_sampling_client(kind="inflight").result(WAIT)
    frozen = training.save_weights_and_get_sampling_client().result(WAIT)
    before = early.compute_logprobs(tokens(5, 6, 7)).result(WAIT)[1:]
    train(training, 3)
    late = training.save_weights_and_get_sampling_client(kind="inflight").result(WAIT)
    after = late.compute_logprobs(tokens(5, 6, 7)).result(WAIT)[1:]
    assert after != pytest.approx(before, abs=1e-3)
    assert early.compute_logprobs(tokens(5, 6, 7)).result(WAIT)[1:] == pytest.approx(after, abs=1e-5)
    assert frozen.compute_logprobs(tokens(5, 6, 7)).result(WAIT)[1:] == pytest.approx(before, abs=1e-5)


def test_a_sampler_is_handed_over_by_its_handle(service: tinker.ServiceClient, stack: Stack) -> None:
    sampler = service.create_sampling_client(base_model=stack.base_model).result(WAIT)
    other = tinker.SamplingClient.from_sampler_handle(sampler.get_sampler_handle(), api_key="tml-local")
    scores = sampler.compute_logprobs(tokens(5, 6, 7)).result(WAIT)
    assert other.compute_logprobs(tokens(5, 6, 7)).result(WAIT)[1:] == pytest.approx(scores[1:])
