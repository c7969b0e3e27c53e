"""Files over HTTP: sent in parts, resumed, made into versions; whatever is wrong leaves nothing behind."""

import asyncio
import contextlib
import hashlib
import io
import json
import signal
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from events import blob_keys, catalog, ids, names
from events.bus import Bus
from events.edge import Edge
from events.failure import Failure
from events.outside import Guard
from events.records import UploadRecord
from events.streams import DATA
from services.data.commands import EXPIRY, make
from services.data.rl.create import create
from services.data.rl.triggers import Triggers
from services.data.rl.webhook import Webhooks
from services.data.settings import DataSettings
from services.data.worker import DataWorker
from tests.data.files import ROWS, csv_file, jsonl, parquet, zipped
from tests.data.lab import PART, Failed, Lab, wait_until

LARGE_BYTES = 80 * 2**20
"""More than a thousand parts."""
BIG = [{"n": n, "text": f"row {n} " * 20} for n in range(3000)]


@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet"])
def test_a_file_becomes_a_version(lab: Lab, name: str, format_: str) -> None:
    data = {"jsonl": jsonl, "csv": csv_file, "parquet": parquet}[format_](ROWS)
    version = lab.upload(data, name, format_, description="three rows")
    assert (version["name"], version["version"], version["rows"]) == (name, 1, 3)
    assert (version["format"], version["parent"], version["description"]) == (format_, None, "three rows")
    assert version["how"] == {"op": "upload", "sha256": hashlib.sha256(data).hexdigest()}
    assert lab.rows(name) == ROWS
    assert lab.http.get(f"datasets/{name}/versions/1").json() == version
    assert lab.http.get(f"datasets/{name}").json() == {"name": name, "versions": [version]}


def test_new_content_is_a_new_version_and_the_newest_again_is_itself(lab: Lab, name: str) -> None:
    first = lab.upload(jsonl(ROWS), name)
    assert lab.upload(csv_file(ROWS), name, "csv") == first
    second = lab.upload(jsonl(ROWS[:2]), name)
    third = lab.upload(jsonl(ROWS), name)
    assert [second["version"], third["version"]] == [2, 3]
    assert third["sha256"] == first["sha256"] != second["sha256"]
    listed = lab.http.get(f"datasets/{name}").json()["versions"]
    assert listed == [third, second, first]
    assert lab.http.get(f"datasets/{name}/versions/latest").json() == third
    everything = lab.http.get("datasets").json()["datasets"]
    assert [one for one in everything if one["name"] == name] == [third]


def test_uploads_that_end_together_get_numbers_of_their_own(lab: Lab, name: str) -> None:
    requests = []
    for count in (1, 2, 3, 2):  # the last one is the same upload as the second
        upload = lab.announce(jsonl(BIG[:count]), name).json()
        lab.send(upload, jsonl(BIG[:count]))
        requests.append(upload["upload_id"])
    futures = [lab.complete(id) for id in dict.fromkeys(requests)]
    versions = [lab.result(one) for one in futures]
    assert sorted(version["version"] for version in versions) == [1, 2, 3]
    for version in versions:
        assert lab.rows(name, version["version"]) == BIG[: version["rows"]]


