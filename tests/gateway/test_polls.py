"""What a poll answers, and that every POST may come twice."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rekindle.types import decode_forward_backward_output
from tests.gateway.wire import PROTOBUF, Run, Wire, datum


def losses(run: Run) -> float:
    """The loss of a fixed batch under the weights of now."""
    return decode_forward_backward_output(run.train().content).metrics["loss:sum"]


@pytest.mark.parametrize(
    ("request_id", "status"),
    [
        ("nonsense", 404), ("a:b", 404), (":5", 404), ("x:-1", 404), ("x:1.5", 404), ("x:٣", 404), ("*:1", 404),
        (">:1", 404), ("x:train:0:1", 404), ("x:sample:0:1", 410), ("é:sample:0:1", 410), ("a/b:1", 404),
        ("", 400), ("x" * 10_000, 400), (5, 400), (None, 400), (True, 400), (["x:1"], 400),
    ],
)  # fmt: skip
def test_a_request_that_never_was(wire: Wire, request_id: Any, status: int) -> None:
    answer = wire.poll(request_id)
    assert answer.status_code == status, answer.text
    assert answer.json()["detail"]


def test_unknown_numbers_of_known_owners_are_lost_or_not_found(wire: Wire, run: Run) -> None:
    assert wire.poll(f"{run.id}:999").status_code == 404
    assert wire.poll(f"{run.id}:{2**70}").status_code == 404
    assert wire.poll(f"{wire.sampler()}:999").status_code == 410


def test_a_result_can_be_fetched_again_and_says_what_it_is(wire: Wire, run: Run) -> None:
    answer = run.post_batch(run.batch(run.number(), datum())).json()
    assert answer["model_id"] == run.id
    first, second = wire.result(answer["request_id"]), wire.poll(answer["request_id"])
    assert first.status_code == second.status_code == 200 and first.content == second.content
    assert first.headers["content-type"] == second.headers["content-type"] == PROTOBUF
    step = wire.ok("/optim_step", run.step_body(run.number()))["request_id"]
    assert wire.result(step).json() == wire.poll(step).json()
    assert wire.poll(step).headers["content-type"] == "application/json"


def test_every_training_post_may_come_twice_and_at_once(wire: Wire) -> None:
    run, twin = wire.run(), wire.run()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            batch, step = run.batch(run.number(), datum()), run.step_body(run.number(), learning_rate=0.01)
            answers = list(pool.map(lambda _, body=batch: run.post_batch(body).json(), range(8)))
            assert all(answer == answers[0] for answer in answers)
            answers = list(pool.map(lambda _, body=step: wire.ok("/optim_step", body), range(8)))
            assert all(answer == answers[0] for answer in answers)
            twin.post_batch(twin.batch(twin.number(), datum()))
            wire.ok("/optim_step", twin.step_body(twin.number(), learning_rate=0.01))
    assert losses(run) == pytest.approx(losses(twin), rel=1e-5), "a repeated step moved the weights"


def test_a_late_copy_of_an_old_command_changes_nothing(wire: Wire) -> None:
    run = wire.run()
    number = run.number()
    batch = run.batch(number, datum())
    run.post_batch(batch)
    step = run.step_body(run.number(), learning_rate=0.01)
    first = wire.result(wire.ok("/optim_step", step)["request_id"]).json()
    before = losses(run)
    run.step()  # clears the gradient
    assert wire.result(run.post_batch(batch).json()["request_id"]).content
    assert wire.result(wire.ok("/optim_step", step)["request_id"]).json() == first
    other = run.post_batch(run.batch(number, datum(9, 9, 9))).json()["request_id"]
    assert wire.result(other).headers["content-type"] == PROTOBUF, (
        "the first entry of a number is that command"
    )
    assert losses(run) != 0 and losses(run) == pytest.approx(before, rel=1e-2)


def test_creation_and_saves_may_come_twice(wire: Wire) -> None:
    session = wire.session()
    model = {
        "session_id": session,
        "model_seq_id": 0,
        "base_model": wire.base_model,
        "lora_config": {"rank": 2},
    }
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: wire.ok("/create_model", model), range(8)))
    assert all(answer == answers[0] for answer in answers)
    run = Run(wire, session, answers[0]["model_id"])
    save = {"model_id": run.id, "seq_id": run.number(), "path": "a"}
    results = [wire.result(wire.ok("/save_weights", save)["request_id"]).json() for _ in range(3)]
    assert results[0]["path"].endswith("/weights/a") and results[0] == results[1] == results[2]
    unnamed = {"model_id": run.id, "seq_id": run.number(), "sampling_session_seq_id": 0}
    results = [
        wire.result(wire.ok("/save_weights_for_sampler", unnamed)["request_id"]).json() for _ in range(3)
    ]
    assert results[0]["sampling_session_id"] and results[0] == results[1] == results[2]
    load = {
        "session_id": session,
        "model_seq_id": 1,
        "optimizer": True,
        "path": f"tinker://{run.id}/weights/a",
    }
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: wire.ok("/load_weights", load), range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert wire.result(answers[0]["request_id"]).json()["model_id"] == f"{session}:train:1"
    assert (
        wire.http.get(f"training_runs/{run.id}/checkpoints").json()["checkpoints"][0]["checkpoint_id"]
        == "weights/a"
    )


def test_a_sample_may_come_twice_and_at_once(wire: Wire) -> None:
    sampler = wire.sampler()
    body = {
        "sampling_session_id": sampler, "seq_id": 7, "num_samples": 2,
        "prompt": {"chunks": [{"type": "encoded_text", "tokens": [5, 6, 7]}]},
        "sampling_params": {"max_tokens": 8, "temperature": 1.0},
    }  # fmt: skip
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: wire.ok("/asample", body), range(8)))
    assert all(answer == answers[0] for answer in answers)
    first = wire.result(answers[0]["request_id"]).content
    assert wire.ok("/asample", body) == answers[0]
    assert wire.result(answers[0]["request_id"]).content == first


def test_many_polls_of_one_future_all_hear_its_result(wire: Wire, run: Run) -> None:
    answer = run.post_batch(run.batch(run.number(), *[datum(*[5] * 400)] * 20)).json()
    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(lambda _: wire.result(answer["request_id"]), range(50)))
    assert all(result.headers["content-type"] == PROTOBUF for result in results)
    assert all(result.content == results[0].content for result in results)
    run.step()
