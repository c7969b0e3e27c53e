"""Graders that look at the completion's text: their parameters, and what the wire calls them.

What is checked here is what one message says. Whether a JSON schema is one is checked where it is used.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, AliasChoices, Field, JsonValue, ValidationInfo, model_validator
from pydantic_core import to_json

from rekindle.types.errors import InvalidField
from rekindle.types.rewards.basics import CHECKED, ColumnName, Judging, Params, Pattern, Seconds

MAX_SCHEMA_BYTES = 32 * 1024
"""Of a JSON schema, as JSON."""


def _is_small(schema: JsonValue) -> JsonValue:
    size = len(to_json(schema))
    if size > MAX_SCHEMA_BYTES:
        raise ValueError(f"{size} bytes of JSON, the limit is {MAX_SCHEMA_BYTES}")
    return schema


class ExactMatchParams(Params):
    """1 if the completion is the answer, else 0. E.g. `{"column": "answer", "casefold": true}`."""

    column: ColumnName = "answer"
    """Holds a text, a whole number, or a list of them of which any will do."""
    strip: bool = True
    """Whether white space at both ends is ignored."""
    casefold: bool = False
    """Whether upper and lower case are the same."""

    def needs(self) -> tuple[str, ...]:
        return (self.column,)


class RegexParams(Params):
    """1 if the pattern matches, and the group is the column's text where one is named; else 0.

    E.g. `{"pattern": "<answer>(.*?)</answer>", "group": 1, "column": "answer"}`. A completion without a match is
    `invalid` where a column is named, since there is nothing to compare, and scores 0 otherwise.
    """

    pattern: Pattern
    full: bool = False
    """Whether the whole completion must match rather than some part of it."""
    ignore_case: bool = False
    multiline: bool = False
    """`^` and `$` match at every line."""
    dotall: bool = False
    """`.` matches line ends, too."""
    group: int | str = 0
    """Which group is compared: a number, or a name in the pattern. Needs `column`."""
    column: ColumnName | None = None
    """The text that the group must be, white space at both ends ignored; None: a match is enough."""

    @property
    def flags(self) -> int:
        chosen = (self.ignore_case, re.I), (self.multiline, re.M), (self.dotall, re.S)
        return sum(int(flag) for wanted, flag in chosen if wanted)

    @model_validator(mode="after")
    def _group_is_there(self, info: ValidationInfo) -> "RegexParams":
        if info.context is CHECKED:
            return self
        pattern = re.compile(self.pattern)
        names = pattern.groupindex
        there = self.group in names if isinstance(self.group, str) else 0 <= self.group <= pattern.groups
        if not there:
            raise InvalidField("group", f"{self.group!r} is no group of the pattern")
        if self.group != 0 and self.column is None:
            raise InvalidField("group", "needs column, the text to compare with")
        return self

    def needs(self) -> tuple[str, ...]:
        return () if self.column is None else (self.column,)


class NumericParams(Params):
    """1 if a number of the completion is near enough the answer, else 0; `invalid` without a number.

    Near enough: |a - b| <= max(rel * max(|a|, |b|), abs), as `math.isclose`. E.g. `{"column": "answer", "abs": 0.5}`.
    """

    column: ColumnName = "answer"
    """A number, or a text that holds one."""
    pick: Literal["first", "last"] = "last"
    """Which number of the text counts. `1,234.5`, `-3` and `2e-3` are numbers."""
    rel: Annotated[float, Field(ge=0, le=1)] = 1e-6
    """Relative tolerance."""
    abs: Annotated[float, Field(ge=0)] = 1e-9
    """Absolute tolerance, in the unit of the numbers."""

    def needs(self) -> tuple[str, ...]:
        return (self.column,)


class MathParams(Params):
    """1 if the completion's last expression equals the answer by math-verify, else 0; `invalid` without one.

    E.g. `{"column": "answer"}` with the answer `\\\\frac{1}{2}` and the completion `... \\\\boxed{0.5}`.
    """

    column: ColumnName = "answer"
    """LaTeX or a plain expression."""
    float_rounding: Annotated[int, Field(ge=1, le=15)] = 6
    """Decimals to which floats are compared."""
    strict: bool = True
    """Whether variables must have the same names and sets must be sets."""

    def needs(self) -> tuple[str, ...]:
        return (self.column,)


class JsonSchemaParams(Params):
    """1 if the completion is JSON that the schema admits, else 0; `invalid` if it is not JSON.

    E.g. `{"schema": {"type": "object", "required": ["name"]}}`.
    """

    json_schema: Annotated[
        dict[str, JsonValue] | bool,
        AfterValidator(_is_small),
        Field(validation_alias=AliasChoices("schema", "json_schema"), serialization_alias="schema"),
    ]
    """`schema` on the wire. JSON Schema, draft 2020-12 unless `$schema` says otherwise; nothing is fetched."""
    fenced: bool = False
    """Whether the JSON may stand in a fenced block of code."""


class SqlParams(Params):
    """Runs the completion's query on the row's SQLite database: 1 for the right rows, `partial` for others.

    `invalid` if the query does not run or passes a limit. The reference is the column of rows or the query in the
    column of queries, exactly one of them. Rows compare by value: 3 equals 3.0, numbers to nine digits, text is
    no number. E.g. `{"schema_column": "schema", "query_column": "gold", "partial": 0.1}`.
    """

    seconds: Seconds = 2.0
    """Wall-clock limit of the rollout's query, and of each of the grader's own steps."""
    schema_column: ColumnName = "schema"
    """A script of statements that make the tables."""
    data_column: ColumnName | None = None
    """A script of inserts, or rows by table: `{"people": [["Ann", 3]]}`; None: the schema holds the rows."""
    rows_column: ColumnName | None = None
    """The right rows, a list of lists, or JSON text of one: a dataset's column has one type, cells may have several."""
    query_column: ColumnName | None = None
    """SQL that gives the right rows, run within the same limits."""
    ordered: bool = False
    """Whether the order of rows counts."""
    ordered_column: ColumnName | None = None
    """Says so by row: true or false; None: `ordered` says it for all."""
    partial: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    """Value of a query that runs and gives other rows."""
    pattern: Pattern | None = None
    """Where the SQL stands in the completion: the first group, or the match. None: the last fenced block of code, or
    all of it."""
    max_rows: Annotated[int, Field(ge=1, le=100_000)] = 1000
    max_sql_bytes: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    max_cell_bytes: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    """Longest text or blob of a result and of every value on the way to it."""
    max_result_bytes: Annotated[int, Field(ge=1, le=100_000_000)] = 4_000_000
    """All cells of a result together."""
    memory_bytes: Annotated[int, Field(ge=2**20, le=2**30)] = 256 * 2**20
    """Memory of one query."""

    @model_validator(mode="after")
    def _one_reference(self) -> "SqlParams":
        if (self.rows_column is None) == (self.query_column is None):
            raise InvalidField("rows_column", "expected exactly one of rows_column and query_column")
        return self

    def needs(self) -> tuple[str, ...]:
        reference = self.rows_column or self.query_column
        named = (self.schema_column, self.data_column, reference, self.ordered_column)
        return tuple(name for name in named if name is not None)


class ExactMatch(Judging):
    type: Literal["exact_match"] = "exact_match"
    params: ExactMatchParams = ExactMatchParams()


class Regex(Judging):
    type: Literal["regex"] = "regex"
    params: RegexParams


class Numeric(Judging):
    type: Literal["numeric"] = "numeric"
    params: NumericParams = NumericParams()


class Math(Judging):
    type: Literal["math"] = "math"
    params: MathParams = MathParams()


class JsonSchema(Judging):
    type: Literal["json_schema"] = "json_schema"
    params: JsonSchemaParams


class Sql(Judging):
    type: Literal["sql"] = "sql"
    params: SqlParams
