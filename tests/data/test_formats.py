"""Every format gives the rows that were written, and the same rows have the same content hash."""

import json
import resource
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from rekindle.types import InvalidField
from services.data.limits import Limits
from services.data.pages import read_page
from services.data.source import Parts
from services.data.summary import FILE
from tests.data.files import ROWS, csv_file, jsonl, parquet, rows_of, take_in, zipped

CONVERSATION = [
    {"messages": [{"role": "user", "content": "2+2"}], "meta": {"tags": ["a", "b"], "n": {"deep": 1}}},
    {"messages": [], "meta": None},
    {
        "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None}],
        "meta": {"tags": [], "n": {"deep": 2}},
    },
]


def test_the_same_rows_have_the_same_hash_in_every_format(tmp_path: Path) -> None:
    files = {"jsonl": jsonl(ROWS), "csv": csv_file(ROWS), "parquet": parquet(ROWS)}
    hashes = {kind: take_in(data, kind, tmp_path / kind).sha256 for kind, data in files.items()}
    assert len(set(hashes.values())) == 1, hashes
    for kind in files:
        assert rows_of(tmp_path / kind) == ROWS


def test_nested_rows_survive_and_hash_alike(tmp_path: Path) -> None:
    one = take_in(jsonl(CONVERSATION), "jsonl", tmp_path / "one")
    two = take_in(parquet(CONVERSATION), "parquet", tmp_path / "two")
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two") == CONVERSATION
    assert one.sha256 == two.sha256
    assert [column.type for column in one.columns] == [
        "list[{role: string, content: string}]",
        "{tags: list[string], n: {deep: int}}",
    ]


@pytest.mark.parametrize(
    "changed",
    [
        ROWS[::-1],
        ROWS[:2],
        [*ROWS, ROWS[0]],
        [{**ROWS[0], "prompt": "how man"}, *ROWS[1:]],
        [{**ROWS[0], "level": None}, *ROWS[1:]],
        [{**ROWS[0], "ok": False}, *ROWS[1:]],
    ],
)
def test_other_rows_have_another_hash(tmp_path: Path, changed: list[dict]) -> None:
    assert (
        take_in(jsonl(ROWS), "jsonl", tmp_path / "a").sha256
        != take_in(jsonl(changed), "jsonl", tmp_path / "b").sha256
    )


def test_the_hash_sees_where_texts_and_lists_end(tmp_path: Path) -> None:
    variants: list[list[dict]] = [
        [{"a": "xy"}, {"a": "z"}],
        [{"a": "x"}, {"a": "yz"}],
        [{"a": ["x", "y"]}, {"a": ["z"]}],
        [{"a": ["x"]}, {"a": ["y", "z"]}],
        [{"a": ["x", "y", "z"]}, {"a": []}],
        [{"a": ["x", "y", "z"]}, {"a": None}],
        [{"b": "xy"}, {"b": "z"}],
        [{"a": {"b": "xy"}}, {"a": {"b": "z"}}],
        [{"a": {"b": None}}, {"a": {"b": "z"}}],
        [{"a": None}, {"a": {"b": "z"}}],
    ]
    hashes = {take_in(jsonl(rows), "jsonl", tmp_path / str(i)).sha256 for i, rows in enumerate(variants)}
    assert len(hashes) == len(variants)


def test_neither_the_order_of_columns_nor_a_column_of_nulls_changes_the_hash(tmp_path: Path) -> None:
    turned = [dict(reversed(row.items())) | {"nothing": None} for row in ROWS]
    assert (
        take_in(jsonl(ROWS), "jsonl", tmp_path / "a").sha256
        == take_in(jsonl(turned), "jsonl", tmp_path / "b").sha256
    )


def test_batches_do_not_change_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"n": i, "t": ["x" * (i % 7)] * (i % 3)} for i in range(300)]
    whole = take_in(jsonl(rows), "jsonl", tmp_path / "whole")
    monkeypatch.setattr("services.data.jsonl.BATCH_ROWS", 7)
    assert take_in(jsonl(rows), "jsonl", tmp_path / "cut").sha256 == whole.sha256
    assert rows_of(tmp_path / "cut") == rows