def test_an_upload_goes_on_where_it_was(lab: Lab, name: str) -> None:
    data = jsonl(BIG)
    first = lab.announce(data, name).json()
    assert (first["part_bytes"], first["parts"], first["state"]) == (PART, [], "open")
    lab.send(first, data, range(5))
    lab.send(first, data, range(6, 7))
    again = lab.announce(data, name).json()
    assert again == lab.http.get(f"datasets/uploads/{first['upload_id']}").json()
    assert again == first | {"parts": [0, 1, 2, 3, 4, 6]}
    count = -(-len(data) // PART)
    answer = lab.http.post(f"datasets/uploads/{first['upload_id']}/complete")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(f"parts: {count - 6} of {count} are missing: 5, 7, 8")
    lab.send(again, data, range(5, count))
    request_id = lab.complete(first["upload_id"])
    assert lab.complete(first["upload_id"]) == request_id
    assert lab.result(request_id)["rows"] == len(BIG)
    assert lab.complete(first["upload_id"]) == request_id
    assert lab.rows(name, limit=700) == BIG


def test_a_part_comes_twice_and_counts_once(lab: Lab, name: str) -> None:
    data = jsonl(BIG)
    upload = lab.announce(data, name).json()
    lab.send(upload, data)
    lab.send(upload, data)
    assert lab.result(lab.complete(upload["upload_id"]))["rows"] == len(BIG)


def test_the_bytes_of_a_part_can_be_vouched_for(lab: Lab, name: str) -> None:
    data = jsonl(ROWS)
    id = lab.announce(data, name).json()["upload_id"]
    bad = lab.put(id, 0, data, **{"X-Part-SHA256": "0" * 64})
    assert bad.status_code == 400 and bad.json()["detail"].startswith("X-Part-SHA256: announced 000")
    assert lab.http.get(f"datasets/uploads/{id}").json()["parts"] == []
    assert lab.put(id, 0, data, **{"X-Part-SHA256": hashlib.sha256(data).hexdigest()}).status_code == 200


def test_names_may_be_percent_encoded(lab: Lab, name: str) -> None:
    version = lab.upload(jsonl(ROWS), name)
    encoded = name.replace("/", "%2F")
    assert lab.http.get(f"datasets/{encoded}/versions/1").json() == version
    assert lab.http.get(f"datasets/{encoded}/versions/latest/rows", params={"limit": 2}).json() == {
        "rows": ROWS[:2],
        "cursor": "r2",
    }


def test_a_version_is_handed_out_as_parquet(lab: Lab, name: str) -> None:
    version = lab.upload(jsonl(ROWS), name)
    answer = lab.http.get(f"datasets/{name}/versions/1/file")
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    assert len(answer.content) == version["bytes"]
    assert pq.read_table(io.BytesIO(answer.content)).to_pylist() == ROWS
    rest = lab.http.get(f"datasets/{name}/versions/1/file", headers={"Range": "bytes=4-"})
    assert rest.status_code == 206 and rest.content == answer.content[4:]


BOMB = zipped(b"a\n" + (b"0" * 1000 + b"\n") * 80_000)
HOSTILE: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "half a parquet file": ("parquet", parquet(BIG)[:-9000], {}, "file: not whole"),
    "parquet of noise": (
        "parquet",
        b"PAR1" + b"\x15\x04" * 200 + struct.pack("<I", 300) + b"PAR1",
        {},
        "file: not readable as Parquet",
    ),
    "mixed types": ("jsonl", jsonl([*BIG, {"n": "x"}]), {}, 'line 3001, column "n": mixed types int and string'),
    "wrong hash": ("jsonl", jsonl(ROWS), {"sha256": "1" * 64}, "sha256: announced 1111"),
    "zip bomb": ("csv", BOMB, {"compression": "gzip"}, "file: unpacks to more than 67108864 bytes"),
    "half a zip": ("csv", zipped(csv_file(BIG))[:-9], {"compression": "gzip"}, "compression: the file cannot be"),
    "unbalanced quotes": ("csv", csv_file(ROWS) + b'"x,1,1,true\n', {}, "line 6: not CSV: a quote that opens"),
    "ragged": ("csv", b"a,b\n1\n", {}, "line 2: 1 fields"),
    "only a header": ("csv", b"a,b\n", {}, "file: no rows"),
    "column twice": ("csv", b"a,a\n1,1\n", {}, 'line 1: column "a" appears 2 times'),
    "many columns": ("csv", b"c," * 10**6 + b"c\n", {}, "line 1: 1000001 columns"),
    "not utf-8": ("jsonl", b'{"a":"\xff"}', {}, "line 1: not UTF-8"),
    "deep": ("jsonl", b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}", {}, "line 1: nested too deep"),
    "nan": ("jsonl", b'{"a":NaN}', {}, "line 1: not JSON: NaN is no JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_fails_with_a_reason_and_leaves_nothing(lab: Lab, name: str, case: str) -> None:
    format_, data, changed, said = HOSTILE[case]
    before = lab.at_rest()
    with pytest.raises(Failed) as raised:
        lab.upload(data, name, format_, **changed)
    assert str(raised.value).startswith(f"user: {said}")
    lab.settled(before)
    assert lab.http.get(f"datasets/{name}").status_code == 404


def test_after_a_failure_the_same_file_can_be_sent_again(lab: Lab, name: str) -> None:
    for attempt in (1, 2):
        with pytest.raises(Failed, match="line 2: not JSON"):
            lab.upload(b'{"a":1}\nx', name)
        lab.at_rest()
        id = lab.announce(b'{"a":1}\nx', name).json()["upload_id"]
        assert lab.http.delete(f"datasets/uploads/{id}").status_code == 204, attempt


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "../x"}, "name: "),
        ({"name": "/etc/passwd"}, "name: "),
        ({"name": "a\0b"}, "name: "),
        ({"name": "x" * 5000}, "name: 5000 characters"),
        ({"name": "uploads/x"}, "name: "),
        ({"name": None}, "name: missing"),
        ({"size_bytes": 0}, "size_bytes: "),
        ({"size_bytes": 2**40}, "size_bytes: 1099511627776, the limit is 68719476736"),
        ({"size_bytes": 1e300}, "size_bytes: "),
        ({"sha256": "../../x"}, "sha256: "),
        ({"format": "pickle"}, "format: "),
        ({"format": "parquet", "compression": "zstd"}, "compression: "),
    ],
)
def test_a_hostile_announcement_is_refused_and_leaves_nothing(
    lab: Lab, name: str, changed: dict[str, Any], said: str
) -> None:
    before = lab.at_rest()
    answer = lab.announce(jsonl(ROWS), name, **changed)
    assert answer.status_code == 400 and answer.json()["detail"].startswith(said)
    assert lab.left() == before


