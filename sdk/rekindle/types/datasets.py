"""JSON messages about datasets: upload in parts, versions and their columns, pages of rows, derived versions.

A dataset is a name with numbered versions; a version never changes. Its rows are JSON objects: each column holds
texts, whole numbers, fractions, truth values, lists or objects, of one type throughout; a missing key is the
same as null.
"""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, RootModel, StringConstraints, model_validator

from rekindle.types.errors import InvalidField
from rekindle.types.fields import Count, ExactMessage, Id, Message, Time

MAX_NAME = 128
MAX_ROWS_PAGE = 10_000
MAX_PARTS = 16
"""Parts of a split."""
MAX_VALUES = 1000
"""Values of a condition's list."""
NAME_PART = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
RESERVED = frozenset({"uploads", "versions"})
"""Words of the routes, which therefore stand in no name."""

Format = Literal["jsonl", "csv", "parquet"]
Compression = Literal["none", "gzip", "zstd"]
Op = Literal["==", "!=", "<", "<=", ">", ">=", "in", "contains", "is_null"]


def check_name(name: str) -> str:
    """The name as it is. Raises ValueError for one that is no dataset's."""
    if not 1 <= len(name) <= MAX_NAME:
        raise ValueError(f"{len(name)} characters, expected 1 to {MAX_NAME}")
    if not re.fullmatch(rf"{NAME_PART}(/{NAME_PART})*", name) or ".." in name:
        raise ValueError(
            f"{name!r}: parts between slashes take letters, digits and . _ -, start with no dot and hold no `..`"
        )
    if taken := RESERVED.intersection(name.split("/")):
        raise ValueError(f"{name!r}: no part may be called {min(taken)!r}")
    return name


