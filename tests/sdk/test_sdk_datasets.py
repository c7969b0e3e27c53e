"""Uploads in parts with resume, sources of every sort, iteration by cursor, derived versions."""

import asyncio
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rekindle import InvalidField, NotFound, RequestFailed, ServiceClient, TransferFailed
from rekindle.datasets import Condition
from rekindle.sources import as_file
from tests.sdk.fake_server import FakeServer, always

ROWS = [{"n": number, "text": f"row {number}"} for number in range(25)]
PART = 100


class DownloadStream(httpx.AsyncByteStream):
    """A body that takes its time."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


class DataServer(FakeServer):
    """Keeps uploads by their announcement and serves `ROWS` as version 3 of `team/train`."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.announced: list[dict[str, Any]] = []
        self.page = 10
        self.state = "open"

    def answer(self, method: str, path: str, body: Any) -> httpx.Response:
        words = path.removeprefix("/datasets").strip("/").split("/")
        if not path.startswith("/datasets"):
            return super().answer(method, path, body)
        if method == "POST" and words == [""]:
            return self._open(body)
        if words[0] == "uploads":
            return self._part(words, body) if method == "PUT" else self._complete(words[1])
        if path == "/datasets/team/train":
            return httpx.Response(200, json={"name": "team/train", "versions": [version(3), version(2)]})
        if words[-1] == "derive":
            made = [version(4, split=part) for part in body.get("parts", {})]
            return self.accept("d:1", {"versions": made} if made else version(4, how=body))
        return httpx.Response(404, json={"detail": path})

    def _open(self, body: dict[str, Any]) -> httpx.Response:
        self.announced.append(body)
        parts = self.uploads.setdefault(body["sha256"], {})
        opened = {
            "upload_id": body["sha256"],
            "part_bytes": PART,
            "parts": sorted(parts),
            "state": self.state,
        }
        return httpx.Response(200, json=opened)

    def _part(self, words: list[str], body: bytes) -> httpx.Response:
        assert self.headers[-1]["x-part-sha256"] == hashlib.sha256(body).hexdigest()
        self.uploads[words[1]][int(words[3])] = body
        return httpx.Response(200, json={})

    def _complete(self, upload: str) -> httpx.Response:
        parts = self.uploads[upload]
        whole = b"".join(parts[number] for number in sorted(parts))
        assert hashlib.sha256(whole).hexdigest() == upload, "the parts are not the file"
        return self.accept("u:1", version(1))

    def rows(self, request: httpx.Request) -> httpx.Response:
        start = int(request.url.params.get("cursor", 0))
        stop = start + min(self.page, int(request.url.params["limit"]))
        cursor = str(stop) if stop < len(ROWS) else None
        return httpx.Response(200, json={"rows": ROWS[start:stop], "cursor": cursor})


def version(number: int, **more: Any) -> dict[str, Any]:
    return {
        "name": "team/train",
        "version": number,
        "sha256": "0" * 64,
        "format": "jsonl",
        "rows": len(ROWS),
        "bytes": 1,
        "columns": [],
        "created": "2026-01-31T00:00:00Z",
        "how": {"op": "upload"},
        **more,
    }


@pytest.fixture
def fake() -> DataServer:
    server = DataServer()
    server.trouble["/datasets/team/train/versions/3/rows"] = server.rows
    return server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def sent(fake: DataServer) -> list[int]:
    """Numbers of the parts that arrived, in order."""
    return sorted(int(path.rpartition("/")[2]) for method, path, _ in fake.calls if method == "PUT")


