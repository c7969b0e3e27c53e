"""Who has broken into the reward service can do what that service does, and nothing else.

Tried on a NATS server that is configured by the manifests, with that service's own user.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from events import catalog, envelope, names, retry, streams
from events.bus import Bus
from events.confined import is_confined
from events.failure import BusUnavailable
from events.record_store import Records
from events.records import FunctionSource, SessionRecord
from events.tenants import open_consumer
from rekindle.types.keys import EVERYONE
from tests import lent_nats
from tests.knative import knative_sets as sets
from tests.lent_nats import LentNats

BASE, TENANT = "lab/tiny", "victim"
RUN = names.run_subject(BASE, TENANT, "s:train:0")
SESSION = names.record_subject("session", TENANT, "s")
OWN = {streams.REWARD, streams.SCORES, streams.FUNCTIONS, streams.FAILURES}
OTHERS = [*sorted({one.name or "" for one in streams.shared(1)} - OWN), names.run_stream(BASE)]
APIS = ("$JS.API", "services.API")
SECRET = b"what no other service may read"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LentNats]:
    found = lent_nats.made(tmp_path_factory.mktemp("nats"))
    found.process.start()
    yield found
    found.process.stop()


@pytest.fixture
async def trusted(server: LentNats) -> AsyncIterator[Bus]:
    """One of the other services."""
    bus = await Bus.connect(server.url("rekindle-nats"), name="trusted")
    await bus.ensure_shared_streams()
    await bus.ensure_run_stream(BASE)
    yield bus
    await bus.close()


@pytest.fixture
async def thief(server: LentNats, trusted: Bus) -> AsyncIterator[Client]:
    """Whoever has the reward service's password."""
    client = Client()
    await client.connect(server.url("rekindle-nats-reward"), error_cb=_ignore)
    yield client
    await client.close()


async def _ignore(_: Exception) -> None: ...


def event(subject: str, **extensions: str) -> Any:
    return envelope.make_event(
        catalog.RECORD, id="1", tenant=TENANT, service="x", subject=subject, data=SECRET, **extensions
    )


async def ask(client: Client, subject: str, request: Any = None) -> Msg | None:
    """What is answered; None: nobody does."""
    try:
        return await client.request(subject, json.dumps(request or {}).encode(), timeout=5)
    except errors.NoRespondersError:
        return None


async def held(bus: Bus) -> dict[str, tuple[int, int]]:
    """Of each stream of others: the newest entry's place, and how many consumers it has."""
    found = {str(one.config.name): one.state for one in await bus.js.streams_info()}
    return {name: (found[name].last_seq, found[name].consumer_count) for name in OTHERS}


WRITES = [
    f"{RUN}.cmd.1",
    f"{RUN}.result.1",
    f"{RUN}.lease",
    f"{RUN}.head",
    f"{RUN}.checkpoint.weights.x",
    SESSION,
    names.record_subject("model", EVERYONE, BASE),
    names.record_subject("rl_run", TENANT, "rl-0"),
    names.sample_subject(BASE, TENANT, "s", "s:sample:0", 1),
    names.data_subject(TENANT, "rl-0", 1),
    names.collect_subject(TENANT, "tinker://s/weights/x"),
    names.release_subject(TENANT, "s"),
    names.later_subject(names.collect_subject(TENANT, "tinker://s/weights/x")),
    names.result_subject("sample", TENANT, "s:sample:0", 1),
    names.result_subject("data", TENANT, "data:0", 1),
    names.alive_subject("train-0"),
    names.rl_subject(TENANT, "rl-0", "control"),
    names.fact_subject(TENANT, catalog.RUN_COMPLETED),
    names.fact_subject(TENANT, catalog.ROLLOUT_COMPLETED),
    names.firing_subject(TENANT, "t", 1, "e"),
    names.dead_subject(names.data_subject(TENANT, "rl-0", 1)),
    names.attempts_subject(names.data_subject(TENANT, "rl-0", 1)),
    names.open_subject("data", "x"),
    names.queued(names.data_subject(TENANT, "rl-0", 1)),
    names.stored_subject(f"{RUN}.result.1"),
]


@pytest.mark.parametrize("subject", WRITES)
async def test_what_others_write_it_cannot_write(trusted: Bus, thief: Client, subject: str) -> None:
    before = await held(trusted)
    assert await ask(thief, subject, {"forged": True}) is None
    assert await held(trusted) == before