def test_shapes_that_grow_over_batches_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.data.jsonl.BATCH_ROWS", 1)
    rows = [
        {},
        {"a": None, "o": {}, "l": []},
        {"a": 1, "o": {"x": "s"}, "l": [{"u": 1}]},
        {"a": 2.5, "o": {"y": [1]}, "l": [{"v": None}, {"v": "w"}]},
    ]
    summary = take_in(jsonl(rows), "jsonl", tmp_path)
    assert rows_of(tmp_path) == [
        {"a": None, "o": None, "l": None},
        {"a": None, "o": {"x": None, "y": None}, "l": []},
        {"a": 1.0, "o": {"x": "s", "y": None}, "l": [{"u": 1, "v": None}]},
        {"a": 2.5, "o": {"x": None, "y": [1]}, "l": [{"u": None, "v": None}, {"u": None, "v": "w"}]},
    ]
    assert summary.rows == 4


def test_statistics_say_what_columns_hold(tmp_path: Path) -> None:
    rows = [
        {"t": "ä", "n": 3, "f": 0.5, "b": True, "l": [1, 2], "o": {"x": 1}, "z": None},
        {"t": "abc", "n": -1, "f": None, "b": False, "l": [], "o": None, "z": None},
    ]
    columns = {c.name: c for c in take_in(jsonl(rows), "jsonl", tmp_path).columns}
    assert (columns["t"].mean_length, columns["t"].min, columns["t"].nulls) == (2.0, None, 0)
    assert (columns["n"].min, columns["n"].max) == (-1, 3)
    assert (columns["f"].min, columns["f"].max, columns["f"].nulls) == (0.5, 0.5, 1)
    assert (columns["b"].min, columns["b"].max) == (False, True)
    assert columns["l"].mean_length == 1.0
    assert (columns["o"].nulls, columns["z"].nulls, columns["z"].type) == (1, 2, "null")


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_compressed_files_in_parts_give_the_same(tmp_path: Path, kind: str, compression: str) -> None:
    data = jsonl(ROWS) if kind == "jsonl" else csv_file(ROWS)
    packed = {"none": data, "gzip": zipped(data), "zstd": zstandard.compress(data)}[compression]
    take_in(packed, kind, tmp_path, compression=compression, part=13)
    assert rows_of(tmp_path) == ROWS


def test_several_packed_files_in_a_row_are_one(tmp_path: Path) -> None:
    for compression, pack in (("gzip", zipped), ("zstd", zstandard.compress)):
        folder = tmp_path / compression
        take_in(pack(jsonl(ROWS[:1])) + pack(jsonl(ROWS[1:])), "jsonl", folder, compression=compression)
        assert rows_of(folder) == ROWS


def test_parquet_in_parts_is_read_as_one_file(tmp_path: Path) -> None:
    take_in(parquet(ROWS), "parquet", tmp_path, part=101)
    assert rows_of(tmp_path) == ROWS


def test_types_of_parquet_become_those_of_json(tmp_path: Path) -> None:
    table = pa.table(
        {
            "small": pa.array([1, 2], pa.int8()),
            "wide": pa.array([1, 2], pa.uint64()),
            "half": pa.array([0.5, None], pa.float32()),
            "word": pa.array(["a", "b"]).dictionary_encode(),
            "long": pa.array(["x", None], pa.large_string()),
            "when": pa.array([datetime(2024, 1, 2, 3, 4, 5), None]),
            "day": pa.array([date(2024, 1, 2), None]),
            "money": pa.array([Decimal("12.30"), None]),
            "pairs": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int16())),
            "lists": pa.array([[1], []], pa.large_list(pa.int32())),
            "nothing": pa.nulls(2),
        }
    )
    take_in(parquet(table), "parquet", tmp_path)
    first, second = rows_of(tmp_path)
    assert first == {
        "small": 1,
        "wide": 1,
        "half": 0.5,
        "word": "a",
        "long": "x",
        "when": "2024-01-02 03:04:05.000000",
        "day": "2024-01-02",
        "money": "12.30",
        "pairs": [{"key": "k", "value": 1}],
        "lists": [1],
        "nothing": None,
    }
    assert second["half"] is None and second["lists"] == []


