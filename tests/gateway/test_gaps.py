"""A number that never comes: later operations wait, polls say so, and after a while its place is given up."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.wire import PROTOBUF, Run, Wire, connect, datum
from tests.stack import running_stack

GAP_SECONDS = 3.0


@pytest.fixture(scope="module")
def impatient(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A stack that gives up a missing number soon, and holds a poll for a second."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("REKINDLE_GAP_SECONDS", str(GAP_SECONDS))
        environment.setenv("REKINDLE_POLL_SECONDS", "1")
        data_dir = tmp_path_factory.mktemp("gaps") / "data"
        with running_stack(tiny_model_dir, data_dir) as stack, connect(stack.url, stack.base_model) as wire:
            yield wire


@pytest.fixture
def waiting(impatient: Wire) -> tuple[Run, int, str]:
    """A run whose number was lost to a 4xx, that number, and the future of the operation behind it."""
    run = impatient.run()
    lost = run.number()
    assert run.post_batch(b"\xff" * 50).status_code == 400
    future = run.post_batch(run.batch(run.number(), datum())).json()["request_id"]
    return run, lost, future


def test_polls_say_which_number_is_missing_and_then_the_operation_runs(
    impatient: Wire, waiting: tuple[Run, int, str]
) -> None:
    run, lost, future = waiting
    started = time.monotonic()
    pending = impatient.poll(future)
    assert pending.status_code == 408 and pending.headers["content-type"] == "application/json"
    assert pending.json()["queue_state"] == "paused_capacity"
    assert f"operation {lost}" in pending.json()["queue_state_reason"]
    assert impatient.result(future).headers["content-type"] == PROTOBUF
    assert GAP_SECONDS - 1 < time.monotonic() - started < GAP_SECONDS + 8
    run.goes_on()


def test_a_number_that_comes_too_late_fails_as_the_servers_fault(
    impatient: Wire, waiting: tuple[Run, int, str]
) -> None:
    run, lost, future = waiting
    impatient.result(future)
    late = run.post_batch(run.batch(lost, datum()))
    assert late.status_code == 200
    failure = impatient.failure(late.json()["request_id"])
    assert failure["category"] == "server" and "in time" in failure["error"]
    run.goes_on()


def test_a_number_that_comes_in_time_fills_its_gap(impatient: Wire, waiting: tuple[Run, int, str]) -> None:
    run, lost, future = waiting
    in_time = run.post_batch(run.batch(lost, datum())).json()["request_id"]
    assert impatient.result(in_time).headers["content-type"] == PROTOBUF
    assert impatient.result(future).headers["content-type"] == PROTOBUF
    run.goes_on()


def test_several_missing_numbers_are_given_up_together(impatient: Wire) -> None:
    run = impatient.run()
    run.next = 30
    future = run.post_batch(run.batch(run.number(), datum())).json()["request_id"]
    started = time.monotonic()
    assert impatient.result(future).headers["content-type"] == PROTOBUF
    assert time.monotonic() - started < GAP_SECONDS + 10
    run.goes_on()


def test_a_gap_is_given_up_although_other_runs_are_busy(
    impatient: Wire, waiting: tuple[Run, int, str]
) -> None:
    _, _, future = waiting
    other = impatient.run()
    started = time.monotonic()
    while impatient.poll(future).status_code == 408:
        for _ in range(10):
            other.post_batch(other.batch(other.number(), datum(*[5] * 300)))
        assert time.monotonic() - started < GAP_SECONDS + 15, "other runs' work keeps the gap open"
    other.goes_on()


def test_an_operation_that_takes_long_is_active_and_answers_408_until_done(impatient: Wire) -> None:
    run = impatient.run()
    futures = [
        run.post_batch(run.batch(run.number(), *[datum(*[5] * 500)] * 60)).json()["request_id"]
        for _ in range(4)
    ]
    answer = impatient.poll(futures[-1])
    states = []
    while answer.status_code == 408:
        states.append(answer.json()["queue_state"])
        answer = impatient.poll(futures[-1])
    assert answer.headers["content-type"] == PROTOBUF
    assert set(states) <= {"active"}


@pytest.mark.parametrize("ahead", [20_000, 2**31 - 1])
def test_a_number_far_ahead_is_refused(impatient: Wire, ahead: int) -> None:
    run = impatient.run()
    answer = run.post_batch(run.batch(ahead, datum()))
    assert answer.status_code == 400 and answer.json()["detail"].startswith("seq_id:")
    step = impatient.post("/optim_step", run.step_body(ahead))
    assert step.status_code == 400 and step.json()["detail"].startswith("seq_id:")
    run.goes_on()
