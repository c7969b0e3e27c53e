"""Pages of rows are read from where a version lies, whoever takes it away meanwhile."""

import io
from pathlib import Path

import pytest

from events.failure import NotFound
from events.range_file import RangeFile
from services.data.pages import read_page
from services.data.summary import FILE
from tests.data.files import jsonl, take_in

ROWS = [{"n": number, "text": f"row {number}" * 50} for number in range(20_000)]


def test_a_page_costs_a_part_of_the_file(tmp_path: Path) -> None:
    take_in(jsonl(ROWS), "jsonl", tmp_path)
    data = (tmp_path / "version" / FILE).read_bytes()
    asked: list[int] = []

    def read(start: int, length: int) -> bytes:
        asked.append(length)
        return data[start : start + length]

    file = io.BufferedReader(RangeFile(len(data), read), 4096)
    assert read_page(file, "r19000", 10) == read_page(tmp_path / "version", "r19000", 10)
    assert sum(asked) < len(data) / 2 and len(asked) < 20


def test_a_page_of_what_is_gone_is_not_found(tmp_path: Path) -> None:
    def gone(start: int, length: int) -> bytes:
        raise NotFound("blob t/f does not exist")

    with pytest.raises(NotFound, match="does not exist"):
        read_page(io.BufferedReader(RangeFile(1000, gone)), None, 10)
