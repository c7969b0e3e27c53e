"""Any process may be killed at any moment: it comes back, and a loop through the SDK notices nothing."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import tinker
from tinker import types

from tests.e2e.conftest import connected
from tests.e2e.loops import WAIT, client, loss, tokens, train
from tests.gateway.wire import PROTOBUF, connect, datum
from tests.stack import Stack, running_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
STEPS = 40
KILLS = 3
ADAM = types.AdamParams(learning_rate=1e-3, eps=1e-8)


@pytest.fixture(scope="module")
def own_stack(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that nobody else uses, to be hurt."""
    with running_stack(tiny_model_dir, tmp_path_factory.mktemp("hurt") / "data") as stack:
        yield stack


@pytest.fixture(scope="module")
def undisturbed(own_stack: Stack) -> float:
    """The loss that a loop arrives at when nothing is killed."""
    with connected(own_stack.url) as service:
        return loop(service, own_stack, Future())


def loop(service: tinker.ServiceClient, stack: Stack, underway: "Future[None]") -> float:
    """Train and sample by turns; the loss at the end."""
    training = client(service, stack.base_model)
    for step in range(STEPS):
        train(training, 1, ADAM)
        sampler = training.save_weights_and_get_sampling_client().result(WAIT)
        futures = [
            sampler.sample(tokens(5, 6), 2, types.SamplingParams(max_tokens=20, stop=[])) for _ in range(4)
        ]
        if step == 3:
            underway.set_result(None)
        assert all(len(future.result(WAIT).sequences) == 2 for future in futures)
    return loss(training)


def living(stack: Stack, service: str) -> int:
    """A process of that service, woken where nobody needs it just now."""
    row = stack.row(service)
    return stack.wake(service) if row["url"] else int(stack.until(service, "ready"))


@pytest.mark.parametrize(
    "service_name", ["gateway", "sample", "train", "nats", "checkpoint", "dispatcher", "warm"]
)
def test_a_loop_goes_on_while_a_process_is_killed(
    own_stack: Stack, undisturbed: float, service_name: str
) -> None:
    underway: Future[None] = Future()
    with connected(own_stack.url) as service, ThreadPoolExecutor(1) as pool:
        ending = pool.submit(loop, service, own_stack, underway)
        underway.result(WAIT * 2)
        for _ in range(KILLS):
            pid = living(own_stack, service_name)
            assert not ending.done(), "the loop must be long enough to be hurt"
            os.kill(pid, signal.SIGKILL)
            own_stack.until(service_name, "ready", "zero", other_than=pid)
        assert ending.result(200) == pytest.approx(undisturbed, rel=1e-3), (
            "a gradient was lost or applied twice"
        )
    assert psutil.pid_exists(own_stack.pid)


def test_polls_held_by_a_gateway_that_ends_are_told_to_ask_again(own_stack: Stack) -> None:
    with connect(own_stack.url, own_stack.base_model) as wire, ThreadPoolExecutor(8) as pool:
        run = wire.run()
        missing = run.number()
        future = run.post_batch(run.batch(run.number(), datum())).json()["request_id"]
        held = [pool.submit(wire.poll, future) for _ in range(4)]
        facts = pool.submit(first_bytes, f"{own_stack.url}/api/v1/events")
        facts.result(WAIT)
        pid = own_stack.until("gateway", "ready")
        assert not any(poll.done() for poll in held)
        os.kill(pid, signal.SIGTERM)
        assert [poll.result(15).status_code for poll in held] == [408] * 4
        run.post_batch(run.batch(missing, datum()))
        assert wire.result(future).headers["content-type"] == PROTOBUF
        own_stack.until("gateway", "ready", other_than=pid)


def first_bytes(url: str) -> bytes:
    """What a stream begins with."""
    with httpx.stream("GET", url, trust_env=False, timeout=WAIT) as answer:
        return next(answer.iter_bytes())
