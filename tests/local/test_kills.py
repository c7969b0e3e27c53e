"""Any process may be killed at any moment: it comes back, and a loop through either SDK notices nothing."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore

import httpx
import psutil
import pytest
from tinker import types

import rekindle
from tests.e2e.conftest import connected
from tests.e2e.loops import WAIT, client, tokens, train
from tests.gateway.wire import PROTOBUF, connect, datum
from tests.sdk.test_sdk_stack import client as own_client
from tests.sdk.test_sdk_stack import data
from tests.stack import Stack, running_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
STEPS = 60
"""At most; the undisturbed loop does as many."""
STEPS_AFTER = 5
KILLS = 3
ADAM = {"learning_rate": 1e-3, "eps": 1e-8}


@pytest.fixture(scope="module")
def own_stack(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that nobody else uses, to be hurt."""
    with running_stack(tiny_model_dir, tmp_path_factory.mktemp("hurt") / "data") as stack:
        yield stack


Loop = Callable[[Semaphore, Event], list[float]]
"""The losses of a loop, which releases the one at each step and ends some steps after the other is set."""


@pytest.fixture(scope="module")
def undisturbed(own_stack: Stack) -> list[float]:
    """The losses of a loop when nothing is killed."""
    return tinker_loop(own_stack)(Semaphore(), Event())


def tinker_loop(stack: Stack) -> Loop:
    """Train and sample by turns; the loss of each step."""

    def loop(begun: Semaphore, hurt: Event) -> list[float]:
        losses: list[float] = []
        with connected(stack.url) as service:
            training = client(service, stack.base_model)
            for _ in steps(hurt):
                losses += train(training, 1, types.AdamParams(**ADAM))
                sampler = training.save_weights_and_get_sampling_client().result(WAIT)
                params = types.SamplingParams(max_tokens=20, stop=[])
                samples = [sampler.sample(tokens(5, 6), 2, params) for _ in range(4)]
                begun.release()
                assert all(len(sample.result(WAIT).sequences) == 2 for sample in samples)
        return losses

    return loop


def rekindle_loop(stack: Stack) -> Loop:
    """The same with our own SDK."""

    def loop(begun: Semaphore, hurt: Event) -> list[float]:
        losses: list[float] = []
        with rekindle.ServiceClient(stack.url) as service:
            training = own_client(service, stack)
            for _ in steps(hurt):
                gradient = training.forward_backward(data(), "cross_entropy")
                training.optim_step(rekindle.AdamParams(**ADAM))
                sampler = training.save_weights_and_get_sampling_client().result(WAIT)
                params = rekindle.SamplingParams(max_tokens=20, stop=())
                samples = [sampler.sample([5, 6], 2, params) for _ in range(4)]
                begun.release()
                losses.append(gradient.result(WAIT).metrics["loss:sum"])
                assert all(len(sample.result(WAIT).sequences) == 2 for sample in samples)
        return losses

    return loop


def steps(hurt: Event) -> Iterator[int]:
    """Numbers of steps until the stack is hurt, and a few more."""
    more = STEPS_AFTER
    for step in range(STEPS):
        yield step
        more -= hurt.is_set()
        if not more:
            return


def living(stack: Stack, service: str) -> int:
    """A process of that service, woken where nobody needs it just now."""
    row = stack.row(service)
    return stack.wake(service) if row["url"] else int(stack.until(service, "ready"))


def killing(stack: Stack, service: str, loop: Loop) -> list[float]:
    """The losses of a loop during which a service is killed some times."""
    begun, hurt = Semaphore(0), Event()
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(loop, begun, hurt)
        for _ in range(KILLS):
            go_on(begun, ending)
            pid = living(stack, service)
            assert not ending.done(), "the loop must be long enough to be hurt"
            os.kill(pid, signal.SIGKILL)
            stack.until(service, "ready", "zero", other_than=pid)
        hurt.set()
        return ending.result(200)


def go_on(begun: Semaphore, ending: "Future[list[float]]") -> None:
    """Wait until the loop begins another step."""
    while begun.acquire(blocking=False):
        pass
    if not begun.acquire(timeout=WAIT):
        ending.result(0)


@pytest.mark.parametrize(
    "service", ["gateway", "sample", "train", "nats", "checkpoint", "dispatcher", "warm"]
)
def test_a_loop_goes_on_while_a_process_is_killed(
    own_stack: Stack, undisturbed: list[float], service: str
) -> None:
    assert_same(killing(own_stack, service, tinker_loop(own_stack)), undisturbed)
    assert psutil.pid_exists(own_stack.pid)


def test_a_loop_of_our_own_sdk_notices_nothing_of_a_gateway_that_is_killed(
    own_stack: Stack, undisturbed: list[float]
) -> None:
    assert_same(killing(own_stack, "gateway", rekindle_loop(own_stack)), undisturbed)


def assert_same(losses: list[float], undisturbed: list[float]) -> None:
    assert len(losses) > KILLS
    assert losses == pytest.approx(undisturbed[: len(losses)], rel=1e-3), (
        "a gradient was lost or applied twice"
    )


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
