"""Files for the tests of datasets: written in every format, read back as versions and rows."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from services.data.ingest import ingest
from services.data.limits import Limits
from services.data.pages import read_page
from services.data.summary import Summary

Row = dict[str, Any]

ROWS: list[Row] = [
    {"prompt": "how many", "level": 1, "score": 0.5, "ok": True},
    {"prompt": "which ÄÖ ☃", "level": -3, "score": 2.25, "ok": False},
    {"prompt": "with, comma\nand line", "level": None, "score": 1e-3, "ok": None},
]
"""Rows that every format can hold."""


def jsonl(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def csv_file(rows: list[Row]) -> bytes:
    """Values as JSON spells them, texts as they are, nulls as nothing."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow("" if v is None else v if isinstance(v, str) else json.dumps(v) for v in row.values())
    return text.getvalue().encode()


def parquet(table: "pa.Table | list[Row]", **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.Table.from_pylist(table), sink, **options)
    return sink.getvalue()


def take_in(
    data: bytes, format_: str, folder: Path, *, compression: str = "none", part: int = 0, **limits: Any
) -> Summary:
    """The version of a file; `part` > 0 cuts it into parts of that many bytes. Raises InvalidField."""
    size = part or max(1, len(data))
    paths = []
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, max(1, len(data)), size)):
        paths.append(folder / f"part-{number}")
        paths[-1].write_bytes(data[start : start + size])
    return ingest(paths, format_, compression, folder / "version", Limits(**limits))


def rows_of(folder: Path, limit: int = 1000) -> list[Row]:
    """All rows, by cursor."""
    rows, cursor = read_page(folder / "version", None, limit)
    while cursor is not None:
        page, cursor = read_page(folder / "version", cursor, limit)
        rows += page
    return [json.loads(row) for row in rows]


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)