def test_ten_gigabytes_announced_and_a_kilobyte_sent(lab: Lab, name: str) -> None:
    before = lab.at_rest()
    id = lab.announce(b"", name, size_bytes=10 * 2**30).json()["upload_id"]
    short = lab.put(id, 0, b"x" * 1024)
    assert (short.status_code, short.json()["detail"]) == (400, f"body: 1024 bytes, this part has {PART}")
    refused = lab.http.post(f"datasets/uploads/{id}/complete")
    assert refused.status_code == 400 and "163840 of 163840 are missing: 0, 1, 2" in refused.text
    assert lab.http.delete(f"datasets/uploads/{id}").status_code == 204
    assert lab.http.get(f"datasets/uploads/{id}").status_code == 404
    assert lab.left() == before


def test_parts_that_do_not_belong_are_refused(lab: Lab, name: str) -> None:
    data = jsonl(BIG)
    upload = lab.announce(data, name).json()
    id, count = upload["upload_id"], -(-len(data) // PART)

    def endless() -> Any:
        while True:
            yield b"x" * PART

    assert lab.put(id, count, b"x").json()["detail"] == f"part: {count}, the file has parts 0 to {count - 1}"
    assert lab.put(id, -1, b"x").status_code == 400
    assert lab.put(id, "..%2F0", b"x").status_code in (404, 405)
    assert lab.put(id, "x", b"x").status_code == 400
    assert (
        lab.put(id, count - 1, b"x" * PART).json()["detail"].startswith(f"body: {PART} bytes, this part has ")
    )
    assert lab.put("0" * 32, 0, b"x").status_code == 404
    with contextlib.suppress(httpx.TransportError):  # cut off before all of it was sent
        assert lab.http.put(f"datasets/uploads/{id}/parts/0", content=endless()).status_code == 400
    assert lab.http.get(f"datasets/uploads/{id}").json()["parts"] == []
    assert lab.http.delete(f"datasets/uploads/{id}").status_code == 204


def test_bodies_that_are_no_json_are_refused(lab: Lab) -> None:
    assert lab.http.post("datasets", content=b"{").status_code == 400
    assert lab.http.post("datasets", content=b"[]").status_code == 400


@pytest.mark.parametrize(
    "route",
    ["datasets/no/such", "datasets/no/versions/1", "datasets/no/versions/1/rows", "datasets/no/versions/1/file",
     "datasets/uploads/no", "datasets/../../etc/passwd"],
)  # fmt: skip
def test_what_does_not_exist_is_not_found(lab: Lab, route: str) -> None:
    assert lab.http.get(route).status_code == 404


def test_versions_and_cursors_that_are_none_are_refused(lab: Lab, name: str) -> None:
    lab.upload(jsonl(ROWS), name)
    root = f"datasets/{name}/versions"
    assert lab.http.get(f"{root}/2").status_code == 404
    for bad in ("x", "-1", "1.0", "9" * 30):
        assert lab.http.get(f"{root}/{bad}").status_code == 400
    for params in (
        {"cursor": "r9"},
        {"cursor": "x"},
        {"cursor": "r" + "9" * 50},
        {"limit": 0},
        {"limit": 10**6},
    ):
        assert lab.http.get(f"{root}/1/rows", params=params).status_code == 400, params


def test_what_is_deleted_is_gone_at_once_and_its_files_soon(lab: Lab, name: str) -> None:
    before = lab.at_rest()[0]
    for count in (1, 2, 3):
        lab.upload(jsonl(ROWS[:count]), name)
    wait_until(lambda: len(lab.left()[0]) == len(before) + 6, "three folders with a file each")
    assert lab.http.delete(f"datasets/{name}/versions/latest").status_code == 204
    assert lab.http.delete(f"datasets/{name}/versions/1").status_code == 204
    assert lab.http.get(f"datasets/{name}/versions/1").status_code == 404
    assert lab.http.delete(f"datasets/{name}/versions/1").status_code == 404
    assert [one["version"] for one in lab.http.get(f"datasets/{name}").json()["versions"]] == [2]
    assert lab.http.delete(f"datasets/{name}").status_code == 204
    assert lab.http.get(f"datasets/{name}").status_code == 404
    wait_until(lambda: lab.left()[0] == before, f"files stay: {lab.left()[0]}")
    assert lab.upload(jsonl(ROWS), name)["version"] == 4


async def bring_forward(nats_url: str, upload_id: str) -> None:
    """Let the planned end of an upload come in a second."""
    subject = names.data_subject("local", ids.data_id(upload_id), EXPIRY)
    bus = await Bus.connect(nats_url, name="test")
    try:
        planned = await bus.last(DATA, names.later_subject(subject))
        assert planned is not None, "its end is planned from the beginning"
        await bus.append_later(subject, planned.event, datetime.now(UTC) + timedelta(seconds=1))
    finally:
        await bus.close()


def test_an_abandoned_upload_ends_by_itself(lab: Lab, name: str) -> None:
    before = lab.at_rest()
    data = jsonl(BIG)
    upload = lab.announce(data, name).json()
    lab.send(upload, data, range(3))
    assert lab.http.get(f"datasets/uploads/{upload['upload_id']}").json()["parts"] == [0, 1, 2]
    asyncio.run(bring_forward(lab.nats_url, upload["upload_id"]))
    lab.settled(before)
    assert lab.http.get(f"datasets/uploads/{upload['upload_id']}").status_code == 404


# One file, announced again


@asynccontextmanager
async def upload_at(lab: Lab, name: str, attempt: int) -> AsyncIterator[tuple[DataWorker, UploadRecord]]:
    """An upload that stands at an attempt, with its only part; and a worker that nobody has told to work."""
    data = jsonl(ROWS)
    id = lab.announce(data, name).json()["upload_id"]
    assert lab.put(id, 0, data).status_code == 200
    settings = DataSettings(nats_url=lab.nats_url, blobs=str(lab.blobs))
    edge = await Edge.open(settings, "test")
    try:
        record = await edge.records.get(UploadRecord, "local", id)
        await edge.records.replace("local", id, record.model_copy(update={"attempt": attempt}))
        triggers = Triggers(edge, create, Webhooks(Guard()))
        yield DataWorker(edge, settings, triggers), record
        await edge.records.delete(UploadRecord, "local", id)
        await edge.blobs.delete(blob_keys.upload_key("local", id))
    finally:
        await edge.bus.close()


def parts(lab: Lab, id: str) -> httpx.Response:
    return lab.http.get(f"datasets/uploads/{id}")


async def test_an_upload_that_has_its_result_is_not_gone_on_with(lab: Lab, name: str) -> None:
    async with upload_at(lab, name, attempt=1) as (_, record):
        id = record.upload_id
        assert lab.announce(jsonl(ROWS), name).json()["state"] == "completing"
        bus = await Bus.connect(lab.nats_url, name="test")
        owner = ids.data_id(id)
        event = make(catalog.FAILED, "local", owner, 1, name, Failure(message="broken", category="user"))
        await bus.append(names.result_subject("data", "local", owner, 1), event)
        await bus.close()
        answer = lab.announce(jsonl(ROWS), name)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


async def test_the_end_of_an_upload_spares_the_one_announced_after_it(lab: Lab, name: str) -> None:
    async with upload_at(lab, name, attempt=0) as (worker, record):
        ended = record.model_copy(update={"attempt": 1})
        owner = ids.data_id(record.upload_id)
        await worker.settled(make(catalog.TAKE_IN, "local", owner, 1, name, ended))
        assert parts(lab, record.upload_id).json()["parts"] == [0]


async def test_an_expiry_that_waited_spares_an_upload_that_went_on(lab: Lab, name: str) -> None:
    async with upload_at(lab, name, attempt=0) as (worker, record):
        owner = ids.data_id(record.upload_id)
        due = make(catalog.EXPIRE_UPLOAD, "local", owner, EXPIRY, name, record)
        await worker.handle(due, record.model_dump_json().encode())
        assert parts(lab, record.upload_id).json()["parts"] == [0]
        bus = await Bus.connect(lab.nats_url, name="test")
        await bus.purge(DATA, names.later_subject(names.data_subject("local", owner, EXPIRY)))
        await bus.close()
        await worker.handle(due, record.model_dump_json().encode())
        assert parts(lab, record.upload_id).status_code == 404


# Deaths


def killed(lab: Lab, name: str, moment: float | None) -> None:
    """Kill the service this many seconds after `complete`, None: as soon as its reader runs."""
    data = jsonl([{"n": n, "of": name} for n in range(50_000)])
    before = lab.at_rest()[0]
    upload = lab.announce(data, name).json()
    lab.send(upload, data)
    request_id = lab.complete(upload["upload_id"])
    if moment is None:
        wait_until(lab.data.readers, "no reader")
    else:
        time.sleep(moment)  # a moment like any other
    readers = lab.data.readers()
    lab.data.end(signal.SIGKILL)
    wait_until(lambda: not any(reader.is_running() for reader in readers), "a reader lives on")
    lab.data.start()
    version = lab.result(request_id, 60)
    assert (version["version"], version["rows"]) == (1, 50_000)
    assert lab.http.get(f"datasets/{name}").json()["versions"] == [version]
    assert lab.complete(upload["upload_id"]) == request_id
    left = sorted(set(lab.at_rest()[0]) - set(before))
    assert [one.rpartition("/")[2] for one in left[1:]] == ["rows.parquet"], left
    assert lab.rows(name, limit=10_000)[-1] == {"n": 49_999, "of": name}


@pytest.mark.slow
def test_a_service_that_dies_while_it_reads_leaves_one_version_and_nothing_else(lab: Lab, name: str) -> None:
    killed(lab, name, None)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("moment", [0.0, 0.15, 0.3, 0.45, 0.6, 0.9])
def test_a_service_may_die_at_any_moment_of_completing(lab: Lab, name: str, moment: float) -> None:
    killed(lab, name, moment)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_large_upload_is_resumed(lab: Lab, name: str) -> None:
    row = json.dumps({"text": "x" * 1000, "n": 0}).encode() + b"\n"
    rows = LARGE_BYTES // len(row)
    data = row * rows
    upload = lab.announce(data, name).json()
    count = -(-len(data) // PART)
    lab.send(upload, data, range(count // 2))
    again = lab.announce(data, name).json()
    assert again["parts"] == list(range(count // 2))
    lab.send(again, data, range(count // 2, count))
    assert lab.result(lab.complete(upload["upload_id"]), 300)["rows"] == rows