def requests(stream: str) -> list[tuple[str, Any]]:
    """Requests to JetStream about one stream."""
    push = {"durable_name": "c", "deliver_subject": "to.me", "ack_policy": "none"}
    copy = {"name": "COPY", "sources": [{"name": stream}]}
    config = {"name": stream, "subjects": ["mine.>"]}
    return [
        (f"STREAM.INFO.{stream}", {"subjects_filter": ">"}),
        (f"STREAM.MSG.GET.{stream}", {"seq": 1, "next_by_subj": ">"}),
        (f"DIRECT.GET.{stream}", {"seq": 1, "next_by_subj": ">"}),
        (f"STREAM.DELETE.{stream}", None),
        (f"STREAM.PURGE.{stream}", None),
        (f"STREAM.UPDATE.{stream}", config),
        (f"STREAM.MSG.DELETE.{stream}", {"seq": 1}),
        (f"STREAM.SNAPSHOT.{stream}", {"deliver_subject": "to.me"}),
        ("STREAM.CREATE.COPY", copy),
        (f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": push}),
        (f"CONSUMER.DURABLE.CREATE.{stream}.c", {"stream_name": stream, "config": push}),
        (f"CONSUMER.DELETE.{stream}.c", None),
        (f"CONSUMER.MSG.NEXT.{stream}.c", {"batch": 1, "no_wait": True}),
        (f"CONSUMER.LIST.{stream}", None),
    ]


def refused(answer: Msg | None) -> bool:
    return answer is None or "JetStream not enabled for account" in answer.data.decode()


@pytest.mark.parametrize("stream", OTHERS)
async def test_streams_of_others_it_cannot_read_change_or_remove(
    trusted: Bus, thief: Client, stream: str
) -> None:
    before = await held(trusted)
    for what, request in requests(stream):
        for api in APIS:
            assert refused(await ask(thief, f"{api}.{what}", request)), what
    assert await held(trusted) == before


@pytest.mark.parametrize("stream", sorted(OWN))
async def test_its_own_streams_it_cannot_redefine_remove_or_have_sent_elsewhere(
    trusted: Bus, thief: Client, stream: str
) -> None:
    rights = ("STREAM.INFO", "STREAM.MSG.GET", "DIRECT.GET", "STREAM.PURGE", "CONSUMER.MSG.NEXT")
    for what, request in requests(stream):
        if not what.startswith(rights):
            for api in APIS:
                assert refused(await ask(thief, f"{api}.{what}", request)), what


async def test_the_other_services_can_do_all_of_it(trusted: Bus) -> None:
    """So that the tests above can fail."""
    for what, request in requests(streams.RECORDS):
        if what.startswith(("STREAM.INFO", "STREAM.MSG.GET", "CONSUMER.LIST", "STREAM.MSG.DELETE")):
            answer = await ask(trusted.client, f"$JS.API.{what}", request)
            assert answer is not None and "not enabled" not in answer.data.decode()
    for subject in WRITES[:-3]:
        answer = await ask(trusted.client, subject, {"forged": True})
        assert answer is not None and "stream" in json.loads(answer.data), subject


async def test_it_hears_nothing_but_that_work_has_come(trusted: Bus, thief: Client) -> None:
    heard: list[str] = []
    own = names.queued(names.reward_subject(TENANT, "score:ab", 1))

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    await thief.subscribe(">", cb=hear)
    await thief.flush()
    for subject in (f"{RUN}.result.7", f"{SESSION}-heard", names.fact_subject(TENANT, catalog.RUN_STARTED)):
        await trusted.append(subject, event(subject))
    await trusted.append(names.reward_subject(TENANT, "score:ab", 1), event("score:ab"))
    async with asyncio.timeout(10):
        while own not in heard:  # noqa: ASYNC110 - what was said before has come before
            await asyncio.sleep(0.01)
    assert {one for one in heard if not one.startswith("_INBOX.")} == {own}


@pytest.mark.parametrize(
    "request_to",
    ["services.API.DIRECT.GET.FUNCTIONS", "services.API.CONSUMER.MSG.NEXT.REWARD.reward-thief"],
)
async def test_no_answer_goes_where_it_could_not_write_itself(
    trusted: Bus, thief: Client, request_to: str
) -> None:
    """The server sends answers, with headers and data as they were stored, to whatever subject a request names."""
    lying = names.record_subject("function", TENANT, "lie")
    head, data = envelope.to_message(event("lie"))
    await thief.jetstream().publish(lying, data, headers=head)
    targets, refused_at_once = (f"{RUN}.cmd.9", "$JS.API.STREAM.DELETE.RECORDS"), "$JS.ACK.SAMPLE.c.1.1.1.0.0"
    for number in range(len(targets)):
        await thief.jetstream().publish(f"reward.thief.score-ab.{number}", data, headers=head)
    await open_consumer(trusted, streams.REWARD, "reward", names.REWARD_FILTER, "thief", ack_wait=60.0)
    before = await held(trusted)
    request = {"last_by_subj": lying} if "DIRECT" in request_to else {"batch": 1, "no_wait": True}
    own = [await thief.subscribe(target) for target in targets]
    for target in (refused_at_once, *targets):
        await thief.publish(request_to, json.dumps(request).encode(), reply=target)
    for subscription in own:  # subjects of its own account, which are called as those of others are
        assert (await subscription.next_msg(timeout=10)).data == data
    assert await held(trusted) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": WRITES[10]},
        {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": f"{RUN}.cmd.1"},
    ],
)
async def test_a_message_for_later_stays_among_its_own(
    thief: Client, trusted: Bus, headers: dict[str, str]
) -> None:
    before = await held(trusted)
    answer = await thief.request("later.reward.thief.x.1", b"{}", headers=headers, timeout=5)
    assert "error" in json.loads(answer.data)
    assert await held(trusted) == before


