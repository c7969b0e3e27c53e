"""The services as Knative runs them: from zero and back to it, under its timeouts, through the death of any pod."""

import json
import random
import time
from collections.abc import Callable

import pytest
import yaml

import rekindle
from rekindle.cluster.names import service_name
from tests.chaos.rl_loop import Trace
from tests.chaos.trial import compare
from tests.fake_knative.installation import ACTIVATED, BASE, HERE, SAMPLE, TRAIN, Installation, Loop
from tests.fake_knative.platform import FakeKnative
from tests.sdk.test_sdk_stack import data

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]
STEPS = 2
WAIT = 120.0


def blows(fake: FakeKnative) -> list[Callable[[], bool]]:
    """What befalls the services, each once; False from one that found nobody to hurt."""
    names = (TRAIN, SAMPLE, "reward", "data", "checkpoint", "gateway")
    killed = [lambda name=name: fake.kill(name) for name in (*names, "dispatcher")]
    evicted = [lambda name=name: fake.evict(name) for name in (TRAIN, SAMPLE)]
    broken = [lambda name=name: fake.break_off(name) for name in (TRAIN, SAMPLE)]
    return [*killed, *evicted, *broken]


@pytest.fixture(scope="module")
def started(installation: Installation) -> Installation:
    """Each service has proved that it starts, and the base model is known."""
    fake = installation.fake

    def has_started() -> bool:
        ready = [served.service.latest_ready for served in fake.served.values()]
        return len(ready) == 1 + len(ACTIVATED) and all(ready) and bool(fake.jobs)

    fake.until(has_started, "all services have started once")
    assert [pod.exit_code for pod in fake.pods("dispatcher")] == [None], (
        "it came first, and found an empty bus"
    )
    return installation


@pytest.fixture(scope="module")
def hurt(started: Installation) -> Trace:
    """The loop through rollouts, and then while one blow after another falls, and two dispatchers work."""
    fake, rng = started.fake, random.Random(0)
    left = blows(fake)
    rng.shuffle(left)
    with started.loop("hurt", STEPS, paused=True) as loop:
        roll(started, loop)
        fake.add_gpu()
        scale_dispatcher(started, 2)
        deadline = time.monotonic() + WAIT
        while left and not loop.is_over() and time.monotonic() < deadline:
            blow = next((one for one in left if one()), None)
            if blow is not None:
                left.remove(blow)
            time.sleep(rng.uniform(0.0, 0.6))  # blows fall at any moment
        loop.enough()
        trace = loop.trace()
    assert not left, "each blow has hit somebody"
    return trace


def roll(installation: Installation, loop: Loop) -> None:
    """An update, a split and a rollback, each in the middle of a step; there is one GPU for each of the loop's two.

    Where a step is over before work has moved, there is another one.
    """
    fake, old, new = installation.fake, "00001", "00002"

    def begin() -> None:
        steps = loop.steps
        loop.pause(False)
        fake.until(lambda: loop.steps > steps or loop.is_over(), "another step begins")
        loop.pause()

    def moved(name: str, number: str) -> None:
        while not installation.working(name, number):
            assert not loop.is_over(), (loop.folder / "log").read_text()[-4000:]
            if loop.rests and installation.idle(name):
                begin()
            time.sleep(0.02)

    moved(TRAIN, old)
    installation.kn("reward", {old: 50, "@latest": 50})
    for name in (TRAIN, "reward", "gateway"):
        installation.kn(name)
    moved(TRAIN, new)
    fake.served[TRAIN].service.forget()
    installation.kn(TRAIN, {old: 100})
    moved(TRAIN, old)
    for name in ("reward", "gateway"):
        moved(name, new)
    loop.pause(False)


@pytest.fixture(scope="module")
def calm(hurt: Trace, started: Installation) -> Trace:
    """The same loop undisturbed, from zero, on one dispatcher."""
    scale_dispatcher(started, 1)
    started.asleep()
    for served in started.fake.served.values():
        served.service.forget()
    with started.loop("calm", len(hurt.losses)) as loop:
        loop.enough()
        return loop.trace()


def scale_dispatcher(installation: Installation, replicas: int) -> None:
    server = installation.cluster.server
    one = server.get("apps/v1", "deployments", "dispatcher")
    server.put({**one, "spec": {**one["spec"], "replicas": replicas}})


def activations(fake: FakeKnative, name: str) -> list[tuple[int, bytes]]:
    """Status and answer of those that have ended."""
    found = fake.served[name].service.answers
    return [(status, body) for path, status, body in found if path == "/activate"]


def test_cold_starts_longer_than_the_activators_patience_are_invisible(
    calm: Trace, started: Installation
) -> None:
    fake = started.fake

    def statuses(name: str) -> set[int]:
        return {status for status, _ in activations(fake, name)}

    for name in ACTIVATED:
        fake.until(lambda name=name: 200 in statuses(name), f"{name} has worked")  # type: ignore[misc]
        assert {503, 504} & statuses(name), f"{name} was activated while it started"
    assert len(calm.losses) >= STEPS


def test_rollouts_and_pods_and_dispatchers_that_die_change_no_bit(hurt: Trace, calm: Trace) -> None:
    assert compare(calm, hurt) == []


def test_activations_are_handed_over_below_the_platforms_deadline(calm: Trace, started: Installation) -> None:
    """As long as there is work, the trainer's activation ends at its deadline, and another one follows."""

    def handed_over() -> bool:
        return any(b"deadline" in body for _, body in activations(started.fake, TRAIN))

    deadline = time.monotonic() + WAIT
    with rekindle.ServiceClient(base_url=started.url, api_key=started.key) as service:
        training = service.create_lora_training_client(BASE, rank=4, seed=1).result(WAIT)
        expected = training.forward(data(), "cross_entropy").result(WAIT).metrics
        while not handed_over() and time.monotonic() < deadline:
            assert training.forward(data(), "cross_entropy").result(WAIT).metrics == expected
        assert handed_over()
        assert training.forward(data(), "cross_entropy").result(WAIT).metrics == expected


def test_nothing_runs_once_there_is_no_work(calm: Trace, started: Installation) -> None:
    started.asleep()
    started.fake.until(lambda: not started.fake.served[TRAIN].service.leaving, "the trainer has drained")


def test_work_for_a_revision_that_fails_fails_with_the_platforms_reason(started: Installation) -> None:
    base = "lab/broken"
    said = started.cluster.done(
        "models", "add", base, "--source", started.model, "--overlay", HERE / "overlay", "--render"
    )
    for one in yaml.safe_load_all(said):
        if one["metadata"]["labels"]["rekindle.dev/kind"] == "train":
            template = one["spec"]["template"]
            template["metadata"]["annotations"]["serving.knative.dev/progress-deadline"] = "6s"
            template["spec"]["containers"][0]["env"].append(
                {"name": "REKINDLE_TURN_SECONDS", "value": "never"}
            )
        started.cluster.server.put(one)
    with rekindle.ServiceClient(base_url=started.url, api_key=started.key) as service:
        started.fake.until(lambda: service_name("register", base) in started.fake.jobs, "it is known")
        with pytest.raises(
            rekindle.RequestFailed, match=r"cannot start: .*(ExitCode|Initial scale|exit code)"
        ):
            service.create_lora_training_client(base, rank=4).result(WAIT)
    status = json.loads(started.cluster.done("status", "--json"))
    (said,) = (one["reasons"] for one in status["services"] if one["name"] == service_name("train", base))
    assert "exit code" in " ".join(said), "and a person is told the same"
