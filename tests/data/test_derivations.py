"""New versions from old ones: exactly the rows that they should have, and the same ones every time."""

import json
from pathlib import Path
from typing import Any

import pytest

from rekindle.types import InvalidField
from rekindle.types.datasets import DeriveRequest
from services.data.derive import derive, parts
from services.data.pages import read_page
from tests.data.files import Row, jsonl, take_in

ROWS: list[Row] = [
    {"q": "how many cats", "level": 1, "score": 0.5, "ok": True, "tags": ["a", "b"], "o": {"x": 1}},
    {"q": "which dog", "level": 2, "score": None, "ok": False, "tags": [], "o": None},
    {"q": None, "level": None, "score": 2.0, "ok": None, "tags": ["b", None], "o": {"x": 2}},
    {"q": "how many cats", "level": 3, "score": 0.5, "ok": True, "tags": None, "o": {"x": 1}},
]


def derived(folder: Path, rows: list[Row], request: dict[str, Any]) -> list[list[Row]]:
    derivation = DeriveRequest.model_validate(request).root
    take_in(jsonl(rows), "jsonl", folder)
    folders = [folder / f"out-{number}" for number in range(len(parts(derivation)))]
    summaries = derive(folder / "version", derivation, folders)
    found = [[json.loads(row) for row in read_page(out, None, 10_000)[0]] for out in folders]
    assert [summary.rows for summary in summaries] == [len(rows) for rows in found]
    return found


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        (("level", "==", 2), [1]),
        (("level", "!=", 2), [0, 3]),
        (("level", "<", 2.5), [0, 1]),
        (("level", "<=", 1), [0]),
        (("level", ">", 1), [1, 3]),
        (("level", ">=", 2), [1, 3]),
        (("level", "in", [1, 3, 7]), [0, 3]),
        (("level", "is_null", None), [2]),
        (("level", "is_null", False), [0, 1, 3]),
        (("score", ">", 1), [2]),
        (("ok", "==", False), [1]),
        (("q", "contains", "cat"), [0, 3]),
        (("q", ">", "how many dogs"), [1]),
        (("q", "in", ["which dog"]), [1]),
        (("tags", "contains", "b"), [0, 2]),
        (("tags", "is_null", True), [3]),
        (("o", "is_null", True), [1]),
    ],
)
def test_a_condition_keeps_the_rows_that_fulfil_it(
    tmp_path: Path, condition: tuple[str, str, Any], kept: list[int]
) -> None:
    column, op, value = condition
    where = [{"column": column, "op": op, "value": value}]
    assert derived(tmp_path, ROWS, {"op": "filter", "where": where}) == [[ROWS[i] for i in kept]]


def test_conditions_hold_together(tmp_path: Path) -> None:
    where = [
        {"column": "q", "op": "contains", "value": "cats"},
        {"column": "level", "op": "!=", "value": 1},
    ]
    assert derived(tmp_path, ROWS, {"op": "filter", "where": where}) == [[ROWS[3]]]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"where": [{"column": "no", "op": "==", "value": 1}]}, r"where\[0\]: no column 'no'; there are q, level"),
        ({"where": [{"column": "q", "op": "==", "value": 1}]}, r"where\[0\].value: 1 cannot be compared .* string"),
        ({"where": [{"column": "level", "op": "<", "value": "1"}]}, r"where\[0\].value: '1' cannot be compared"),
        ({"where": [{"column": "level", "op": "==", "value": True}]}, r"where\[0\].value: True cannot be compared"),
        ({"where": [{"column": "level", "op": "==", "value": 2**64}]}, r"where\[0\].value: .* is outside of 64"),
        ({"where": [{"column": "o", "op": "==", "value": {}}]}, r"where\[0\].value: {} cannot be compared"),
        ({"where": [{"column": "tags", "op": "==", "value": "a"}]}, r"where\[0\].value: 'a' cannot be compared"),
        ({"where": [{"column": "tags", "op": "contains", "value": 1}]}, r"where\[0\].value: 1 cannot be compared"),
        ({"where": [{"column": "level", "op": "contains", "value": 1}]}, r"where\[0\].op: 'contains' takes a text"),
        ({"where": [{"column": "q", "op": "in", "value": ["x", 2]}]}, r"where\[0\].value: 2 cannot be compared"),
        ({"where": [{"column": "level", "op": ">", "value": 99}]}, "where: the version would have no row"),
        ({"op": "dedupe", "columns": ["q", "no"]}, r"columns\[1\]: no column 'no'"),
        ({"op": "split", "parts": {"a": 0.5, "b": 0.5}, "by": ["no"]}, r"by\[0\]: no column 'no'"),
        ({"op": "split", "parts": {"a": 0.999999, "b": 0.000001}}, "parts: b would have no row"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_rows_is_named(tmp_path: Path, request_: dict, said: str) -> None:
    with pytest.raises(InvalidField, match=said):
        derived(tmp_path, ROWS, {"op": "filter"} | request_)


def test_of_equal_rows_the_first_stays(tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[1], dict(ROWS[0]), ROWS[3], ROWS[1]]
    assert derived(tmp_path / "all", rows, {"op": "dedupe"}) == [[ROWS[0], ROWS[1], ROWS[3]]]
    by = {"op": "dedupe", "columns": ["q", "score"]}
    assert derived(tmp_path / "some", ROWS, by) == [ROWS[:3]]


MANY = [{"n": n, "group": f"g{n % 50}"} for n in range(4000)]
SPLIT: dict[str, Any] = {"op": "split", "parts": {"train": 0.8, "dev": 0.15, "test": 0.05}, "seed": 7}


def test_every_row_goes_to_exactly_one_part_in_order(tmp_path: Path) -> None:
    found = derived(tmp_path, MANY, SPLIT)
    assert sorted(row["n"] for part in found for row in part) == list(range(4000))
    assert all(part == sorted(part, key=lambda row: row["n"]) for part in found)
    for part, share in zip(found, (0.8, 0.15, 0.05), strict=True):
        assert abs(len(part) / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_a_row_stays_in_its_part_whatever_its_place_and_company(tmp_path: Path) -> None:
    found = derived(tmp_path / "all", MANY, SPLIT)
    half = derived(tmp_path / "half", MANY[::-2], SPLIT)
    for whole, some in zip(found, half, strict=True):
        assert {row["n"] for row in some} == {row["n"] for row in whole if row["n"] % 2}


def test_another_seed_is_another_split(tmp_path: Path) -> None:
    assert derived(tmp_path / "a", MANY, SPLIT) != derived(tmp_path / "b", MANY, SPLIT | {"seed": 8})


def test_rows_that_agree_in_the_columns_given_stay_together(tmp_path: Path) -> None:
    found = derived(tmp_path, MANY, SPLIT | {"by": ["group"], "parts": {"a": 0.5, "b": 0.5}})
    groups = [{row["group"] for row in part} for part in found]
    assert not groups[0] & groups[1] and len(groups[0] | groups[1]) == 50
