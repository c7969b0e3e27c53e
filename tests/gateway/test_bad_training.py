"""Mistakes in training commands: a failed future under the number where it can be read, else a 4xx; never a hang."""

import socket
import struct
import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import pytest
import zstandard

from rekindle.types import wire_pb2
from tests.gateway.wire import Run, Wire, datum

MIB = 1024 * 1024
NAN, INFINITY = float("nan"), float("inf")


def message(run: Run, number: int, change: Callable[[wire_pb2.ForwardBackwardRequest], object]) -> bytes:
    """A good batch after a change to its message."""
    parsed = wire_pb2.ForwardBackwardRequest.FromString(run.batch(number, datum()))
    change(parsed)
    return parsed.SerializeToString()


def tensor(found: wire_pb2.ForwardBackwardRequest, name: str = "weights") -> wire_pb2.Tensor:
    return found.data[0].loss_fn_inputs[name]


CSR_OUT_OF_RANGE = wire_pb2.SparseCsr(
    values=bytes(4), crow_indices=struct.pack("<5q", 0, 1, 1, 1, 1), col_indices=struct.pack("<q", 9)
)
BAD_BATCHES: dict[str, tuple[Callable[[Run, int], bytes], str]] = {
    "empty batch": (lambda r, n: r.batch(n), "data"),
    "empty sequence": (lambda r, n: message(r, n, lambda m: m.data[0].ClearField("model_input")), "data[0]"),
    "no targets": (lambda r, n: message(r, n, lambda m: m.data[0].ClearField("loss_fn_inputs")), "target_tokens"),
    "weights too short": (lambda r, n: r.batch(n, datum(weights=np.ones(3, np.float32))), "weights"),
    "weights of another shape": (lambda r, n: r.batch(n, datum(weights=np.ones((4, 2), np.float32))), "weights"),
    "weight NaN": (lambda r, n: r.batch(n, datum(weights=np.array([1, NAN, 1, 1], np.float32))), "weights[1]"),
    "weight infinite": (lambda r, n: r.batch(n, datum(weights=np.full(4, INFINITY, np.float32))), "weights[0]"),
    "token beyond the vocabulary": (lambda r, n: r.batch(n, datum(5, 10**6)), "model_input[1]"),
    "token below zero": (lambda r, n: r.batch(n, datum(-1)), "model_input[0]"),
    "target beyond the vocabulary": (lambda r, n: r.batch(n, datum(5, target_tokens=[10**6])), "target_tokens[0]"),
    "longer than the context": (lambda r, n: r.batch(n, datum(*[5] * 1000)), "context length"),
    "unknown loss": (lambda r, n: r.batch(n, datum(), loss_fn="hinge"), "loss_fn"),
    "no loss": (lambda r, n: r.batch(n, datum(), loss_fn=""), "loss_fn"),
    "loss of a later version": (lambda r, n: r.batch(n, datum(), loss_fn="stable_reinforce"), "loss_fn"),
    "unknown config key": (lambda r, n: r.batch(n, datum(), temperature=2.0), "loss_fn_config.temperature"),
    "config NaN": (
        lambda r, n: r.batch(n, datum(), loss_fn="ppo", clip_low_threshold=NAN), "loss_fn_config.clip_low_threshold",
    ),
    "config text": (
        lambda r, n: r.batch(n, datum(), loss_fn="ppo", clip_low_threshold="x"), "loss_fn_config.clip_low_threshold",
    ),
    "unknown input": (lambda r, n: r.batch(n, datum(mask=np.ones(4, np.float32))), "mask"),
    "loss without its inputs": (lambda r, n: r.batch(n, datum(), loss_fn="importance_sampling"), "logprobs"),
    "fractional targets": (lambda r, n: r.batch(n, datum(target_tokens=np.full(4, 0.5))), "target_tokens"),
    "tensor without dtype": (lambda r, n: message(r, n, lambda m: tensor(m).ClearField("dtype")), "weights"),
    "tensor without data": (lambda r, n: message(r, n, lambda m: tensor(m).ClearField("dense")), "weights"),
    "bytes do not fit the shape": (lambda r, n: message(r, n, lambda m: tensor(m).shape.append(7)), "weights"),
    "negative shape": (lambda r, n: message(r, n, lambda m: tensor(m).shape.insert(0, -4)), "weights"),
    "huge shape": (lambda r, n: message(r, n, lambda m: tensor(m).shape.insert(0, 2**62)), "weights"),
    "sparse indices out of range": (
        lambda r, n: message(r, n, lambda m: tensor(m).sparse_csr.MergeFrom(CSR_OUT_OF_RANGE)), "weights",
    ),
    "tokens cut in a number": (
        lambda r, n: message(r, n, lambda m: m.data[0].model_input.add(encoded_text={"tokens": b"x"})), "model_input",
    ),
    "an image": (
        lambda r, n: message(r, n, lambda m: m.data[0].model_input.add(image={"data": b"x", "format": "png"})), "image",
    ),
    "an empty chunk": (lambda r, n: message(r, n, lambda m: m.data[0].model_input.add()), "model_input"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_a_bad_batch_fails_under_its_number_and_names_the_field(wire: Wire, run: Run, case: str) -> None:
    make, named = BAD_BATCHES[case]
    answer = run.post_batch(make(run, run.number()))
    assert answer.status_code == 200, answer.text
    failure = wire.failure(answer.json()["request_id"])
    assert failure["category"] == "user"
    assert named in failure["error"], failure
    assert not any(word in failure["error"] for word in ("Traceback", "assert"))


def test_after_all_bad_batches_the_run_goes_on(run: Run) -> None:
    run.goes_on()


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"\0" * 100, b"\xff" * 5000, b"\x0a\xff\xff\xff\xff\x0f", b'{"model_id": "x", "seq_id": 1}'],
    ids=["empty", "letter", "zeros", "ones", "length of 4 GiB", "JSON"],
)
def test_a_body_without_a_readable_number_is_refused_with_the_field(run: Run, body: bytes) -> None:
    for headers in ({}, {"content-type": "text/html"}, {"content-encoding": "zstd"}):
        answer = run.post_batch(body, **headers)
        assert answer.status_code == 400 and answer.json()["detail"].startswith("model_id:")
    run.goes_on()