DatasetName = Annotated[str, AfterValidator(check_name)]
"""1 to 128 characters: parts of letters, digits, `.`, `_` and `-`, between slashes."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""64 hex digits, in small letters."""
PartName = Annotated[str, StringConstraints(pattern=rf"^{NAME_PART}$", max_length=64)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class CreateDatasetRequest(ExactMessage):
    """Announces a file. Example: CreateDatasetRequest(name="spider/train", format="csv", size_bytes=9, sha256=…).

    The same announcement again finds the same upload, with the parts that it already has.
    """

    name: DatasetName
    format: Format
    size_bytes: Annotated[int, Field(ge=1)]
    """Of the file as it is sent, compressed or not."""
    sha256: Sha256
    """Of the file as it is sent."""
    compression: Compression = "none"
    """Of the whole file; Parquet has a compression of its own inside."""
    description: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """For people; None: nothing to say."""

    @model_validator(mode="after")
    def _compresses_text_alone(self) -> "CreateDatasetRequest":
        if self.format == "parquet" and self.compression != "none":
            raise InvalidField(
                "compression", f"{self.compression!r}: parquet is sent as it is, expected 'none'"
            )
        return self


class Upload(Message):
    """How far an upload is. Example: Upload(upload_id="5d…", part_bytes=8388608, parts=(0, 1), state="open")."""

    upload_id: Id
    part_bytes: Annotated[int, Field(ge=1)]
    """Size of every part but the last, which holds the rest."""
    parts: tuple[Count, ...]
    """Numbers of the parts that are there, ascending from 0."""
    state: Literal["open", "completing"] = "open"
    """`completing`: all parts are in and the version is being made."""


class Column(Message):
    """What one column holds. Example: Column(name="tokens", type="list[int]", nulls=0, mean_length=31.5)."""

    name: ColumnName
    type: str
    """`string`, `int`, `float`, `bool`, `null` (nothing but nulls), `list[…]` or `{key: …}`."""
    nulls: Count
    """Rows in which it is null."""
    min: int | float | bool | None = None
    """Least value of numbers and truth values; None for other types, and where all is null."""
    max: int | float | bool | None = None
    mean_length: float | None = None
    """Characters of a text or items of a list, over the rows that are not null; None for other types."""


class DatasetVersion(Message):
    """One version. Example: DatasetVersion(name="spider/train", version=1, rows=7000, format="csv", …)."""

    name: DatasetName
    version: Annotated[int, Field(ge=1)]
    sha256: Sha256
    """Of the content: the same rows in the same order have the same, whatever file they came in."""
    format: Format | None = None
    """What was uploaded; None for a version that was made here."""
    rows: Count
    bytes: Count
    """Of the Parquet file that holds the version."""
    columns: tuple[Column, ...]
    created: Time
    parent: int | None = None
    """The version that this one was derived from; None: from none."""
    how: dict[str, Any]
    """`{"op": "upload" | "filter" | "dedupe" | "split" | "rollouts", …}` with the parameters."""
    split: str | None = None
    """Which part of a split it is; None: no split."""
    description: str | None = None


class DatasetVersions(Message):
    """Result of a command that makes several versions, as a split does."""

    versions: tuple[DatasetVersion, ...]


class Dataset(Message):
    """A dataset with its versions."""

    name: DatasetName
    versions: tuple[DatasetVersion, ...]
    """Newest first; at least one."""


class DatasetsList(Message):
    """All datasets, each as its newest version."""

    datasets: tuple[DatasetVersion, ...]


class RowsQuery(Message):
    """Query of a page of rows."""

    cursor: Annotated[str, StringConstraints(max_length=64)] | None = None
    """From the page before; None: from the first row."""
    limit: Annotated[int, Field(ge=1, le=MAX_ROWS_PAGE)] = 100
    """The most rows; a page of large rows may hold fewer."""


class RowsPage(Message):
    """Some rows of a version, in order. Example: RowsPage(rows=({"a": 1},), cursor=None)."""

    rows: tuple[dict[str, Any], ...]
    cursor: str | None = None
    """Of the next page; None: these are the last."""


class Where(ExactMessage):
    """One condition. A null fulfils none but `is_null`. Example: Where(column="level", op=">=", value=3)."""

    column: ColumnName
    op: Op
    """`in`: value is a list of which one equals; `contains`: a text within a text, or an item of a list."""
    value: Any = None
    """Of the column's type. With `is_null`: true (or nothing) keeps the nulls, false all others."""

    @model_validator(mode="after")
    def _has_a_value_that_fits(self) -> "Where":
        if self.op == "is_null" and not isinstance(self.value, bool | None):
            raise InvalidField("value", f"{self.value!r}, expected true, false or nothing with is_null")
        if self.op != "is_null" and self.value is None:
            raise InvalidField("value", f"missing with {self.op!r}; to find nulls use is_null")
        if self.op == "in" and not isinstance(self.value, list):
            raise InvalidField("value", f"{self.value!r}, expected a list with 'in'")
        values = self.value if isinstance(self.value, list) else [self.value]
        if len(values) > MAX_VALUES:
            raise InvalidField("value", f"{len(values)} values, the limit is {MAX_VALUES}")
        if any(isinstance(value, float) and not math.isfinite(value) for value in values):
            raise InvalidField("value", "NaN or infinity, which no row holds")
        return self


class Filter(ExactMessage):
    """Keeps the rows that fulfil all conditions."""

    op: Literal["filter"]
    where: Annotated[tuple[Where, ...], Field(min_length=1, max_length=64)]


class Dedupe(ExactMessage):
    """Keeps the first of all rows that are equal."""

    op: Literal["dedupe"]
    columns: Annotated[tuple[ColumnName, ...], Field(min_length=1)] | None = None
    """Which must be equal; None: all."""


class Split(ExactMessage):
    """Every row to exactly one part, by a hash of seed and content. Example: parts={"train": 0.9, "test": 0.1}.

    A row's part depends on the seed and its content alone: not on its place, nor on the other rows.
    """

    op: Literal["split"]
    parts: dict[PartName, Annotated[float, Field(gt=0, lt=1)]]
    """Expected share of the rows by part; 2 to 16 parts that sum to 1."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    by: Annotated[tuple[ColumnName, ...], Field(min_length=1)] | None = None
    """Columns whose values decide, so that rows which agree in them stay together; None: all."""

    @model_validator(mode="after")
    def _parts_are_a_whole(self) -> "Split":
        if not 2 <= len(self.parts) <= MAX_PARTS:
            raise InvalidField("parts", f"{len(self.parts)} parts, expected 2 to {MAX_PARTS}")
        if not math.isclose(total := math.fsum(self.parts.values()), 1.0, abs_tol=1e-9):
            raise InvalidField("parts", f"the shares sum to {total}, expected 1")
        return self


Derivation = Annotated[Filter | Dedupe | Split, Field(discriminator="op")]


class DeriveRequest(RootModel[Derivation]):
    """Body of `POST …/derive`. Example: `{"op": "dedupe", "columns": ["prompt"]}`."""

    model_config = ConfigDict(frozen=True)


class ExportRolloutsRequest(ExactMessage):
    """Body of `POST training_runs/{id}/rollouts`: the dataset whose next version they become."""

    name: DatasetName
