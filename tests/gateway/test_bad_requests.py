"""Mistakes that have no number: every route answers a 4xx with a reason, never 402, 409 or 5xx."""

import time
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.gateway.wire import Run, Wire

POSTS = (
    "client/config", "client/dynamic_config", "create_session", "session_heartbeat", "telemetry", "create_model",
    "create_sampling_session", "get_info", "weights_info", "optim_step", "save_weights", "save_weights_external",
    "save_weights_for_sampler", "load_weights", "asample", "retrieve_future", "sessions/x/finish",
)  # fmt: skip
NOT_JSON = {
    "nothing": b"",
    "a word": b"hello",
    "half an object": b'{"session_id": ',
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "no UTF-8": b'{"session_id": "\xff\xfe"}',
    "UTF-16": '{"session_id": "x"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"session_id": "x"}',
    "half a surrogate pair": b'{"session_id": "\\ud800", "model_seq_id": 0}',
    "the same as bytes": b'{"session_id": "\xed\xa0\x80", "model_seq_id": 0}',
    "nested arrays": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "a number of 5000 digits": b'{"seq_id": ' + b"9" * 5000 + b"}",
    "protobuf": b"\x0a\x01x\x10\x01",
}
IDS = ("x", "*", ">", "a.b", "é", "%00", "..%2f..", "a%2fb", "x" * 10_000, "%ff%fe", "%ed%a0%80", "~", " ")


def refused(answer: httpx.Response) -> str:
    """The reason of a refusal."""
    assert 400 <= answer.status_code < 500 and answer.status_code not in (402, 408, 409, 429), answer.text
    found: str = answer.json()["detail"]
    assert found
    return found


@pytest.mark.parametrize("case", NOT_JSON)
def test_a_body_that_is_no_json_object_is_refused_everywhere(wire: Wire, case: str) -> None:
    for path in POSTS:
        for content_type in ("application/json", "application/x-protobuf", "text/plain"):
            answer = wire.post(path, NOT_JSON[case], **{"content-type": content_type})
            assert refused(answer).startswith("body:"), path


@pytest.mark.parametrize("path", [path for path in POSTS if path not in ("create_session", "telemetry")])
def test_an_empty_object_is_refused_with_the_name_of_a_field(wire: Wire, path: str) -> None:
    assert refused(wire.post(path, {})).split(":")[0].isidentifier()


def test_fields_of_wrong_types_are_refused(wire: Wire) -> None:
    fields = (
        "session_id",
        "model_id",
        "request_id",
        "sampling_session_id",
        "tinker_path",
        "sdk_version",
        "reason",
    )
    numbers = {"seq_id": 1, "model_seq_id": 0, "sampling_session_seq_id": 0}
    for value in (None, True, 5, 1.5, [], {}, ["x"], {"type": "x"}, "", "x" * 10_000):
        body = {**dict.fromkeys(fields, value), **numbers}
        for path in POSTS:
            if path not in ("create_session", "telemetry", "client/config", "client/dynamic_config"):
                refused(wire.post(path, body))


@pytest.mark.parametrize("name", IDS)
def test_an_unknown_id_in_a_path_is_not_found(wire: Wire, name: str) -> None:
    for path in ("samplers/{}", "sessions/{}", "training_runs/{}", "training_runs/{}/checkpoints"):
        answer = wire.http.get(path.format(name))
        assert answer.status_code == 404, answer.text
        refused(answer)
    for method, tail in (("DELETE", ""), ("POST", "/publish"), ("DELETE", "/publish"), ("PUT", "/ttl")):
        answer = wire.http.request(method, f"training_runs/{name}/checkpoints/weights/{name}{tail}", json={})
        assert answer.status_code == 404, answer.text


@pytest.mark.parametrize("kind", ["", "models", "WEIGHTS", "..", "*"])
def test_an_unknown_kind_of_checkpoint_is_refused(wire: Wire, kind: str) -> None:
    refused(wire.http.delete(f"training_runs/x/checkpoints/{quote(kind)}/x"))


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=-1", "limit=x", "limit=99999999", "offset=-1", "offset=1e9", "access_scope=all"],
)
def test_a_bad_page_is_refused_with_the_field(wire: Wire, query: str) -> None:
    for path in ("training_runs", "checkpoints", "sessions"):
        assert refused(wire.http.get(f"{path}?{query}")).startswith(query.split("=")[0])


def test_a_page_behind_the_end_is_empty(wire: Wire) -> None:
    for path, key in (
        ("training_runs", "training_runs"),
        ("checkpoints", "checkpoints"),
        ("sessions", "sessions"),
    ):
        assert wire.http.get(f"{path}?offset={2**62}").json()[key] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "nothing"), ("POST", "forward"), ("POST", "copy_weights"), ("POST", "cancel_future"),
        ("POST", "retrieve_futures"), ("POST", "join_sampling_session"), ("POST", "create_custom_loss"),
        ("POST", "auth/token"), ("POST", "sessions/search"), ("PUT", "sessions/x/project"), ("GET", "audit"),
        ("GET", "sessions/x/trace_export"), ("GET", "billing/usage/events"), ("GET", "auth/apikey/me"),
        ("GET", "forward_backward"), ("PUT", "asample"), ("DELETE", "create_session"), ("PATCH", "healthz"),
        ("GET", "../../etc/passwd"), ("GET", "a" * 20_000),
    ],
)  # fmt: skip
def test_what_is_not_offered_says_so(wire: Wire, method: str, path: str) -> None:
    answer = wire.http.request(method, path)
    assert answer.status_code in (404, 405), answer.text
    assert refused(answer).startswith(method)