@pytest.mark.parametrize("number", [0, -1, -(2**31)])
def test_a_number_that_is_none_is_refused(run: Run, number: int) -> None:
    answer = run.post_batch(run.batch(number, datum()))
    assert answer.status_code == 400 and answer.json()["detail"].startswith("seq_id:")


def test_a_batch_cut_off_anywhere_fails_under_its_number_or_is_refused(wire: Wire, run: Run) -> None:
    number = run.number()
    whole = run.batch(number, datum())
    head = len(run.batch(number))
    for length in [*range(0, head, 7), head - 1]:
        assert run.post_batch(whole[:length]).status_code in (200, 400)
        # where the cut spares the number, the first of these is the command and the others change nothing
    assert wire.failure(f"{run.id}:{number}")["category"] == "user"
    for length in range(head + 1, len(whole), 5):
        number = run.number()
        answer = run.post_batch(run.batch(number, datum())[:length])
        assert answer.status_code == 200, answer.text
        assert wire.failure(answer.json()["request_id"])["category"] == "user"
    run.goes_on()


def test_compressed_batches_are_read_and_broken_ones_fail_under_their_number(wire: Wire, run: Run) -> None:
    headers = {"content-encoding": "zstd"}
    good = zstandard.compress(run.batch(run.number(), datum()))
    assert wire.result(run.post_batch(good, **headers).json()["request_id"]).content
    random = np.random.default_rng(0)
    long = run.batch(run.number(), *[datum(*random.integers(0, 99, 300)) for _ in range(200)])
    broken = bytearray(zstandard.compress(long))
    broken[-200:] = bytes(200)
    answer = run.post_batch(bytes(broken), **headers)
    assert answer.status_code == 200, answer.text
    assert wire.failure(answer.json()["request_id"])["category"] == "user"
    run.goes_on()


def test_a_body_that_expands_beyond_the_limit_fails_and_takes_no_memory(
    wire: Wire, run: Run, gateway: psutil.Process
) -> None:
    head = run.batch(run.number())
    bomb = zstandard.compress(head + b"\x1a\x80\x80\x80\x80\x08" + bytes(512 * MIB), 3)
    before = gateway.memory_info().rss
    answer = run.post_batch(bomb, **{"content-encoding": "zstd"})
    assert answer.status_code == 200, answer.text
    assert "limit" in wire.failure(answer.json()["request_id"])["error"]
    assert gateway.memory_info().rss < before + 200 * MIB
    run.goes_on()


