"""Whatever a file does to its reader: a clear mistake, in bounded memory and time, and no death of ours."""

import asyncio
import hashlib
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import zstandard

from events.failure import ServerError, UserError
from rekindle.types import InvalidField
from services.data import jail
from services.data.child import DeriveTask, IngestTask
from services.data.limits import MIB, Limits
from tests.data.files import ROWS, jsonl, parquet, take_in, zipped

LONE = json.dumps({"a": "\ud800"}).encode()
WHOLE = parquet(ROWS)

TEXTS: dict[str, tuple[str, bytes, str]] = {
    "empty file": ("jsonl", b"", "file: no rows"),
    "white space": ("jsonl", b"\n \n\t\r\n", "file: no rows"),
    "only empty objects": ("jsonl", b"{}\n{}\n", "file: no rows"),
    "empty csv": ("csv", b"", "file: no rows"),
    "only a header": ("csv", b"a,b\n", "file: no rows"),
    "not json": ("jsonl", jsonl(ROWS) + b"{'a': 1}\n", "line 4: not JSON: Expecting property name"),
    "half a line": ("jsonl", jsonl(ROWS)[:-5], "line 3: not JSON: "),
    "two on a line": ("jsonl", b'{"a":1} {"a":2}', "line 1: not JSON: Extra data"),
    "a list": ("jsonl", b'{"a":1}\n[1]\n', "line 2: expected an object, found list"),
    "a number": ("jsonl", b"3\n", "line 1: expected an object, found int"),
    "nan": ("jsonl", b'{"a":1.0}\n\n{"a":NaN}\n', "line 3: not JSON: NaN is no JSON; send null"),
    "infinity": ("jsonl", b'{"a":-Infinity}', "line 1: not JSON: -Infinity is no JSON"),
    "overflow": ("jsonl", b'{"a":1.0}\n{"a":1e999}', 'line 2, column "a": NaN or infinity'),
    "nested overflow": ("jsonl", b'{"a":{"b":[1e999]}}', 'line 1, column "a": NaN or infinity'),
    "not utf-8": ("jsonl", b'{"a":"x"}\n{"a":"\xff"}', "line 2: not UTF-8: byte 0xff at 7"),
    "utf-16": ("jsonl", '{"a":1}'.encode("utf-16"), "line 1: not UTF-8: byte 0xff at 1"),
    "csv not utf-8": ("csv", b"a\nx\n\xe4\n", "line 3: not UTF-8: byte 0xe4 at 1"),
    "half a pair": ("jsonl", b'{"a":"x"}\n' + LONE, "line 2, column \"'a'\": half of a surrogate pair"),
    "half a pair as a name": ("jsonl", b'{"\\ud800":1}', "line 1, column .*half of a surrogate pair"),
    "mixed types": (
        "jsonl",
        b'{"a":1}\n{"b":1}\n{"a":"x"}',
        'line 3, column "a": mixed types int and string',
    ),
    "mixed inside": (
        "jsonl",
        b'{"m":[{"r":"u"}]}\n{"m":[{"r":2}]}',
        r'line 2, column "m\[\].r": mixed types string and int',
    ),
    "mixed in a list": ("jsonl", b'{"a":[1,"x"]}', 'line 1, column "a": mixed types within the value'),
    "list and object": (
        "jsonl",
        b'{"a":[1]}\n{"a":{"b":1}}',
        'line 2, column "a": mixed types list.int. and',
    ),
    "bool among ints": ("jsonl", b'{"a":1}\n{"a":true}', 'line 2, column "a": mixed types int and bool'),
    "bool among floats": (
        "jsonl",
        b'{"a":1.5}\n{"a":true}',
        'line 2, column "a": mixed types float and bool',
    ),
    "bool deep among floats": (
        "jsonl",
        b'{"a":{"b":[1.5]}}\n{"a":{"b":[true]}}',
        'line 2, column "a": mixed types float and bool',
    ),
    "huge integer": (
        "jsonl",
        b'{"a":1}\n{"a":9223372036854775808}',
        'line 2, column "a": a whole number outside',
    ),
    "endless integer": ("jsonl", b'{"a":' + b"9" * 5000 + b"}", "line 1: not JSON: Exceeds the limit"),
    "large integer among fractions": (
        "jsonl",
        b'{"a":9007199254740993}\n{"a":0.5}',
        "lines 1 to 2: a column holds fractions, and",
    ),
    "empty objects": ("jsonl", b'{"a":1,"meta":{}}', 'column "meta": its objects are empty in every row'),
    "empty objects in lists": ("jsonl", b'{"m":{"l":[{}]}}', 'column "m.l": its objects are empty'),
    "deep lists": (
        "jsonl",
        b'{"a":' + b"[" * 40 + b"]" * 40 + b"}",
        'column "a": 40 levels deep, the limit is 32',
    ),
    "very deep lists": ("jsonl", b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}", "line 1: nested too deep"),
    "very deep objects": ("jsonl", b'{"a":' * 10**5 + b"1" + b"}" * 10**5, "line 1: nested too deep"),
    "nameless column": ("jsonl", b'{"":1}', "columns: a name of 0 characters"),
    "long name": (
        "jsonl",
        b'{"' + b"n" * 300 + b'":1}',
        "columns: a name of 300 characters, expected 1 to 256",
    ),
    "a million columns": (
        "jsonl",
        json.dumps({f"c{i}": 1 for i in range(10**6)}).encode(),
        "line 1: 1000000 columns, the limit is 1000",
    ),
    "columns over many lines": (
        "jsonl",
        jsonl([{f"c{i}": 1} for i in range(1001)]),
        "columns: 1001, the limit is 1000",
    ),
    "columns inside": (
        "jsonl",
        jsonl([{"o": {f"c{i}": 1 for i in range(1001)}}]),
        "columns: 1001, the limit",
    ),
    "a million columns of csv": ("csv", b"c," * 10**6 + b"c\n", "line 1: 1000001 columns, the limit is 1000"),
    "column twice": ("csv", b"a,b,a\n1,2,3\n", 'line 1: column "a" appears 2 times'),
    "column without a name": ("csv", b"a,,b\n1,2,3\n", "line 1: column 2 has no name"),
    "too few fields": ("csv", b"a,b\n1,2\n\n3\n", "line 4: 1 fields, the header has 2 columns"),
    "too many fields": ("csv", b"a,b\n1,2,3\n", "line 2: 3 fields, the header has 2 columns"),
    "open quote": (
        "csv",
        b'a,b\n1,2\n"x,4\n5,6\n',
        "line 3: not CSV: a quote that opens here is never closed",
    ),
    "text after a quote": ("csv", b'a,b\n"x"y,4\n', "line 2: not CSV: "),
    "bare returns": ("csv", b"a,b\r1,2\r", "line 1: not CSV: new-line character"),
    "binary": ("csv", b"\x89PNG\r\n\x1a\n\x00\x00", "line 1: not UTF-8"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_broken_texts_say_where_and_why(tmp_path: Path, case: str) -> None:
    kind, data, said = TEXTS[case]
    with pytest.raises(InvalidField, match=said):
        take_in(data, kind, tmp_path)


def test_a_batch_that_does_not_fit_those_before_names_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.data.jsonl.BATCH_ROWS", 2)
    rows = [{"a": 1}, {"a": 2}, {"a": None}, {"a": "x"}, {"a": "y"}]
    with pytest.raises(InvalidField, match='line 4, column "a": mixed types int and string'):
        take_in(jsonl(rows), "jsonl", tmp_path)


def test_an_open_quote_does_not_swallow_memory(tmp_path: Path) -> None:
    data = b'a\n"' + b"xxxxxxx\n" * 10_000
    with pytest.raises(InvalidField, match="line 2: not CSV: a quote that opens here is never closed"):
        take_in(data, "csv", tmp_path, row_bytes=1000)


def flipped(at: int) -> bytes:
    return WHOLE[:at] + bytes([WHOLE[at] ^ 0xFF]) + WHOLE[at + 1 :]


PARQUETS: dict[str, tuple[bytes, str]] = {
    "half a file": (WHOLE[: len(WHOLE) // 2], "file: not whole: ends with"),
    "its other half": (WHOLE[len(WHOLE) // 2 :], "file: not Parquet: begins with"),
    "text": (jsonl(ROWS) * 3, "file: not Parquet: begins with"),
    "empty": (b"", "file: 0 bytes are no Parquet file"),
    "only magic": (b"PAR1PAR1", "file: 8 bytes are no Parquet file"),
    "a footer of nothing": (b"PAR1" + b"\0" * 8 + struct.pack("<I", 0) + b"PAR1", "file: not readable as Parquet"),
    "a footer beyond the file": (
        b"PAR1" + b"\0" * 8 + struct.pack("<I", 2**31) + b"PAR1",
        "file: not Parquet: a footer of 2147483648 bytes in a file of 20",
    ),
    "a footer of noise": (
        b"PAR1" + os.urandom(64) + struct.pack("<I", 64) + b"PAR1",
        "file: not readable as Parquet",
    ),
    "no rows": (parquet(pa.table({"a": pa.array([], pa.int64())})), "file: no rows"),
    "no columns": (parquet(pa.table({})), "file: no rows"),
    "binary": (parquet([{"a": b"\xff"}]), 'column "a": binary is not supported'),
    "binary inside": (parquet([{"a": [{"b": b"x"}]}]), r'column "a\[\].b": binary is not supported'),
    "not utf-8": (
        parquet(pa.table({"a": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())})),
        "file: not readable as Parquet: .*UTF8",
    ),
    "too large a number": (
        parquet(pa.table({"a": pa.array([1, 2**63], pa.uint64())})),
        'row 2, column "a": Integer value 9223372036854775808 not in range',
    ),
    "nan": (parquet([{"a": 1.0}, {"a": float("nan")}]), 'row 2, column "a": NaN or infinity'),
    "column twice": (
        parquet(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])),
        'column "a": appears more than once',
    ),
    "many columns": (parquet([{f"c{i}": i for i in range(1001)}]), "file: 1001 columns, the limit is 1000"),
}  # fmt: skip


@pytest.mark.parametrize("case", PARQUETS)
def test_broken_parquet_says_why(tmp_path: Path, case: str) -> None:
    data, said = PARQUETS[case]
    with pytest.raises(InvalidField, match=said):
        take_in(data, "parquet", tmp_path)


def test_rows_of_parquet_have_a_limit(tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match=r"row 2: .* bytes, the limit is 5000"):
        take_in(parquet([{"a": "x"}, {"a": "x" * 9000}]), "parquet", tmp_path, row_bytes=5000)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (zipped(b"a\n" + b"0" * 50 * MIB), "file: unpacks to more than 10485760 bytes"),
        (zipped(jsonl(ROWS))[:-20], "compression: the file cannot be unpacked"),
        (jsonl(ROWS), "compression: the file cannot be unpacked: Not a gzipped file"),
        (zipped(jsonl(ROWS))[:15] + b"\xff" * 20, "compression: the file cannot be unpacked"),
    ],
    ids=["bomb", "half", "not gzip", "noise"],
)
def test_packed_files_are_unpacked_within_limits(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(InvalidField, match=said):
        take_in(data, "csv", tmp_path, compression="gzip", ratio_from=10 * MIB)


def test_zstandard_is_held_to_the_same(tmp_path: Path) -> None:
    bomb = zstandard.compress(b"a\n" + b"0" * 50 * MIB)
    with pytest.raises(InvalidField, match="file: unpacks to more than 10485760 bytes"):
        take_in(bomb, "csv", tmp_path / "bomb", compression="zstd", ratio_from=10 * MIB)
    with pytest.raises(InvalidField, match="compression: the file cannot be unpacked"):
        take_in(b"\0" * 100, "csv", tmp_path / "noise", compression="zstd")


# In the process of its own


def task(folder: Path, data: bytes, kind: str, **options: Any) -> IngestTask:
    folder.mkdir(parents=True, exist_ok=True)
    (path := folder / "part").write_bytes(data)
    limits = Limits(**options.pop("limits", {}))
    told = {
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "compression": "none",
    } | options
    return IngestTask(
        limits=limits, parent=os.getpid(), paths=(path,), format=kind, folder=folder / "version", **told
    )  # fmt: skip


async def test_a_good_file_comes_back_summarised(tmp_path: Path) -> None:
    (summary,) = await jail.run(task(tmp_path, jsonl(ROWS), "jsonl"))
    assert summary == take_in(jsonl(ROWS), "jsonl", tmp_path / "here")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"size_bytes": 10 * 2**30}, "size_bytes: announced 10737418240, received "),
        ({"sha256": "0" * 64}, "sha256: announced 0{64}, the content's is [0-9a-f]{64}"),
    ],
)
async def test_a_file_must_be_what_was_announced(tmp_path: Path, told: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        await jail.run(task(tmp_path, jsonl(ROWS), "jsonl", **told))


@pytest.mark.parametrize("opening, closing", [('{"a":', "}"), ("[", "]")])
@pytest.mark.parametrize("value", ["1", "true"])
@pytest.mark.parametrize("levels", [40, 250, 450, 900, 5000])
def test_rows_that_are_nested_too_deep(
    tmp_path: Path, opening: str, closing: str, value: str, levels: int
) -> None:
    deep = f'{{"a":{opening * levels}{value}{closing * levels}}}'
    with pytest.raises(InvalidField, match="deep, the limit is 32"):
        take_in(deep.encode(), "jsonl", tmp_path)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_a_packed_file_without_its_end_is_no_file(tmp_path: Path, compression: str, kept: float) -> None:
    data = b"a\n" + b"".join(b"%d\n" % (number * 7919 % 10**6) for number in range(200_000))
    packed = zipped(data) if compression == "gzip" else zstandard.compress(data)
    with pytest.raises(InvalidField, match="compression: the file cannot be unpacked"):
        take_in(packed[: int(len(packed) * kept)], "csv", tmp_path, compression=compression)


def dictionary_bomb() -> bytes:
    """A text of 1 MiB, named by a million rows: about a terabyte, in a few kilobytes."""
    names = pa.array(["x" * MIB])
    return parquet(
        pa.table({"a": pa.DictionaryArray.from_arrays(pa.repeat(0, 10**6).cast(pa.int32()), names)})
    )


async def test_a_decompression_bomb_of_parquet_is_the_senders_mistake(tmp_path: Path) -> None:
    data = dictionary_bomb()
    assert len(data) < MIB
    with pytest.raises(UserError, match=r"file: (unpacks to|too large in memory|not readable)"):
        await jail.run(task(tmp_path, data, "parquet", limits={"memory_bytes": 2**31}))


async def test_rows_that_exhaust_memory_are_the_senders_mistake(tmp_path: Path) -> None:
    data = b'{"a":[' + b"1," * 30_000_000 + b"1]}"
    limits = {"row_bytes": 2**28, "memory_bytes": 700 * MIB}
    with pytest.raises(UserError, match="file: too large in memory; reading it takes more than 700 MiB"):
        await jail.run(task(tmp_path, data, "jsonl", limits=limits))


async def test_a_file_that_takes_too_long_is_given_up_and_its_reader_killed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="file: reading it takes longer than 0 s"):
        await jail.run(task(tmp_path, jsonl(ROWS), "jsonl", limits={"seconds": 0.2}))
    assert not children()


