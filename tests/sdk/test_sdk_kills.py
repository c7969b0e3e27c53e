"""A gateway that is killed in the middle of a loop goes unnoticed."""

import json
import os
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from rekindle import AdamParams, SamplingParams, ServiceClient
from tests.sdk.test_sdk_stack import ADAM, PROMPT, WAIT, client, data
from tests.stack import Stack, running_stack

pytestmark = pytest.mark.timeout(200)
STEPS = 24
KILLS = 3


def loop(stack: Stack, underway: "Future[None]") -> list[float]:
    """Train and sample by turns; the losses."""
    losses = []
    with ServiceClient(stack.url) as service:
        training = client(service, stack)
        for step in range(STEPS):
            gradient = training.forward_backward(data(), "cross_entropy")
            training.optim_step(AdamParams(**ADAM))
            sampler = training.save_weights_and_get_sampling_client().result(WAIT)
            samples = [sampler.sample(PROMPT, 2, SamplingParams(max_tokens=16, stop=())) for _ in range(4)]
            losses.append(gradient.result(WAIT).metrics["loss:sum"])
            assert all(len(sample.result(WAIT).sequences) == 2 for sample in samples)
            if step == 1:
                underway.set_result(None)
    return losses


def gateway(stack: Stack) -> int | None:
    rows = json.loads((stack.data_dir / "processes.json").read_text())
    return next((row["pid"] for row in rows if row["service"] == "gateway" and row["state"] == "ready"), None)


@pytest.mark.slow
def test_a_loop_notices_nothing_of_a_gateway_that_is_killed(tiny_model_dir: Path, tmp_path: Path) -> None:
    with running_stack(tiny_model_dir, tmp_path / "data") as stack, ThreadPoolExecutor(1) as pool:
        undisturbed = loop(stack, Future())
        underway: Future[None] = Future()
        ending = pool.submit(loop, stack, underway)
        underway.result(WAIT)
        for _ in range(KILLS):
            killed = gateway(stack)
            assert killed is not None and not ending.done(), "the loop must be long enough to be hurt"
            os.kill(killed, signal.SIGKILL)
            deadline = time.monotonic() + WAIT
            while gateway(stack) in (None, killed):
                assert time.monotonic() < deadline, "the gateway did not come back"
                time.sleep(0.02)
        assert ending.result(150) == pytest.approx(undisturbed, rel=1e-4)
