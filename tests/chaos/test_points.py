"""Whoever dies or stands still at whichever point of its work, on the running stack: no bit changes."""

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rekindle import AdamParams, RequestFailed, ServiceClient
from tests.chaos import mortal, remains
from tests.chaos.lessons import Lesson, Works, learn, new_run, work
from tests.chaos.replica import trainer, until
from tests.sdk.test_sdk_stack import WAIT, data
from tests.stack import Stack, running_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
TRAINER = [
    "before the gradient",
    "after the gradient",
    "before the result",
    "after the result",
    "during an export",
    "between export and entry",
    "between entry and result",
    "during a snapshot",
    "between blob and head",
    "between head and purge",
    "after the purge",
]
QUEUES = ["before the work", "between work and answer", "between answer and acknowledgement"]
WORKERS = ["sample", "reward", "data", "checkpoint"]


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which points are armed."""
    return tmp_path_factory.mktemp("points")


@pytest.fixture(scope="module")
def mortals(tiny_model_dir: Path, points: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A deterministic stack of mortal services."""
    data_dir = tmp_path_factory.mktemp("mortals") / "data"
    environment = {mortal.FOLDER: str(points), "REKINDLE_LINGER_SECONDS": "0.1"}
    with running_stack(
        tiny_model_dir, data_dir, ["--deterministic"], module=mortal.MODULE, environment=environment
    ) as stack:
        yield stack


@pytest.fixture(scope="module")
def service(mortals: Stack) -> Iterator[ServiceClient]:
    with ServiceClient(mortals.url) as client:
        yield client


@pytest.fixture(scope="module")
def undisturbed(service: ServiceClient, mortals: Stack, tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    return learn(new_run(service, mortals.base_model), tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def untroubled(service: ServiceClient, mortals: Stack) -> Works:
    return work(service, new_run(service, mortals.base_model), "untroubled")


@pytest.fixture(autouse=True)
def quiet(mortals: Stack, points: Path) -> Iterator[None]:
    """Begin when the trainer is idle: the dispatcher then forgets how often its activations have broken off."""
    until(lambda: not mortals.row("train")["activations"])
    yield
    mortal.disarm(points)


@pytest.mark.parametrize("point", TRAINER)
def test_a_trainer_that_dies_at_a_point_changes_no_bit(
    service: ServiceClient, mortals: Stack, points: Path, undisturbed: Lesson, tmp_path: Path, point: str
) -> None:
    training = new_run(service, mortals.base_model)
    mortal.arm(points, "train", point)
    assert learn(training, tmp_path) == undisturbed
    assert mortal.armed(points) == {}, "the trainer did not come by"
    assert asyncio.run(remains.audit(mortals, training.model_id)) == []


def test_a_run_without_a_seed_keeps_the_one_that_it_got(
    service: ServiceClient, mortals: Stack, points: Path
) -> None:
    training = new_run(service, mortals.base_model, seed=None)
    training.forward_backward(data(), "cross_entropy")
    training.optim_step(AdamParams(learning_rate=0.01))
    before = training.forward(data(), "cross_entropy").result(WAIT).metrics
    mortal.arm(points, "train", "before the gradient")
    assert training.forward(data(), "cross_entropy").result(WAIT).metrics == before
    assert mortal.armed(points) == {}


def test_a_command_that_kills_its_trainer_each_time_fails_alone(
    service: ServiceClient, mortals: Stack, points: Path, undisturbed: Lesson, tmp_path: Path
) -> None:
    deadly, neighbour = new_run(service, mortals.base_model), new_run(service, mortals.base_model)
    mortal.arm(points, "train", "over the poison", *[mortal.KILL] * 9)
    poison = deadly.forward_backward(data()[: mortal.POISON], "cross_entropy")
    after = deadly.forward_backward(data(), "cross_entropy")
    assert learn(neighbour, tmp_path) == undisturbed
    with pytest.raises(RequestFailed, match="5 trainers"):
        poison.result(WAIT)
    assert after.result(WAIT).metrics["loss:sum"] == undisturbed.losses[0]
    assert mortal.armed(points) == {"train over the poison": 9 - 5}
    assert asyncio.run(remains.audit(mortals, neighbour.model_id)) == []


@pytest.mark.parametrize("point", QUEUES)
def test_workers_that_die_at_a_point_answer_once_and_leave_nothing(
    service: ServiceClient, mortals: Stack, points: Path, untroubled: Works, point: str
) -> None:
    training, name = new_run(service, mortals.base_model), point.replace(" ", "-")
    for worker in WORKERS:
        mortal.arm(points, worker, point)
    assert work(service, training, name) == untroubled
    assert asyncio.run(remains.until_none(mortals, remains.queued)) == []
    assert mortal.armed(points) == {}, "a worker did not come by"
    assert not list((mortals.data_dir / "blobs").rglob(f"weights/{name}-*/*")), "the checkpoint's files"


def test_a_trainer_that_stood_still_while_another_took_its_run_writes_nothing_when_it_wakes(
    service: ServiceClient, mortals: Stack, points: Path, undisturbed: Lesson, tmp_path: Path
) -> None:
    log = mortals.data_dir / "logs" / "train-0.log"
    linger = {"REKINDLE_LINGER_SECONDS": "60"}  # it shall still hold the run when the other wakes
    with trainer(mortals, mortals.base_model, **linger) as second, ThreadPoolExecutor(1) as pool:
        training, sleeper = new_run(service, mortals.base_model), mortals.until("train", "ready")
        mortal.arm(points, "train", "after the gradient", mortal.STOP)
        lesson = pool.submit(learn, training, tmp_path)
        until(lambda: mortal.armed(points) == {})
        try:
            active = second.activate()
            assert lesson.result(WAIT) == undisturbed
            before = asyncio.run(remains.entries_of(mortals, mortals.base_model, training.model_id))
        finally:
            os.kill(sleeper, signal.SIGCONT)
        lost = [f"run={training.model_id}", "lease.lost"]
        until(lambda: any(all(part in line for part in lost) for line in log.read_text().splitlines()))
        assert asyncio.run(remains.entries_of(mortals, mortals.base_model, training.model_id)) == before
        active.close()
    assert training.forward(data(), "cross_entropy").result(WAIT)


def test_a_trainer_whose_activation_breaks_off_in_mid_work_goes_on_for_a_while_and_hands_over(
    service: ServiceClient, mortals: Stack, undisturbed: Lesson, tmp_path: Path
) -> None:
    with trainer(mortals, "lonely") as lonely, ThreadPoolExecutor(1) as pool:
        active = lonely.activate()
        training = new_run(service, "lonely")

        def results() -> int:
            entries = asyncio.run(remains.entries_of(mortals, "lonely", training.model_id))
            return sum(".result." in subject for subject in entries)

        lesson = pool.submit(learn, training, tmp_path)
        until(lambda: results() > 2)
        active.close()
        there = results()
        assert not lesson.done()
        until(lambda: results() > there)
        until(lambda: asyncio.run(remains.is_released(mortals, "lonely", training.model_id)))
        late = training.forward(data(), "cross_entropy")
        with pytest.raises(TimeoutError):
            late.result(1.0)
        active = lonely.activate()
        assert lesson.result(WAIT) == undisturbed
        assert late.result(WAIT)
        active.close()
