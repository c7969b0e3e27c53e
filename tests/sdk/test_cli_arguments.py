"""The small languages of the command's arguments."""

from typing import Any

import pytest
import typer

from rekindle.cli.arguments import Reference, condition, reference, seconds_or_none, shares
from rekindle.inputs import build
from rekindle.types.datasets import Where

KINDS = {"level": "int", "name": "string", "split": "string", "tags": "list[string]", "done": "bool"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("level>=3", ("level", ">=", 3)),
        ("level<=3", ("level", "<=", 3)),
        (" level > -0.5 ", ("level", ">", -0.5)),
        ("level<1e3", ("level", "<", 1000.0)),
        ("level==x", ("level", "==", "x")),
        ("level==NaN", ("level", "==", "NaN")),
        ("level in 1,2", ("level", "in", [1, 2])),
        ("done==true", ("done", "==", True)),
        ("name==true", ("name", "==", "true")),
        ("name==3", ("name", "==", "3")),
        ('name=="3"', ("name", "==", "3")),
        ("name==Ann Lee", ("name", "==", "Ann Lee")),
        ("name!=a=b", ("name", "!=", "a=b")),
        ('name in "a,b"', ("name", "in", ["a,b"])),
        ("name in 1,2", ("name", "in", ["1", "2"])),
        ('split in ["train", "dev"]', ("split", "in", ["train", "dev"])),
        ("split in train, dev", ("split", "in", ["train", "dev"])),
        ("name contains 1", ("name", "contains", "1")),
        ("name contains SELECT * FROM t", ("name", "contains", "SELECT * FROM t")),
        ("name contains a>=b", ("name", "contains", "a>=b")),
        ("tags contains 1", ("tags", "contains", "1")),
        ("tags==[1, 2]", ("tags", "==", [1, 2])),
        ('"a >= b">=3', ("a >= b", ">=", 3)),
        ('"say \\"x\\""==1', ('say "x"', "==", 1)),
        ("größe==5", ("größe", "==", 5)),
        ("in in in", ("in", "in", ["in"])),
        ("name is null", ("name", "is_null", True)),
        ("name  is not  null", ("name", "is_null", False)),
    ],
)
def test_a_condition_has_a_column_an_op_and_a_value_of_the_columns_type(
    text: str, expected: tuple[str, str, Any]
) -> None:
    read = condition(text)
    assert read.typed(KINDS.get(read.column)) == expected
    column, op, value = expected
    assert build(Where, column=column, op=op, value=value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "level",
        "level>=",
        ">=3",
        "level=3",
        "level=>3",
        "level===3",
        "a b>=3",
        "level like x",
        "x in ",
        '"a\\q"==1',
    ],
)
def test_what_is_no_condition_is_a_usage_error_that_shows_it(text: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        condition(text)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", Reference("a/b", "latest")),
        ("a@latest", Reference("a", "latest")),
        ("a@12", Reference("a", 12)),
    ],
)
def test_a_reference_is_a_name_and_a_version(text: str, expected: Reference) -> None:
    assert reference(text) == expected


@pytest.mark.parametrize("text", ["a@", "a@0", "a@-1", "a@x", "a@1@2", "a@²", "a@9999999999"])
def test_a_version_is_a_number_from_one(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected a number from 1"):
        reference(text)


def test_shares_are_numbers_by_part() -> None:
    assert shares(["train=0.9", "test=.1"]) == {"train": 0.9, "test": 0.1}


@pytest.mark.parametrize("texts", [["train"], ["train="], ["train=a lot"], ["train=0.5", "train=0.5"]])
def test_what_is_no_share_is_a_usage_error(texts: list[str]) -> None:
    with pytest.raises(typer.BadParameter, match="train"):
        shares(texts)


def test_a_ttl_is_seconds_or_none() -> None:
    assert (seconds_or_none("3600"), seconds_or_none("none")) == (3600, None)
    for text in ("", "1h", "-1", "1.5", "٣"):
        with pytest.raises(typer.BadParameter, match="whole number of seconds"):
            seconds_or_none(text)
