"""How fast datasets go in and come out: uploads, an interrupted one that is resumed, pages of rows by cursor.

    python -m benchmarks.data

The stack is the one of `rekindle up`; client, gateway and data service share the machine. The rows are
conversations of about a kilobyte. An upload's time runs from the announcement to the version, checked, counted
and stored; its size is the file's. Four parts travel at once.
"""

import hashlib
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.models import DEMO, make_model
from benchmarks.record import record
from examples.text2sql.stack import running_stack

MB = 1e6
SIZE, LARGE = 256 * 10**6, 10**9
"""Bytes of the files that are uploaded at once, and of the one that is interrupted."""
PARTS_AT_ONCE = 4
PAGE_ROWS = 1000
COLUMNS = ["what", "MB", "seconds", "MB/s", "rows/s"]
Row = dict[str, Any]


def conversations(seed: int) -> Iterator[Row]:
    """Endless rows of a question and an answer."""
    source = random.Random(seed)
    words = [f"word{number}" for number in range(5000)]
    number = 0
    while True:
        texts = [" ".join(source.choices(words, k=length)) for length in (40, 80)]
        roles = zip(("user", "assistant"), texts, strict=True)
        messages = [{"role": role, "content": text} for role, text in roles]
        yield {"messages": messages, "level": number % 5, "score": source.random()}
        number += 1


def write_jsonl(path: Path, size: int, seed: int) -> Path:
    """At least `size` bytes of rows; a block of them is repeated, told apart by its number."""
    rows = conversations(seed)
    block = [next(rows) for _ in range(10_000)]
    with path.open("w") as file:
        number = 0
        while file.tell() < size:
            file.writelines(json.dumps(row | {"block": number}) + "\n" for row in block)
            number += 1
    return path


def write_parquet(path: Path, lines: Path) -> Path:
    """The same rows as Parquet."""
    writer: pq.ParquetWriter | None = None
    rows: list[Row] = []
    with lines.open() as file:
        for number, line in enumerate(file, start=1):
            rows.append(json.loads(line))
            if number % 10_000 == 0:
                table = pa.Table.from_pylist(rows)
                writer = writer or pq.ParquetWriter(path, table.schema)
                writer.write_table(table)
                rows = []
    assert writer is not None and not rows, "blocks are of ten thousand rows"
    writer.close()
    return path


class Client:
    """The least that a client of datasets does."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=f"{url}/api/v1/", timeout=600.0)

    def announce(self, path: Path, name: str, format_: str) -> Row:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        body = {"name": name, "format": format_, "size_bytes": path.stat().st_size, "sha256": digest}
        return dict(self.http.post("datasets", json=body).raise_for_status().json())

    def send(self, path: Path, upload: Row, parts: Sequence[int]) -> None:
        """These parts, four at a time."""

        def put(number: int) -> None:
            with path.open("rb") as file:
                file.seek(number * upload["part_bytes"])
                part = file.read(upload["part_bytes"])
            route = f"datasets/uploads/{upload['upload_id']}/parts/{number}"
            self.http.put(route, content=part).raise_for_status()

        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            list(pool.map(put, parts))

    def complete(self, upload: Row) -> Row:
        accepted = self.http.post(f"datasets/uploads/{upload['upload_id']}/complete").raise_for_status()
        while True:
            answer = self.http.post("retrieve_future", json={"request_id": accepted.json()["request_id"]})
            if answer.status_code != 408:
                found: Row = answer.raise_for_status().json()
                assert "error" not in found, found["error"]
                return found


def count(path: Path, upload: Row) -> int:
    return -(-path.stat().st_size // int(upload["part_bytes"]))


def measure_upload(client: Client, path: Path, format_: str) -> list[Any]:
    begun = time.perf_counter()
    upload = client.announce(path, f"bench/{format_}", format_)
    client.send(path, upload, range(count(path, upload)))
    version = client.complete(upload)
    return figures(f"upload, {format_}", path.stat().st_size, time.perf_counter() - begun, version["rows"])


def measure_resumed(url: str, path: Path) -> list[Any]:
    """Half is sent by one client, the rest by another that asks what is there."""
    begun = time.perf_counter()
    first = Client(url)
    upload = first.announce(path, "bench/resumed", "jsonl")
    parts = range(count(path, upload))
    first.send(path, upload, parts[: len(parts) // 2])
    first.http.close()
    second = Client(url)
    again = second.announce(path, "bench/resumed", "jsonl")
    missing = [number for number in parts if number not in set(again["parts"])]
    assert len(missing) == len(parts) - len(parts) // 2, "what was sent counts"
    second.send(path, again, missing)
    version = second.complete(again)
    what = "upload, jsonl, interrupted half way and resumed"
    return figures(what, path.stat().st_size, time.perf_counter() - begun, version["rows"])


def measure_rows(client: Client, format_: str) -> list[Any]:
    """All rows of a version, page by page; the size is that of the pages."""
    begun, cursor, size, rows = time.perf_counter(), None, 0, 0
    while True:
        params = {"limit": PAGE_ROWS} | ({"cursor": cursor} if cursor else {})
        page = client.http.get(
            f"datasets/bench/{format_}/versions/latest/rows", params=params
        ).raise_for_status()
        found = page.json()
        size, rows, cursor = size + len(page.content), rows + len(found["rows"]), found["cursor"]
        if cursor is None:
            break
    what = f"iteration by cursor, pages of {PAGE_ROWS} rows"
    return figures(what, size, time.perf_counter() - begun, rows)


def figures(what: str, size: int, seconds: float, rows: int) -> list[Any]:
    rates = [round(size / MB / seconds, 1), round(rows / seconds)]
    print(f"{what:50} {size / MB:7.0f} MB {seconds:7.1f} s {rates[0]:7.1f} MB/s {rates[1]:8} rows/s")
    return [what, round(size / MB), round(seconds, 1), *rates]


def measure(url: str, folder: Path) -> list[list[Any]]:
    client = Client(url)
    lines = write_jsonl(folder / "rows.jsonl", SIZE, seed=0)
    table = write_parquet(folder / "rows.parquet", lines)
    rows = [measure_upload(client, lines, "jsonl"), measure_upload(client, table, "parquet")]
    rows.append(measure_rows(client, "jsonl"))
    rows.append(measure_resumed(url, write_jsonl(folder / "large.jsonl", LARGE, seed=1)))
    return rows


def main() -> None:
    """Measure and record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder / "model", DEMO)
        with running_stack(None, f"bench={model}", folder / "data") as stack:
            rows = measure(stack.url, folder)
    record(
        "data",
        COLUMNS,
        rows,
        command="task bench -- data",
        note="Client and services on one machine; an upload is over when its version is checked and stored.",
    )


if __name__ == "__main__":
    main()
