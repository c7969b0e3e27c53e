"""CloudEvents travel as NATS messages in both modes and come back the same."""

import base64
import json
from datetime import UTC, date, datetime

import pytest
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from events import blob_keys, envelope

PRINTABLE = st.text(st.characters(codec="utf-8"), min_size=1, max_size=50)
VISIBLE = {chr(code) for code in range(0x21, 0x7F)} - {'"'}


def event(data: bytes = b"{}", **extensions: str) -> CloudEvent:
    return envelope.make_event(
        "dev.rekindle.train.optim_step",
        id="run:1",
        tenant="local",
        service="gateway",
        subject="run",
        data=data,
        **extensions,
    )


def structured(**fields: object) -> bytes:
    return json.dumps({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", **fields}).encode()


@given(PRINTABLE, PRINTABLE, PRINTABLE, st.binary(max_size=200))
def test_binary_mode_gives_back_what_went_in(id_: str, subject: str, extension: str, data: bytes) -> None:
    sent = envelope.make_event(
        "t", id=id_, tenant="local", service="s", subject=subject, data=data, dataref=extension
    )
    headers, body = envelope.to_message(sent)
    got = envelope.from_message(headers, body)
    assert got.get_attributes() == sent.get_attributes()
    assert envelope.data_of(got) == data


@given(PRINTABLE, PRINTABLE, st.binary(max_size=200))
def test_structured_mode_gives_back_what_went_in(id_: str, subject: str, data: bytes) -> None:
    sent = envelope.make_event("t", id=id_, tenant="local", service="s", subject=subject, data=data)
    got = envelope.from_message({"Content-Type": "application/cloudevents+json"}, envelope.to_json(sent))
    assert got.get_attributes() == sent.get_attributes()
    assert envelope.data_of(got) == data


@given(PRINTABLE)
def test_header_values_hold_only_what_the_binding_allows(text: str) -> None:
    headers, _ = envelope.to_message(event(note=text))
    assert all(set(value) <= VISIBLE for value in headers.values())
    assert all(name.startswith("ce-") for name in headers)


def test_header_names_and_percent_encoding_follow_the_specification() -> None:
    headers = {
        "CE-SpecVersion": "1.0",
        "Ce-Id": "1",
        "ce-source": "/s",
        "ce-type": "t",
        "ce-subject": "Euro%20%E2%82%AC%20%F0%9F%98%80",
        "ce-time": "2026-01-02T03:04:05.000006Z",
        "Nats-Msg-Id": "not an attribute",
    }
    got = envelope.from_message(headers, b"x")
    assert got.get_subject() == "Euro € 😀"
    assert got.get_time() == datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert "msg-id" not in " ".join(got.get_attributes())


def test_structured_events_without_a_content_type_are_read() -> None:
    got = envelope.from_message({"Nats-Msg-Id": "1"}, structured(data={"a": 1}))
    assert envelope.json_of(got) == {"a": 1}
    assert envelope.from_message(None, structured(data={"a": 1})).get_id() == "1"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_json_value_is_the_data_of_a_structured_event(value: object) -> None:
    assert envelope.json_of(envelope.from_message({}, structured(data=value))) == value


def test_structured_data_of_other_types_is_bytes() -> None:
    text = structured(data="plain", datacontenttype="text/plain")
    assert envelope.data_of(envelope.from_message({}, text)) == b"plain"
    binary = structured(data_base64=base64.b64encode(b"\x00\xff").decode(), datacontenttype="application/x")
    assert envelope.data_of(envelope.from_message({}, binary)) == b"\x00\xff"


@pytest.mark.parametrize(
    "content_type", ["application/cloudevents+json; charset=utf-8", "Application/CloudEvents+JSON"]
)
def test_the_content_type_of_structured_mode_is_recognised(content_type: str) -> None:
    assert envelope.from_message({"content-type": content_type}, structured()).get_type() == "t"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"nonsense", b"\xff\xfe", b"{}", b'{"specversion": "1.0", "id": "1"}', b"null"]
)
def test_what_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(Exception, match=r".") as refused:
        envelope.from_message({}, body)
    assert type(refused.value).__name__ in (
        "ValueError",
        "JSONDecodeError",
        "UnicodeDecodeError",
        "CloudEventValidationError",
    )


def test_binary_mode_lacking_an_attribute_is_refused() -> None:
    with pytest.raises(Exception, match="type"):
        envelope.from_message({"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s"}, b"")


def test_a_reference_to_data_elsewhere_is_kept() -> None:
    headers, body = envelope.to_message(event(b"", dataref="local-x/claims/ab/abcd"))
    assert envelope.from_message(headers, body).get_extension("dataref") == "local-x/claims/ab/abcd"


DAY = blob_keys.claims_of_day("A tenant!", date(2026, 11, 22), confined=True)
PAYLOAD = f"{DAY}/{blob_keys.claim_name('score:ab:1', 'f' * 64)}"
ODD = [DAY, "reward/", "reward//x", f"{DAY}/", f"{DAY}/..", f"{DAY}/a/b", f"{DAY}/{'a' * 2000}", f"{DAY}/\n"]


@pytest.mark.parametrize(
    "subject", ["facts.t.rollout.scored", "rewards.result.t.score-ab.0", "facts.t.run.started"]
)
@pytest.mark.parametrize("key", [PAYLOAD, *ODD])
def test_payloads_of_the_reward_service_have_no_keys_but_those_that_are_made(subject: str, key: str) -> None:
    """No store takes the others, or what they name is no blob: whoever reads would fail at that, again and again."""
    headers, body = envelope.to_message(event(b"", dataref=key))
    found = envelope.received(subject, headers, body).get_extension("dataref")
    assert found == (None if key in ODD and subject != "facts.t.run.started" else key)


def test_what_is_nested_too_deeply_is_refused_like_all_else_that_cannot_be_read() -> None:
    deep = b"[" * 100_000
    with pytest.raises(ValueError, match="nested"):
        envelope.json_of(event(deep))
    with pytest.raises(ValueError, match="nested"):
        envelope.from_message(None, structured(data="").replace(b'""', deep))
