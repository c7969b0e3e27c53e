"""Whatever JSON rows hold: they survive, and hash alike, whichever way they came in and in whatever batches."""

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from rekindle.types.datasets import Dedupe
from services.data.derive import derive
from services.data.ingest import ingest
from services.data.limits import Limits
from tests.data.files import Row, jsonl, parquet, rows_of, take_in

LEAVES = st.sampled_from(
    [
        st.text(max_size=8),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
    ]
)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=5)


def or_null(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def lists(kind: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return kind.map(lambda values: st.lists(or_null(values), max_size=3))


def objects(kind: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects with all their keys: a missing one would come back as null."""
    return st.dictionaries(NAMES, kind, min_size=1, max_size=3).map(
        lambda fields: st.fixed_dictionaries({name: or_null(values) for name, values in fields.items()})
    )


KINDS = st.recursive(LEAVES, lambda kind: lists(kind) | objects(kind), max_leaves=4)
"""Strategies for the values of a column."""
ROWS = objects(KINDS).flatmap(lambda row: st.lists(row, min_size=1, max_size=12))


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, batch=st.integers(1, 5))
def test_any_rows_survive_and_hash_alike(rows: list[Row], batch: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        whole = take_in(jsonl(rows), "jsonl", Path(name, "whole"))
        assert rows_of(Path(name, "whole")) == rows
        with patch("services.data.jsonl.BATCH_ROWS", batch), patch("services.data.version.GROUP_ROWS", batch):
            cut = take_in(jsonl(rows), "jsonl", Path(name, "cut"))
        assert rows_of(Path(name, "cut"), limit=batch) == rows
        table = take_in(parquet(rows), "parquet", Path(name, "table"))
        path = Path(name, "cut", "version", "rows.parquet")
        again = ingest([path], "parquet", "none", Path(name, "again"), Limits())
        assert whole.sha256 == cut.sha256 == table.sha256 == again.sha256
        assert whole.columns == cut.columns == again.columns


@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_of_any_equal_rows_the_first_stays(rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as name:
        with patch("services.data.version.GROUP_ROWS", 2):
            take_in(jsonl(rows + rows[::-1]), "jsonl", Path(name))
        derive(Path(name, "version"), Dedupe(op="dedupe"), [Path(name, "out", "version")])
        unique: dict[str, Row] = {}
        for row in rows:
            unique.setdefault(json.dumps(row, sort_keys=True), row)
        assert rows_of(Path(name, "out")) == list(unique.values())
