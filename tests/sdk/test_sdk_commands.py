"""Numbers, order and parts: no command is lost, doubled or overtaken, whatever happens to its answer."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from rekindle import (
    AdamParams,
    ClientClosed,
    Datum,
    InvalidField,
    ModelInput,
    NotFound,
    RequestFailed,
    ServiceClient,
    session,
)
from rekindle.session import Session
from rekindle.types import parse_forward_backward
from tests.sdk.fake_server import FakeServer, always


def datum(*tokens: int) -> Datum:
    ids = list(tokens or (5, 6, 7))
    return Datum(ModelInput.from_ints(ids), {"target_tokens": ids, "weights": [1.0] * len(ids)})


def test_a_step_submitted_at_once_keeps_its_order(fake: FakeServer, faked: ServiceClient) -> None:
    training = fake.training(faked)
    futures = []
    for _ in range(20):
        futures += [training.forward_backward([datum()], "cross_entropy"), training.optim_step()]
    assert [future.request_id for future in futures if future.result(10)] == [
        f"s1:train:0:{number}" for number in range(1, 41)
    ]
    assert fake.applied == list(range(1, 41))


def test_threads_share_one_sequence(fake: FakeServer, faked: ServiceClient) -> None:
    training = fake.training(faked)
    with ThreadPoolExecutor(8) as pool:
        futures = list(pool.map(lambda _: training.optim_step(), range(64)))
    assert all(future.result(10) for future in futures)
    assert fake.applied == list(range(1, 65))


def test_a_call_that_is_interrupted_never_shares_its_number(
    fake: FakeServer, faked: ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, submit = fake.training(faked), Session.submit

    def interrupted(session: Session, work: Any) -> None:
        submit(session, work)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Session, "submit", interrupted)
        training.optim_step()
    training.optim_step().result(10)
    assert fake.applied == [1, 2]


@pytest.mark.parametrize("path", ["/forward_backward", "/optim_step", "/retrieve_future"])
def test_a_lost_answer_applies_nothing_twice(fake: FakeServer, faked: ServiceClient, path: str) -> None:
    training = fake.training(faked)
    fake.lose[path] = 2
    gradient, step = training.forward_backward([datum()], "cross_entropy"), training.optim_step()
    gradient.result(10), step.result(10)
    assert fake.applied == [1, 2]
    assert {body["seq_id"] for body in fake.bodies("/optim_step")} == {2}


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_in_trouble_gets_the_same_number_again(
    fake: FakeServer, faked: ServiceClient, status: int
) -> None:
    training = fake.training(faked)
    fake.trouble["/optim_step"] = always(status, times=2)
    futures = [training.optim_step(AdamParams(learning_rate=rate)) for rate in (0.1, 0.2)]
    assert all(future.result(10) for future in futures)
    sent = [(body["seq_id"], body["adam_params"]["learning_rate"]) for body in fake.bodies("/optim_step")]
    assert sent == [(1, 0.1)] * 3 + [(2, 0.2)]


def test_giving_up_on_a_command_leaves_it_in_its_place(fake: FakeServer, faked: ServiceClient) -> None:
    training = fake.training(faked)
    futures = [training.optim_step() for _ in range(30)]
    for future in futures[:-1]:
        future.cancel()
    futures[-1].result(10)
    assert fake.applied == list(range(1, 31))


def test_an_argument_that_is_wrong_takes_no_number(fake: FakeServer, faked: ServiceClient) -> None:
    training = fake.training(faked)
    wrong = Datum([5, 6], {"target_tokens": [0.5, 1.5]})
    with pytest.raises(InvalidField, match=r"data\[1\].loss_fn_inputs.target_tokens: float64"):
        training.forward_backward([datum(), wrong], "cross_entropy")
    with pytest.raises(InvalidField, match="hinge"):
        training.forward_backward([datum()], "hinge")
    with pytest.raises(InvalidField, match="empty"):
        training.forward_backward([], "cross_entropy")
    with pytest.raises(InvalidField, match="ttl_seconds"):
        training.save_state("x", ttl_seconds=1)
    with pytest.raises(InvalidField, match="path"):
        training.load_state("/etc/passwd")
    training.optim_step().result(10)
    assert fake.applied == [1]


def test_a_large_batch_goes_in_parts_that_come_back_as_one(fake: FakeServer) -> None:
    fake.config = {"fwdbwd_max_chunk_len": 4, "fwdbwd_max_chunk_bytes_count": 10_000}
    with fake.service() as service:
        training = fake.training(service)
        output = training.forward_backward([datum(*range(2 + index)) for index in range(10)], "cross_entropy")
        step = training.optim_step()
        assert [len(logprobs) for logprobs in output.result(10).logprobs] == [
            2 + index for index in range(10)
        ]
        assert output.result().metrics == {"loss:sum": 10.0, "size:max": 4.0}
        assert step.result(10) and fake.applied == [1, 2, 3, 4]
    sent = [parse_forward_backward(body) for body in fake.bodies("/forward_backward")]
    assert [(request.seq_id, len(request.data)) for request in sent] == [(1, 4), (2, 4), (3, 2)]


def test_parts_are_bounded_by_bytes_and_a_datum_larger_than_that_goes_alone(fake: FakeServer) -> None:
    fake.config = {"fwdbwd_max_chunk_bytes_count": 1000}
    with fake.service() as service:
        sizes = (10, 10, 500, 10, 40, 40)
        data = [datum(*range(size)) for size in sizes]
        fake.training(service).forward(data, "cross_entropy").result(10)
    sent = [parse_forward_backward(body) for body in fake.bodies("/forward_backward")]
    assert [[len(one.tokens) for one in request.data] for request in sent] == [
        [10, 10],
        [500],
        [10, 40],
        [40],
    ]
    assert all(request.forward_only for request in sent)


def test_lists_arrays_and_bare_tokens_are_the_same_data(fake: FakeServer, faked: ServiceClient) -> None:
    training = fake.training(faked)
    ids, weights = [5, 6, 7], [0.0, 1.0, 0.5]
    forms = [
        Datum(ModelInput.from_ints(ids), {"target_tokens": ids, "weights": weights}),
        Datum(np.array(ids, np.int32), {"target_tokens": np.array(ids), "weights": np.array(weights)}),
        Datum(ids, {"target_tokens": np.array(ids, np.uint8), "weights": np.array(weights, np.float16)}),
    ]
    training.forward_backward(forms, "cross_entropy", {"x": 2.0}).result(10)
    request = parse_forward_backward(fake.bodies("/forward_backward")[0])
    assert request.loss_fn_config == {"x": 2.0}
    for one in request.data:
        assert one.tokens.tolist() == ids == one.inputs["target_tokens"].tolist()
        assert one.inputs["weights"].tolist() == weights


def test_a_failed_command_raises_with_its_category_and_those_behind_it_run(
    fake: FakeServer, faked: ServiceClient
) -> None:
    training = fake.training(faked)
    failure = httpx.Response(200, json={"error": "weights: not finite", "category": "user"})
    fake.trouble["/retrieve_future"] = lambda request: failure if b'train:0:1"' in request.content else None
    failed, fine = training.forward_backward([datum()], "cross_entropy"), training.optim_step()
    with pytest.raises(RequestFailed, match="weights: not finite") as raised:
        failed.result(10)
    assert (raised.value.category, raised.value.request_id) == ("user", "s1:train:0:1")
    assert fine.result(10)


def test_a_poll_that_is_told_to_ask_again_asks_again_and_shows_why(
    fake: FakeServer, faked: ServiceClient, caplog: pytest.LogCaptureFixture
) -> None:
    training = fake.training(faked)
    release, seen = threading.Event(), threading.Event()
    polls = [0]

    def pending(_: httpx.Request) -> httpx.Response | None:
        polls[0] += 1
        if polls[0] > 2:
            seen.set()
        reason = f"no GPU yet, {polls[0]} polls"
        waiting = {"queue_state": "paused_capacity", "queue_state_reason": reason}
        return None if release.is_set() else httpx.Response(408, json=waiting)

    fake.trouble["/retrieve_future"] = pending
    futures = [training.optim_step(), training.optim_step()]
    assert seen.wait(10)
    assert futures[0].state == "paused_capacity" and "no GPU yet" in (futures[0].state_reason or "")
    release.set()
    assert all(future.result(10) for future in futures) and futures[0].state == "done"
    assert [record.message for record in caplog.records if "no GPU yet" in record.message] == [
        "the server has work waiting, paused_capacity: no GPU yet, 1 polls"
    ]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(408, content=b"<html>timed out</html>", headers={"content-type": "text/html"}),
        httpx.Response(408, json={"queue_state": "somewhere_else"}),
        httpx.Response(200, json={"type": "try_again", "queue_state": "active"}),
        httpx.Response(502, content=b""),
    ],
)
def test_whatever_a_poll_meets_on_its_way_it_goes_on(
    fake: FakeServer, faked: ServiceClient, answer: httpx.Response
) -> None:
    training = fake.training(faked)
    polls: list[httpx.Request] = []

    def twice(request: httpx.Request) -> httpx.Response | None:
        polls.append(request)
        return answer if len(polls) < 3 else None

    fake.trouble["/retrieve_future"] = twice
    assert training.optim_step().result(10) and len(polls) == 3


def test_an_unknown_run_is_not_waited_for(fake: FakeServer, faked: ServiceClient) -> None:
    training = fake.training(faked)
    fake.trouble["/optim_step"] = always(404)
    with pytest.raises(NotFound):
        training.optim_step().result(10)


def test_closing_ends_what_still_waits(fake: FakeServer) -> None:
    service = fake.service()
    training = fake.training(service)
    fake.trouble["/retrieve_future"] = lambda _: httpx.Response(408, json={"queue_state": "active"})
    waiting = training.optim_step()
    service.close("interrupted").result(10)
    with pytest.raises(ClientClosed):
        waiting.result(10)
    assert fake.bodies("/sessions/s1/finish") == [{"reason": {"type": "interrupted"}}]


def test_closing_sends_what_was_called_before(fake: FakeServer) -> None:
    with fake.service() as service:
        training = fake.training(service)
        for _ in range(50):
            training.optim_step()
    assert fake.applied == list(range(1, 51))


def test_with_finishes_the_session_and_says_how_it_ended(fake: FakeServer) -> None:
    async def use() -> None:
        async with fake.service(user_metadata={"who": "me"}, tags=["a"]) as service:
            await service.create_lora_training_client("base")

    asyncio.run(use())
    with pytest.raises(KeyError), fake.service() as service:
        fake.training(service)
        raise KeyError
    with fake.service():
        pass  # nothing was asked for, so there is no session to finish
    assert [body["reason"]["type"] for body in fake.bodies("/sessions/s1/finish")] == ["success", "errored"]
    assert fake.bodies("/create_session")[0]["user_metadata"] == {"who": "me"}


def test_a_session_that_could_not_be_opened_is_tried_anew_by_the_next_call(fake: FakeServer) -> None:
    fake.trouble["/create_session"] = always(403)
    with fake.service() as service:
        with pytest.raises(Exception, match="trouble 403"):
            fake.training(service)
        assert fake.training(service).model_id == "s1:train:1"


def test_a_session_is_kept_alive_until_the_server_ends_it(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session, "HEARTBEAT_SECONDS", 0.02)
    beats = threading.Semaphore(0)

    def beat(_: httpx.Request) -> httpx.Response | None:
        beats.release()
        return (
            httpx.Response(410, json={"detail": "over"})
            if len(fake.bodies("/session_heartbeat")) > 3
            else None
        )

    fake.trouble["/session_heartbeat"] = beat
    with fake.service() as service:
        fake.training(service)
        assert all(beats.acquire(timeout=10) for _ in range(4))
        fake.training(service).optim_step().result(10)
    assert fake.bodies("/session_heartbeat") == [{"session_id": "s1", "type": "session_heartbeat"}] * 4
    assert "the server has ended this session: over" in caplog.text
