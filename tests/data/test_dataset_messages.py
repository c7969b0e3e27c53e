"""What requests about datasets may say."""

from typing import Any

import pytest

from rekindle.types import InvalidField, parse_json
from rekindle.types.datasets import CreateDatasetRequest, DeriveRequest

GOOD: dict[str, Any] = {"name": "a", "format": "csv", "size_bytes": 1, "sha256": "0" * 64}


def mistake(kind: Any, body: dict[str, Any]) -> str:
    import json

    with pytest.raises(InvalidField) as raised:
        parse_json(kind, json.dumps(body))
    return str(raised.value)


@pytest.mark.parametrize("name", ["a", "spider/train", "A-b_c.d/0", "x" * 128, "v1/x.y.z"])
def test_names_of_datasets(name: str) -> None:
    assert CreateDatasetRequest(**GOOD | {"name": name}).name == name


@pytest.mark.parametrize(
    "name",
    [
        "", "/a", "a/", "a//b", "../a", "a/../b", "a/..", "..", ".", ".a", "a/.b", "a..b", "a b", "a\0b", "a\\b",
        "a\n", "ä", "a:b", "a%2fb", "x" * 129, "uploads", "uploads/a", "a/versions/1", "versions", "/etc/passwd",
    ],
)  # fmt: skip
def test_names_that_are_none(name: str) -> None:
    assert mistake(CreateDatasetRequest, GOOD | {"name": name}).startswith("name: ")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": "xlsx"}, "format: "),
        ({"size_bytes": 0}, "size_bytes: "),
        ({"size_bytes": -1}, "size_bytes: "),
        ({"size_bytes": None}, "size_bytes: missing"),
        ({"sha256": "0" * 63}, "sha256: "),
        ({"sha256": "A" * 64}, "sha256: "),
        ({"compression": "bz2"}, "compression: "),
        ({"format": "parquet", "compression": "gzip"}, "compression: 'gzip': parquet is sent as it is"),
        ({"shape": 1}, "shape: unknown"),
    ],
)
def test_announcements_that_are_none(changed: dict, said: str) -> None:
    assert mistake(CreateDatasetRequest, GOOD | changed).startswith(said)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "body: Unable to extract tag"),
        ({"op": "sort"}, "body: Input tag 'sort'"),
        ({"op": "filter"}, "filter.where: missing"),
        ({"op": "filter", "where": []}, "filter.where: "),
        ({"op": "filter", "where": [{"column": "a", "op": "~", "value": 1}]}, "filter.where[0].op: "),
        ({"op": "filter", "where": [{"column": "a", "op": "=="}]}, "filter.where[0].value: missing with '=='"),
        ({"op": "filter", "where": [{"column": "a", "op": "in", "value": 1}]}, "filter.where[0].value: 1, expected a"),
        ({"op": "filter", "where": [{"column": "a", "op": "is_null", "value": 1}]}, "filter.where[0].value: 1, exp"),
        ({"op": "filter", "where": [{"column": "a", "op": "<", "value": float("nan")}]}, "filter.where[0].value: NaN"),
        ({"op": "filter", "where": [{"column": "a", "op": "in", "value": [1, 1e999]}]}, "filter.where[0].value: NaN"),
        ({"op": "filter", "where": [{"column": "a", "op": "in", "value": [1] * 1001}]}, "filter.where[0].value: 1001"),
        ({"op": "dedupe", "columns": []}, "dedupe.columns: "),
        ({"op": "split"}, "split.parts: missing"),
        ({"op": "split", "parts": {"a": 1}}, "split.parts.a: "),
        ({"op": "split", "parts": {"a": 0.5}}, "split.parts: 1 parts, expected 2 to 16"),
        ({"op": "split", "parts": {"a": 0.5, "b": 0.4}}, "split.parts: the shares sum to 0.9, expected 1"),
        ({"op": "split", "parts": {"a/b": 0.5, "b": 0.5}}, "split.parts.a/b"),
        ({"op": "split", "parts": {"a": 0.5, "b": 0.5}, "seeds": 1}, "split.seeds: unknown"),
        ({"op": "split", "parts": {"a": 0.5, "b": 0.5}, "seed": 10**70}, "split.seed: "),
    ],
)  # fmt: skip
def test_derivations_that_are_none(body: dict, said: str) -> None:
    assert mistake(DeriveRequest, body).startswith(said)