def test_a_cell_of_csv_is_what_it_would_be_in_json(tmp_path: Path) -> None:
    data = b"zip,n,f,b,text,empty,big\n007,1,1,true,true,,123456789012345678901\n1,-2,2.5,false,1,,2\n"
    take_in(data, "csv", tmp_path)
    assert rows_of(tmp_path) == [
        {"zip": "007", "n": 1, "f": 1.0, "b": True, "text": "true", "empty": None, "big": "1234567890" * 2 + "1"},
        {"zip": "1", "n": -2, "f": 2.5, "b": False, "text": "1", "empty": None, "big": "2"},
    ]  # fmt: skip


def test_a_column_of_csv_that_turns_to_text_late_keeps_its_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.data.csv_rows.BATCH_ROWS", 2)
    take_in(b"a\n1.50\n2\n\n3\nx\n", "csv", tmp_path)
    assert [row["a"] for row in rows_of(tmp_path)] == ["1.50", "2", "3", "x"]


def test_marks_and_line_ends_of_windows_are_no_content(tmp_path: Path) -> None:
    take_in(b"\xef\xbb\xbfa,b\r\n1,x\r\n", "csv", tmp_path / "csv")
    take_in(b'\xef\xbb\xbf{"a": 1, "b": "x"}\r\n\r\n', "jsonl", tmp_path / "jsonl")
    assert rows_of(tmp_path / "csv") == rows_of(tmp_path / "jsonl") == [{"a": 1, "b": "x"}]


def test_a_page_goes_on_where_the_one_before_ended(tmp_path: Path) -> None:
    rows = [{"n": n, "text": f"{n}" * 50} for n in range(20_000)]
    take_in(jsonl(rows), "jsonl", tmp_path)
    for limit in (1000, 777, 20_000):
        assert rows_of(tmp_path, limit) == rows


def test_a_page_is_bounded_by_what_its_reader_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.data.pages.PAGE_LENGTH", 100_000)
    wide = jsonl([{f"{n:0>200}": None for n in range(100)}]) + b"{}\n" * 500
    take_in(wide, "jsonl", tmp_path / "wide")
    page, cursor = read_page(tmp_path / "wide" / "version", None, 1000)
    assert 100_000 <= len("".join(page)) < 130_000 and cursor == f"r{len(page)}"
    assert len(rows_of(tmp_path / "wide")) == 501


def test_nulls_and_truth_values_take_room(tmp_path: Path) -> None:
    for number, values in enumerate(([None] * 1000, [True] * 1000, [[]] * 1000)):
        line = jsonl([{"a": values}])
        folder = tmp_path / str(number)
        with pytest.raises(InvalidField, match=r"line 3: \d+ bytes, the limit is 7500"):
            take_in(b'{"a":[]}\n{}\n' + line, "jsonl", folder / "not", row_bytes=7500)
        take_in(line * 2000, "jsonl", folder)
        groups = pq.ParquetFile(folder / "version" / FILE).metadata
        assert groups.num_row_groups > 1, "a group is read whole"


def test_parts_can_be_sought_like_a_file(tmp_path: Path) -> None:
    paths = [tmp_path / str(i) for i in range(3)]
    for path, data in zip(paths, (b"abc", b"", b"defg"), strict=True):
        path.write_bytes(data)
    with Parts(paths) as parts:
        assert parts.size == 7 and parts.read() == b"abcdefg"
        parts.seek(-3, 2)
        assert (parts.tell(), parts.read(2), parts.read()) == (4, b"ef", b"g")
        parts.seek(2)
        assert parts.read(2) == b"c"  # a read stops where a file ends


def test_a_file_of_many_parts_needs_few_open_files(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(300)]
    for path in paths:
        path.write_bytes(b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        with Parts(paths) as parts:
            assert parts.read() == b"x" * 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_lines_of_the_last_row_need_no_end(tmp_path: Path) -> None:
    take_in(json.dumps(ROWS[0]).encode(), "jsonl", tmp_path)
    assert rows_of(tmp_path) == ROWS[:1]


def test_limits_admit_what_they_name(tmp_path: Path) -> None:
    line = jsonl([{"a": "x" * 90}])
    take_in(line, "jsonl", tmp_path / "fits", row_bytes=len(line))
    with pytest.raises(InvalidField, match=f"line 1: longer than the limit of {len(line) - 1} bytes"):
        take_in(line, "jsonl", tmp_path / "not", row_bytes=len(line) - 1)
    assert Limits(ratio=10, ratio_from=100).most_bytes(50) == 500
