"""A folder in a bucket is there or not, whoever dies over it; a store that is away says so."""

import asyncio
import os
import socket
import uuid
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from events.blob_cache import BlobCache
from events.edge import add_error_answers
from events.failure import BlobsUnavailable, NotFound
from events.s3_blobs import MANIFEST, S3Blobs
from events.stored_file import StoredFile
from tests.s3_server import Bucket


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def blobs(bucket: Bucket, tmp_path: Path, prefix: str) -> S3Blobs:
    return another(tmp_path, prefix)


def another(tmp_path: Path, prefix: str) -> S3Blobs:
    """As another process has it."""
    return S3Blobs(f"s3://blobs/{prefix}", BlobCache(tmp_path / "cache", 10_000_000), patience=0.3)


def filled(blobs: S3Blobs, **files: bytes) -> Path:
    folder = blobs.staging()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


async def test_a_folder_whose_writer_died_before_the_manifest_is_not_there(
    bucket: Bucket, blobs: S3Blobs, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bucket, "refuse", lambda method, key: method == "PUT" and key.endswith(MANIFEST))
        with pytest.raises(BlobsUnavailable):
            await blobs.put_folder("t/run/1", filled(blobs, a=b"1", b=b"2"))
    assert len([key for key in bucket.objects if key.startswith(f"{prefix}/t/run/1/")]) == 2
    for one in (blobs, another(tmp_path, prefix)):
        with pytest.raises(NotFound):
            await one.files("t/run/1")
        assert await one.under("t/run") == ["t/run/1"], "who tidies up must find it"

    await blobs.put_folder("t/run/1", filled(blobs, a=b"3"))
    async with another(tmp_path, prefix).folder("t/run/1") as folder:
        assert (folder / "a").read_bytes() == b"3"
    await blobs.delete("t/run/1")
    assert not [key for key in bucket.objects if key.startswith(prefix)], (
        "what the dead writer left goes, too"
    )


async def test_a_folder_whose_deletion_was_cut_short_is_not_there(
    bucket: Bucket, blobs: S3Blobs, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await blobs.put_folder("t/f", filled(blobs, a=b"1"))
    with monkeypatch.context() as patch:
        patch.setattr(bucket, "refuse", lambda method, key: method == "DELETE" and key.endswith("/a"))
        with pytest.raises(BlobsUnavailable):
            await blobs.delete("t/f")
    with pytest.raises(NotFound):
        await another(tmp_path, prefix).files("t/f")
    await blobs.delete("t/f")
    assert not [key for key in bucket.objects if key.startswith(prefix)]


async def test_a_folder_that_lacks_a_file_is_not_found_and_no_copy_stays(
    bucket: Bucket, blobs: S3Blobs, prefix: str
) -> None:
    await blobs.put_folder("t/f", filled(blobs, a=b"1", b=b"2"))
    del bucket.objects[next(key for key in bucket.objects if key.startswith(prefix) and key.endswith("/b"))]
    for _ in range(2):
        with pytest.raises(NotFound):
            async with blobs.folder("t/f"):
                pass


async def test_readers_at_once_share_one_download(bucket: Bucket, blobs: S3Blobs) -> None:
    await blobs.put_folder("t/f", filled(blobs, shared=b"1"))
    before = bucket.count("GET", "/shared")

    async def read() -> Path:
        async with blobs.folder("t/f") as folder:
            assert (folder / "shared").read_bytes() == b"1"
            return folder

    assert len(set(await asyncio.gather(*(read() for _ in range(20))))) == 1
    assert bucket.count("GET", "/shared") - before == 1


async def test_of_several_writers_of_a_folder_one_wins_whole_and_the_others_leave_nothing(
    bucket: Bucket, blobs: S3Blobs, tmp_path: Path, prefix: str
) -> None:
    other = another(tmp_path, prefix)
    writers = [blobs, other] * 3
    await asyncio.gather(
        *(
            one.put_folder("t/f", filled(one, a=b"%d" % number, b=b"%d" % number))
            for number, one in enumerate(writers)
        )
    )
    async with another(tmp_path, prefix).folder("t/f") as folder:
        assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    assert len([key for key in bucket.objects if key.startswith(f"{prefix}/t/f/")]) == 3, (
        "the losers' are gone"
    )


async def test_large_files_go_in_parts_and_come_in_ranges(bucket: Bucket, blobs: S3Blobs) -> None:
    data = os.urandom(9 * 1024 * 1024)
    await blobs.put_folder("t/f", filled(blobs, large=data))
    assert bucket.count("POST", "/large") == 2 and not bucket.parts
    async with blobs.folder("t/f") as folder:
        assert (folder / "large").read_bytes() == data
    assert bucket.count("GET", "/large") == 2


async def test_a_store_that_is_away_is_said_to_be(
    tmp_path: Path, bucket: Bucket, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        blobs = another(tmp_path, prefix)
        left = filled(blobs, a=b"1")
        said = await asyncio.gather(
            blobs.put("t/a", b"1"),
            blobs.get("t/a"),
            blobs.put_folder("t/f", left),
            blobs.files("t/f"),
            blobs.under("t"),
            blobs.delete("t/a"),
            return_exceptions=True,
        )
        assert [type(error) for error in said] == [BlobsUnavailable] * 6
        assert not left.exists(), "a disk must not fill while the store is away"


async def test_a_bucket_that_does_not_exist_takes_nothing(bucket: Bucket, tmp_path: Path) -> None:
    blobs = S3Blobs("s3://other", BlobCache(tmp_path / "cache", 1000), patience=0.3)
    with pytest.raises(BlobsUnavailable, match="the bucket does not exist"):
        await blobs.put("t/a", b"1")


def test_an_answer_is_a_file_of_the_store(
    bucket: Bucket, blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(blobs.put_folder("t/f", filled(blobs, data=b"0123456789")))
    app = FastAPI()
    add_error_answers(app)

    @app.get("/{name}")
    async def get(name: str) -> StoredFile:
        return StoredFile(blobs, "t/f", name, called="called.bin")

    with TestClient(app) as client:
        whole = client.get("/data")
        assert whole.content == b"0123456789" and "called.bin" in whole.headers["content-disposition"]
        part = client.get("/data", headers={"Range": "bytes=2-4"})
        assert (part.status_code, part.content) == (206, b"234")
        assert client.get("/none").status_code == 404
        monkeypatch.setattr(bucket, "refuse", lambda method, key: True)
        blobs._manifests.clear()
        away = client.get("/data")
        assert (away.status_code, away.headers["retry-after"]) == (503, "1")