async def test_what_it_says_lies_elsewhere_is_not_fetched(trusted: Bus, thief: Client) -> None:
    """Others would fetch, and even delete, with rights of their own what its events refer to."""
    own = "reward/a-0123abcd/claims/2026-11-22/b"
    for number, key in enumerate(("other/base/run/weights", "reward/../other/weights", own)):
        subject = names.result_subject("reward", TENANT, "score:ef", number)
        head, data = envelope.to_message(event("score:ef", dataref=key))
        head["Nats-Subject"] = names.result_subject("sample", TENANT, "s:sample:0", 1)
        await thief.jetstream().publish(subject, data, headers=head)
        stored = await trusted.first(streams.SCORES, subject)
        assert stored is not None and stored.subject == subject
        assert stored.event.get_extension("dataref") == (key if number == 2 else None)


async def test_functions_are_kept_read_and_removed_by_both(server: LentNats, trusted: Bus) -> None:
    """With its rights, and as with three copies of each stream too, where leaders are asked."""
    lent = server.of_reward
    for replicas in (1, 3):
        bus = await Bus.connect(
            lent["NATS_URL"], name="reward", replicas=replicas, api=lent["REKINDLE_JETSTREAM_API"]
        )
        await bus.ensure_shared_streams()
        mine, theirs = Records(bus), Records(trusted)
        record = FunctionSource(name="f", version="1", source="def f(): ...")
        await mine.replace(TENANT, "f@1", record)
        assert await mine.get(FunctionSource, TENANT, "f@1") == record
        assert record in await mine.all(FunctionSource, TENANT)
        assert await theirs.get(FunctionSource, TENANT, "f@1") == record
        await mine.delete(FunctionSource, TENANT, "f@1")
        assert await theirs.all(FunctionSource, TENANT) == []
        await bus.close()


async def test_a_denied_read_says_so(server: LentNats) -> None:
    lent = server.of_reward
    bus = await Bus.connect(lent["NATS_URL"], name="reward", api=lent["REKINDLE_JETSTREAM_API"])
    with pytest.raises(BusUnavailable, match=r"nobody answers there: .* or is not for this user"):
        await Records(bus).get(SessionRecord, TENANT, "s")
    with pytest.raises(BusUnavailable, match=r"nobody answers there: .* or is not for this user"):
        await bus.append(f"{RUN}.cmd.1", event("s"))
    await bus.close()


async def test_what_is_denied_for_long_is_said_again_and_again() -> None:
    left = retry.TOLD_EVERY

    @retry.until_available
    async def denied() -> None:
        nonlocal left
        if left:
            left -= 1
            raise BusUnavailable("record.x: nobody answers there")

    with structlog.testing.capture_logs() as said:
        await denied()
    assert said == [
        {
            "event": "bus.unavailable",
            "log_level": "warning",
            "attempts": retry.TOLD_EVERY,
            "reason": "record.x: nobody answers there",
        }
    ]


@pytest.mark.parametrize("set_name", ["base", "ha"])
def test_each_shape_of_the_installation_has_these_accounts(set_name: str) -> None:
    told, base = (sets.one(name, "ConfigMap", "nats")["data"] for name in (set_name, "base"))
    assert told["accounts.conf"] == base["accounts.conf"]
    assert "include accounts.conf" in told["nats.conf"] and "authorization" not in told["nats.conf"]


def test_what_is_lent_is_what_the_code_calls_confined() -> None:
    """Else what comes from there might be believed to refer to payloads of others."""
    text = sets.one("base", "ConfigMap", "nats")["data"]["accounts.conf"]
    lent = set(re.findall(r'{ service: "([^"]+)", accounts', text))
    written = {one for one in lent if not one.startswith(("$JS.", "open."))}
    examples = {one.replace("*", "t").replace(">", "t.x.1") for one in written}
    assert examples and all(map(is_confined, examples))
    kept = [stream for stream in streams.shared(1) if stream.name in OWN]
    assert {subject for stream in kept for subject in stream.subjects or ()} == {
        "reward.>", "later.reward.>", "rewards.result.>", "rewards.record.>", "rewards.attempts.>",
    }  # fmt: skip
    borrowed = set(re.findall(r'account: services, subject: "([^"]+)"', text))
    assert borrowed == lent | set(re.findall(r'{ stream: "([^"]+)", accounts', text))