async def test_whoever_gives_up_waiting_leaves_no_reader_behind(tmp_path: Path) -> None:
    call = asyncio.create_task(jail.run(task(tmp_path, jsonl(ROWS * 100_000), "jsonl")))
    async with asyncio.timeout(20):
        while not children():  # noqa: ASYNC110  # the start of a process tells nobody
            await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not children()


def children() -> list[int]:
    return [child.pid for child in psutil.Process().children() if "services.data.child" in child.cmdline()]


async def test_who_reads_a_file_knows_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", "nats://secret@here")
    reading = asyncio.create_task(jail.run(task(tmp_path, jsonl(ROWS * 100_000), "jsonl")))
    async with asyncio.timeout(20):
        while not children():  # noqa: ASYNC110  # the start of a process tells nobody
            await asyncio.sleep(0.01)
    assert "NATS_URL" not in psutil.Process(children()[0]).environ()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_mistake_of_ours_is_not_called_the_senders(tmp_path: Path) -> None:
    from rekindle.types.datasets import Dedupe

    missing = DeriveTask(
        limits=Limits(),
        parent=os.getpid(),
        source=tmp_path / "nothing",
        derivation=Dedupe(op="dedupe"),
        folders=(tmp_path / "version",),
    )
    with pytest.raises(ServerError, match="the reader of the file ended with code 1; the log says more"):
        await jail.run(missing)


def test_noise_anywhere_in_a_parquet_file_is_a_mistake_or_harmless(tmp_path: Path) -> None:
    """Each byte in turn; a page's checksum is not there to tell, so that some changes are just other values."""
    mistakes = 0
    for at in range(0, len(WHOLE), 7):
        try:
            take_in(flipped(at), "parquet", tmp_path / str(at))
        except InvalidField:
            mistakes += 1
    assert mistakes > 20


def test_lengths_inside_packed_text_are_not_believed(tmp_path: Path) -> None:
    """A gzip trailer that lies about the size."""
    data = zipped(jsonl(ROWS))
    lie = data[:-8] + struct.pack("<II", zlib.crc32(jsonl(ROWS)), 2**32 - 1)
    with pytest.raises(InvalidField, match="compression: the file cannot be unpacked"):
        take_in(lie, "jsonl", tmp_path, compression="gzip")