@pytest.mark.parametrize(
    "tail",
    ["1/x/y/z", "9999999999/é/a/b", "9999999999/x/..%2f..%2fetc/passwd", "x/y/z/a", "9999999999/x//etc/passwd",
     "-1/x/a/b", "9" * 5000 + "/x/a/b", "1/x/\0/b".replace("\0", "%00")],
)  # fmt: skip
def test_a_link_that_nobody_signed_opens_nothing(wire: Wire, tail: str) -> None:
    refused(wire.http.get(f"downloads/{tail}"))


def test_a_signed_link_opens_only_its_own_file(wire: Wire) -> None:
    run = wire.run()
    answer = wire.ok("/save_weights_external", {"model_id": run.id, "seq_id": run.number(), "path": "out"})
    wire.result(answer["request_id"])
    base = f"training_runs/{run.id}/checkpoints/external_weights"
    urls = wire.http.get(f"{base}/out/external_weights_urls").json()["urls"]
    config, weights = urls["adapter_config.json"], urls["adapter_model.safetensors"]
    assert httpx.get(config, trust_env=False).json()["peft_type"] == "LORA"
    assert refused(
        httpx.get(config.replace("adapter_config.json", "adapter_model.safetensors"), trust_env=False)
    )
    assert refused(httpx.get(config.replace("adapter_config.json", "..%2f..%2fx"), trust_env=False))
    expires = config.split("/downloads/")[1].split("/")[0]
    assert refused(httpx.get(weights.replace(expires, str(int(expires) + 1)), trust_env=False))
    assert wire.http.get(f"{base}/other/external_weights_urls").status_code == 404


@pytest.mark.parametrize("ttl", [0, -1, 1, "x", 1.5, 10**12, True, []])
def test_a_bad_time_to_live_is_refused(wire: Wire, ttl: object) -> None:
    run = wire.run()
    saved = wire.ok("/save_weights", {"model_id": run.id, "seq_id": run.number(), "path": "a"})
    wire.result(saved["request_id"])
    answer = wire.http.put(f"training_runs/{run.id}/checkpoints/weights/a/ttl", json={"ttl_seconds": ttl})
    assert refused(answer).startswith("ttl_seconds")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"host": "localhost.evil.example:80"},
    ],
)
def test_pages_of_other_sites_are_refused_on_loopback(wire: Wire, headers: dict[str, str]) -> None:
    answer = wire.http.get("get_server_capabilities", headers=headers)
    assert answer.status_code == 403
    assert (
        wire.http.get("get_server_capabilities", headers={"origin": "http://localhost:3000"}).status_code
        == 200
    )


def test_an_ended_session_says_so(wire: Wire) -> None:
    session = wire.session()
    assert wire.post("/session_heartbeat", {"session_id": session}).status_code == 200
    for kind in ("success", "errored"):
        wire.ok(f"/sessions/{session}/finish", {"reason": {"type": kind}})
    answer = wire.post("/session_heartbeat", {"session_id": session})
    assert answer.status_code == 410
    assert refused(wire.post(f"/sessions/{session}/finish", {"reason": {"type": "bored"}}))


def test_a_session_that_is_not_known_is_not_found(wire: Wire) -> None:
    assert wire.post("/session_heartbeat", {"session_id": "nobody"}).status_code == 410
    wire.ok("/sessions/nobody/finish", {"reason": {"type": "success"}})  # as said again, after its release
    model = {
        "session_id": "nobody",
        "model_seq_id": 0,
        "base_model": wire.base_model,
        "lora_config": {"rank": 1},
    }
    assert wire.post("/create_model", model).status_code == 404


@pytest.mark.parametrize(
    "body",
    [b'{"tags": [' + b'"a", ' * 10_000 + b'"a"]}', b'{"display_name": "' + b"x" * 9_000_000 + b'"}'],
    ids=["tags", "name"],
)
def test_a_session_of_unreasonable_size_is_refused(wire: Wire, body: bytes) -> None:
    reason = refused(wire.post("/create_session", body))
    assert reason.split(":")[0] in ("tags", "display_name") and len(reason) < 5000


def test_a_mistake_of_many_megabytes_is_reported_in_short(wire: Wire, run: Run) -> None:
    name = "x" * 9_000_000
    number = run.number()
    answer = wire.ok("/optim_step", {"model_id": run.id, "seq_id": number, name: 1})
    assert len(wire.failure(answer["request_id"])["error"]) < 5000
    body = {"sampling_session_id": wire.sampler(), "seq_id": 0, name: 1}
    assert len(wire.failure(wire.ok("/asample", body)["request_id"])["error"]) < 5000
    load = {"model_id": run.id, "seq_id": run.number(), "path": name, "optimizer": True}
    assert len(wire.failure(wire.ok("/load_weights", load)["request_id"])["error"]) < 5000
    assert len(refused(wire.post("/weights_info", {"tinker_path": name}))) < 5000


def test_text_of_any_language_survives(wire: Wire) -> None:
    metadata = {"größe": "日本語 \U0001f600", "a.b*>": "\t\n\"'"}
    body: dict[str, Any] = {"tags": ["é"], "sdk_version": "x", "user_metadata": metadata, "display_name": "Ω"}
    session = wire.ok("/create_session", body)["session_id"]
    found = wire.http.get(f"sessions/{session}").json()
    assert found["user_metadata"] == metadata and found["display_name"] == "Ω"


def test_a_large_parse_does_not_hold_up_others(wire: Wire, run: Run) -> None:
    started = time.monotonic()
    assert wire.http.get("healthz").json() == {"status": "ok"}
    assert time.monotonic() - started < 20
    run.goes_on()