def test_a_file_arrives_whole_in_parts_with_its_progress(
    fake: DataServer, faked: ServiceClient, file: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    made = faked.datasets.upload(
        file, "team/train", description="ours", progress=lambda done, total: seen.append((done, total))
    ).result(10)
    assert (made.name, made.version) == ("team/train", 1)
    size = file.stat().st_size
    assert sent(fake) == list(range(-(-size // PART)))
    assert seen[0] == (0, size) and seen[-1] == (size, size) and seen == sorted(seen)
    (announced,) = fake.announced
    assert announced["format"] == "jsonl" and announced["size_bytes"] == size
    assert announced["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_upload_that_broke_off_sends_only_what_is_missing(
    fake: DataServer, faked: ServiceClient, file: Path
) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    fake.trouble[f"/datasets/uploads/{digest}/parts/3"] = always(403)
    with pytest.raises(Exception, match="trouble 403"):
        faked.datasets.upload(file, "team/train").result(10)
    there = set(fake.uploads[digest])
    assert 3 not in there
    fake.calls.clear()
    seen: list[int] = []
    faked.datasets.upload(file, "team/train", progress=lambda done, _: seen.append(done)).result(10)
    assert set(sent(fake)) & there == set() and seen[0] == sum(
        len(fake.uploads[digest][part]) for part in there
    )


def test_an_upload_of_which_a_version_is_being_made_is_waited_for(
    fake: DataServer, faked: ServiceClient, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.state = "completing"
    monkeypatch.setattr(fake, "_complete", lambda upload: fake.accept("u:1", version(1)))
    assert faked.datasets.upload(file, "team/train").result(10).version == 1
    assert not sent(fake)


def test_a_part_whose_answer_is_lost_is_sent_again(
    fake: DataServer, faked: ServiceClient, file: Path
) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    fake.lose[f"/datasets/uploads/{digest}/parts/2"] = 1
    assert faked.datasets.upload(file, "team/train").result(10).version == 1
    assert sent(fake).count(2) == 2


def test_a_row_that_the_server_finds_wrong_fails_the_future(
    fake: DataServer, faked: ServiceClient, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = {"error": "row 7: expected an object", "category": "user"}
    monkeypatch.setattr(fake, "_complete", lambda upload: fake.accept("u:1", failure))
    with pytest.raises(RequestFailed, match="row 7"):
        faked.datasets.upload(file, "team/train").result(10)


class Table:
    """Writes itself, as a `datasets.Dataset` does."""

    def to_parquet(self, path: str) -> None:
        Path(path).write_bytes(b"PAR1 and so on PAR1")


def test_every_sort_of_source_becomes_a_file(tmp_path: Path, file: Path) -> None:
    packed = tmp_path / "train.csv.gz"
    packed.write_bytes(gzip.compress(b"a,b\n1,2\n"))
    lines = file.read_bytes()
    cases: list[tuple[Any, str | None, tuple[str, str], bytes]] = [
        (file, None, ("jsonl", "none"), lines),
        (str(packed), None, ("csv", "gzip"), packed.read_bytes()),
        (packed, "jsonl", ("jsonl", "gzip"), packed.read_bytes()),
        (io.BytesIO(packed.read_bytes()), "csv", ("csv", "gzip"), packed.read_bytes()),
        (gzip.GzipFile(packed), None, ("csv", "none"), b"a,b\n1,2\n"),
        (io.BytesIO(lines), "jsonl", ("jsonl", "none"), lines),
        (Table(), None, ("parquet", "none"), b"PAR1 and so on PAR1"),
        (ROWS, None, ("jsonl", "none"), lines),
        ((row for row in ROWS), None, ("jsonl", "none"), lines),
    ]
    for source, format, expected, content in cases:
        with as_file(source, format, None) as found:  # type: ignore[arg-type]
            assert (found.format, found.compression) == expected
            assert found.path.read_bytes() == content and found.size_bytes == len(content)
            assert found.sha256 == hashlib.sha256(content).hexdigest()
            made = found.path
        assert made.exists() == (source in (file, str(packed), packed)), "temporary files go"
    with file.open("rb") as stream, as_file(stream, None, None) as found:
        assert found.format == "jsonl" and found.path.read_bytes() == lines


@pytest.mark.parametrize(
    ("source", "field"),
    [
        (io.BytesIO(b"x"), "format"),
        (Path("train.txt"), "format"),
        ([{"a": 1}, 2], r"source\[1\]"),
        ([{"a": object()}], r"source\[0\]"),
        ([{"a": float("nan")}], r"source\[0\]"),
        ([], "source: no rows"),
        (
            gzip.GzipFile("empty.csv.gz", "rb", fileobj=io.BytesIO(gzip.compress(b""))),
            "source: the stream is empty",
        ),
        (7, "source"),
        ({"a": [1, 2]}, "source"),
    ],
)
def test_what_is_no_dataset_is_named(source: Any, field: str) -> None:
    with pytest.raises(InvalidField, match=field), as_file(source, None, None):
        pass


def test_an_empty_file_and_a_stream_of_texts_are_named(tmp_path: Path) -> None:
    (tmp_path / "none.CSV.GZ").touch()
    with (
        pytest.raises(InvalidField, match=r"none.CSV.GZ is empty"),
        as_file(tmp_path / "none.CSV.GZ", None, None),
    ):
        pass
    texts: Any = io.StringIO("{}")
    with pytest.raises(InvalidField, match="expected a binary one"), as_file(texts, "jsonl", None):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
def test_a_pipe_that_has_a_path_is_read_as_a_stream(tmp_path: Path) -> None:
    pipe = tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b'{"a": 1}\n',))
    writer.start()
    with as_file(pipe, None, None) as found:
        assert found.format == "jsonl" and found.path.read_bytes() == b'{"a": 1}\n'
    writer.join()


ENDS = """
import os, rekindle
reading, _ = os.pipe()
service = rekindle.ServiceClient("http://127.0.0.1:9")
future = service.datasets.upload(os.fdopen(reading, "rb"), "endless", "jsonl")
service.close().result(10)
print(type(future.exception()).__name__)
"""


def test_a_process_ends_while_a_source_has_nothing_to_say(tmp_path: Path) -> None:
    own = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ENDS], env=own, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ClientClosed\n", "")


def test_a_source_that_ends_the_process_fails_its_upload_alone(faked: ServiceClient) -> None:
    def rows() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        faked.datasets.upload(rows(), "team/train").result(10)
    assert faked.datasets.get("team/train").result(10).version == 3


@pytest.mark.parametrize("name", ["", "team/train/versions/3", "../runs", "a?b"])
def test_what_is_no_name_reaches_no_route(fake: DataServer, faked: ServiceClient, name: str) -> None:
    for call in (faked.datasets.get, faked.datasets.delete, faked.datasets.preview):
        with pytest.raises(InvalidField, match="name"):
            call(name).result(10)
    assert not fake.calls


def test_whatever_stands_in_the_id_of_a_run_stays_in_it(fake: DataServer, faked: ServiceClient) -> None:
    with pytest.raises(InvalidField):  # the fake knows no runs
        faked.runs.get("s1:train:0/../x?y#z").result(10)
    assert fake.routes[-1] == b"/api/v1/training_runs/s1:train:0%2F..%2Fx%3Fy%23z"


def test_a_bad_name_or_a_missing_file_fails_the_upload(faked: ServiceClient, file: Path) -> None:
    with pytest.raises(InvalidField, match="name"):
        faked.datasets.upload(file, "../train").result(10)
    with pytest.raises(FileNotFoundError):
        faked.datasets.upload("nowhere.jsonl", "team/train").result(10)


def test_rows_come_in_order_over_all_pages_in_both_sorts_of_loop(
    fake: DataServer, faked: ServiceClient
) -> None:
    async def collect() -> list[Any]:
        return [row async for row in faked.datasets.rows("team/train")]

    assert list(faked.datasets.rows("team/train")) == ROWS == asyncio.run(collect())
    rows = faked.datasets.rows("team/train", limit=12)
    assert list(rows) == ROWS[:12] == list(rows)
    assert faked.datasets.preview("team/train", rows=3).result(10) == ROWS[:3]
    fake.page = 1000
    assert list(faked.datasets.rows("team/train", 3)) == ROWS


def test_versions_are_found_and_derived(fake: DataServer, faked: ServiceClient) -> None:
    datasets = faked.datasets
    assert datasets.get("team/train").result(10).version == 3
    assert [found.version for found in datasets.versions("team/train").result(10)] == [3, 2]
    where: list[Condition] = [("level", ">=", 3), {"column": "text", "op": "contains", "value": "SELECT"}]
    assert datasets.filter("team/train", where).result(10).version == 4
    datasets.dedupe("team/train", ["text"], version=2).result(10)
    parts = datasets.split("team/train", {"train": 0.9, "test": 0.1}, seed=7).result(10)
    assert set(parts) == {"train", "test"}
    filtered, deduped, split = [call for call in fake.calls if call[1].endswith("/derive")]
    assert filtered[1] == "/datasets/team/train/versions/3/derive"
    assert [one["column"] for one in filtered[2]["where"]] == ["level", "text"]
    assert deduped[1] == "/datasets/team/train/versions/2/derive" and deduped[2]["columns"] == ["text"]
    assert (split[2]["parts"], split[2]["seed"]) == ({"train": 0.9, "test": 0.1}, 7)


def test_a_derivation_whose_answer_is_lost_is_the_same_request_again(
    fake: DataServer, faked: ServiceClient
) -> None:
    fake.lose["/datasets/team/train/versions/3/derive"] = 1
    faked.datasets.dedupe("team/train").result(10)
    faked.datasets.dedupe("team/train").result(10)
    keys = [sent["x-idempotency-key"] for sent in fake.headers if "x-idempotency-key" in sent]
    assert len(keys) == 3 and keys[0] == keys[1] != keys[2]


def test_a_wrong_derivation_is_refused_at_once(faked: ServiceClient) -> None:
    with pytest.raises(InvalidField, match="op"):
        faked.datasets.filter("team/train", [("level", "~", 3)])
    with pytest.raises(InvalidField, match="parts"):
        faked.datasets.split("team/train", {"train": 0.9, "test": 0.2})


def test_a_download_is_whole_or_not_there(fake: DataServer, faked: ServiceClient, tmp_path: Path) -> None:
    route, target = "/datasets/team/train/versions/3/file", tmp_path / "deep" / "train.parquet"
    fake.trouble[route] = lambda _: httpx.Response(200, content=b"PAR1")
    assert faked.datasets.download("team/train", target).result(10) == target
    assert target.read_bytes() == b"PAR1" and list(target.parent.iterdir()) == [target]


def test_a_download_that_stays_short_fails_and_leaves_nothing(
    fake: DataServer, faked: ServiceClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rekindle.transfers.PATIENCE", 0.2)
    fake.trouble["/datasets/team/train/versions/3/file"] = lambda _: httpx.Response(
        200, stream=httpx.ByteStream(b"PAR"), headers={"content-length": "9"}
    )
    with pytest.raises(TransferFailed, match="3 bytes, 9 were announced"):
        faked.datasets.download("team/train", tmp_path / "train.parquet").result(10)
    assert not list(tmp_path.iterdir())


def test_a_long_download_that_breaks_is_fetched_again(
    fake: DataServer, faked: ServiceClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rekindle.transfers.PATIENCE", 0.5)
    attempts = []

    async def slow(announced: int) -> AsyncIterator[bytes]:
        for _ in range(2):
            await asyncio.sleep(0.4)  # together longer than anybody is patient
            yield bytes(1 << 20)
        attempts.append(announced)

    def answer(_: httpx.Request) -> httpx.Response:
        length = (2 if attempts else 3) << 20
        stream = DownloadStream(slow(length))
        return httpx.Response(200, stream=stream, headers={"content-length": str(length)})

    fake.trouble["/datasets/team/train/versions/3/file"] = answer
    faked.datasets.download("team/train", tmp_path / "train.parquet").result(10)
    assert attempts == [3 << 20, 2 << 20]


def test_a_download_into_a_folder_is_refused_before_it_begins(
    fake: DataServer, faked: ServiceClient, tmp_path: Path
) -> None:
    with pytest.raises(IsADirectoryError, match="expected the name of a file"):
        faked.datasets.download("team/train", tmp_path, version=3).result(10)
    assert not fake.calls and not list(tmp_path.iterdir())


def test_a_refused_download_says_what_the_server_said(faked: ServiceClient, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as refused:
        faked.datasets.download("team/train", tmp_path / "train.parquet", version=9).result(10)
    assert refused.value.detail == "/datasets/team/train/versions/9/file"