@pytest.mark.parametrize("junk", [b"\x1a\x00", b"\x1a\x04\x0a\x02\x0a\x00", b"\x30\x01", b"\x22\x00"])
def test_millions_of_tiny_parts_fail_soon_and_take_little_memory(
    wire: Wire, run: Run, gateway: psutil.Process, junk: bytes
) -> None:
    before, started = gateway.memory_info().rss, time.monotonic()
    number = run.number()
    answer = run.post_batch(run.batch(number) + junk * (30 * MIB // len(junk)))
    assert answer.status_code == 200, answer.text
    assert wire.failure(f"{run.id}:{number}")["category"] == "user"
    assert gateway.memory_info().rss < before + 200 * MIB
    assert time.monotonic() - started < 20


def test_a_batch_of_100_mb_fails_under_its_number(wire: Wire, run: Run) -> None:
    body = run.batch(run.number()) + b"\x1a\x80\x80\x80\x32" + bytes(100 * MIB)
    answer = run.post_batch(body)
    assert answer.status_code == 200, answer.text
    failure = wire.failure(answer.json()["request_id"])
    assert failure["category"] == "user" and "limit" in failure["error"]

    def pieces() -> Iterator[bytes]:
        head = run.batch(run.number())
        yield head + b"\x1a\x80\x80\x80\x32"
        for _ in range(100):
            yield bytes(MIB)

    answer = wire.http.post("/forward_backward", content=pieces())  # chunked, no content-length
    assert answer.status_code == 200, answer.text
    assert "limit" in wire.failure(answer.json()["request_id"])["error"]
    run.goes_on()


@pytest.mark.parametrize(
    "path", ["/optim_step", "/asample", "/save_weights", "/create_session", "/telemetry"]
)
def test_json_of_100_mb_is_refused(wire: Wire, path: str) -> None:
    body = b'{"text": "' + b"x" * (100 * MIB) + b'", "model_id": "x", "seq_id": 1}'
    answer = wire.post(path, body)
    assert answer.status_code == 413 and "limit" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/optim_step", "/save_weights"])
def test_a_command_of_100_mb_fails_under_its_number_where_that_comes_first(
    wire: Wire, run: Run, path: str
) -> None:
    head = f'{{"model_id": "{run.id}", "seq_id": {run.number()}, "text": "'
    answer = wire.post(path, head.encode() + b"x" * (100 * MIB) + b'"}')
    assert answer.status_code == 200, answer.text
    failure = wire.failure(answer.json()["request_id"])
    assert failure["category"] == "user" and "limit" in failure["error"]
    run.goes_on()


@pytest.mark.slow
def test_many_large_bodies_leave_the_gateway_as_it_was(wire: Wire, run: Run, gateway: psutil.Process) -> None:
    def large() -> None:
        body = run.batch(run.number()) + b"\x1a\x80\x80\x80\x32" + bytes(100 * MIB)
        assert wire.failure(run.post_batch(body).json()["request_id"])["category"] == "user"

    for _ in range(3):
        large()
    before = gateway.memory_info().rss
    for _ in range(12):
        large()
    assert gateway.memory_info().rss < before + 64 * MIB
    run.goes_on()


BAD_STEPS = {
    "no parameters": {"adam_params": None},
    "parameters as text": {"adam_params": "fast"},
    "negative rate": {"adam_params": {"learning_rate": -1}},
    "rate as text": {"adam_params": {"learning_rate": "fast"}},
    "unknown parameter": {"adam_params": {"momentum": 0.9}},
    "beta of 1": {"adam_params": {"beta1": 1.0}},
    "another optimizer": {"adam_params": None, "optimizer_params": {"type": "dimuon", "learning_rate": 1e-3}},
    "unknown field": {"loss_scale": 2},
}


@pytest.mark.parametrize("case", BAD_STEPS)
def test_a_bad_optimizer_step_fails_under_its_number(wire: Wire, run: Run, case: str) -> None:
    answer = wire.ok("/optim_step", {**run.step_body(run.number()), **BAD_STEPS[case]})
    assert wire.failure(answer["request_id"])["category"] == "user"
    run.goes_on()


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_a_rate_that_is_no_number_fails_under_its_number(wire: Wire, run: Run, value: bytes) -> None:
    number = run.number()
    head = b'{"model_id": "%s", "seq_id": %d, ' % (run.id.encode(), number)
    answer = wire.post("/optim_step", head + b'"adam_params": {"learning_rate": %s}}' % value)
    assert answer.status_code == 200, answer.text
    assert "learning_rate" in wire.failure(answer.json()["request_id"])["error"]


@pytest.mark.parametrize("number", [None, 0, -1, 1.5, "1", True, [1], 2**31, 2**63, 10**30])
@pytest.mark.parametrize("path", ["/optim_step", "/save_weights", "/load_weights", "/save_weights_external"])
def test_a_number_that_cannot_be_read_is_refused_with_the_field(
    wire: Wire, run: Run, path: str, number: object
) -> None:
    answer = wire.post(path, {**run.step_body(1), "seq_id": number})
    assert answer.status_code == 400, answer.text
    assert answer.json()["detail"].startswith("seq_id:")


BAD_SAVES = {
    "climbing": ("/save_weights", {"path": "../../etc/passwd"}),
    "a slash": ("/save_weights", {"path": "a/b"}),
    "a hidden file": ("/save_weights", {"path": ".ssh"}),
    "no name": ("/save_weights", {"path": ""}),
    "a long name": ("/save_weights", {"path": "x" * 10_000}),
    "wildcards": ("/save_weights", {"path": "a.*.>"}),
    "a tinker path": ("/save_weights", {"path": "tinker://a/weights/b"}),
    "a short life": ("/save_weights", {"path": "a", "ttl_seconds": 1}),
    "a flag as text": ("/save_weights", {"path": "a", "overwrite": "perhaps"}),
    "metadata as list": ("/save_weights", {"path": "a", "user_metadata": ["x"]}),
    "huge metadata": ("/save_weights", {"path": "a", "user_metadata": {"x": "y" * 100_000}}),
    "neither named nor unnamed": ("/save_weights_for_sampler", {}),
    "named and unnamed": ("/save_weights_for_sampler", {"path": "a", "sampling_session_seq_id": 0}),
    "unknown kind": ("/save_weights_for_sampler", {"path": "a", "kind": "eager"}),
    "negative session number": ("/save_weights_for_sampler", {"sampling_session_seq_id": -1}),
    "external without a name": ("/save_weights_external", {}),
    "encrypted": ("/save_weights_external", {"path": "a", "age_encryption_recipients": ["age1x"]}),
    "load from nowhere": ("/load_weights", {"optimizer": False}),
    "load of no path": ("/load_weights", {"path": "file:///etc/passwd", "optimizer": False}),
    "load of what is not there": ("/load_weights", {"path": "tinker://a/weights/b", "optimizer": False}),
    "load that climbs": ("/load_weights", {"path": "tinker://../weights/..", "optimizer": True}),
    "load without the flag": ("/load_weights", {"path": "tinker://a/weights/b"}),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SAVES)
def test_a_bad_save_or_load_fails_under_its_number(wire: Wire, run: Run, case: str) -> None:
    path, body = BAD_SAVES[case]
    answer = wire.post(path, {"model_id": run.id, "seq_id": run.number(), **body})
    assert answer.status_code == 200, answer.text
    assert wire.failure(answer.json()["request_id"])["category"] == "user"
    assert run.step().json()["type"] == "optim_step"


BAD_MODELS = {
    "unknown base model": ({"base_model": "gpt-5"}, "base_model"),
    "path as base model": ({"base_model": "../../etc"}, "base_model"),
    "no adapter": ({"lora_config": None}, "lora_config"),
    "rank 0": ({"lora_config": {"rank": 0}}, "rank"),
    "rank NaN": ({"lora_config": {"rank": "NaN"}}, "rank"),
    "huge rank": ({"lora_config": {"rank": 10**9}}, "rank"),
    "nothing trained": (
        {"lora_config": {"rank": 2, "train_attn": False, "train_mlp": False, "train_unembed": False}}, "train_attn",
    ),
    "unknown part": ({"lora_config": {"rank": 2, "train_router": True}}, "train_router"),
    "unknown optimizer": ({"optimizer_config": {"type": "dimuon", "version": 1}}, "optimizer_config"),
    "metadata of numbers": ({"user_metadata": {"a": 1}}, "user_metadata"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_bad_model_fails_as_a_future_and_its_number_stays_failed(wire: Wire, case: str) -> None:
    change, named = BAD_MODELS[case]
    session = wire.session()
    body = {
        "session_id": session,
        "model_seq_id": 0,
        "base_model": wire.base_model,
        "lora_config": {"rank": 2},
    }
    answers = [wire.ok("/create_model", {**body, **change}), wire.ok("/create_model", body)]
    assert answers[0] == answers[1], "a number is used once"
    failure = wire.failure(answers[0]["request_id"])
    assert failure["category"] == "user" and named in failure["error"]
    assert wire.post("/get_info", {"model_id": answers[0]["model_id"]}).status_code == 404
    assert wire.post("/optim_step", {"model_id": answers[0]["model_id"], "seq_id": 1}).status_code == 404
    assert wire.result(wire.ok("/create_model", {**body, "model_seq_id": 1})["request_id"]).json()["model_id"]


def test_a_client_that_hangs_up_in_the_middle_of_a_body_disturbs_nobody(wire: Wire, run: Run) -> None:
    url = wire.http.base_url
    with socket.create_connection((url.host, url.port)) as client:
        client.sendall(
            b"POST /api/v1/forward_backward HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999\r\n\r\nabc"
        )
    run.goes_on()
