"""JSON messages of rewards: which grader, what to score, and what became of each item.

A grader is `{"type", "params", "invalid_value"}`. Four outcomes, and only the first two may carry a number:

scored   the grader has an opinion
invalid  the rollout's own text or query was wrong or passed a limit; worth `invalid_value`
error    the grader's own code raised or its process died; never a number
timeout  the grader's own code overran its time; never a number

What is checked here is what one message says. Whether a JSON schema is one is checked where it is used.
"""

import re
import warnings
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationInfo,
    model_validator,
)
from pydantic_core import to_json

from rekindle.types.errors import InvalidField
from rekindle.types.fields import Id

MAX_ITEMS = 4096
"""Items of one request."""
MAX_COMPONENTS = 16
MAX_PATTERN = 1024
MAX_SCHEMA_BYTES = 32 * 1024
"""Of a JSON schema, as JSON."""
MAX_SECONDS = 60.0
MAX_REASON = 500
"""Characters of a reason; a longer one is cut."""

Outcome = Literal["scored", "invalid", "error", "timeout"]


class Exact(BaseModel):
    """A message of which no part is overlooked; null is a value of its own."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True
    )


CHECKED = {"checked": True}
"""Context of a validation whose text has been validated before."""


def _compiles(pattern: str, info: ValidationInfo) -> str:
    """Compiling takes seconds at worst: not again for what was checked before, which its reader says."""
    if info.context is CHECKED:
        return pattern
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


def _is_small(schema: JsonValue) -> JsonValue:
    size = len(to_json(schema))
    if size > MAX_SCHEMA_BYTES:
        raise ValueError(f"{size} bytes of JSON, the limit is {MAX_SCHEMA_BYTES}")
    return schema


Pattern = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATTERN), AfterValidator(_compiles)]
"""A regular expression of Python's `re`."""
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""A column of the item, or of the request's shared ones."""
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]


class Params(Exact):
    """What every grader takes."""

    seconds: Seconds = 10.0
    """Wall-clock limit of one item. Who passes it: see the grader."""

    def needs(self) -> tuple[str, ...]:
        """The columns that every item must have."""
        return ()


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
    def _group_is_there(self) -> "RegexParams":
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
    """The right rows, a list of lists."""
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


class _WithParams(Exact):
    invalid_value: Annotated[float, Field(ge=-1e6, le=1e6)] | None = 0.0
    """Value of an `invalid` rollout; None: no number."""


class ExactMatch(_WithParams):
    type: Literal["exact_match"] = "exact_match"
    params: ExactMatchParams = ExactMatchParams()


class Regex(_WithParams):
    type: Literal["regex"] = "regex"
    params: RegexParams


class Numeric(_WithParams):
    type: Literal["numeric"] = "numeric"
    params: NumericParams = NumericParams()


class Math(_WithParams):
    type: Literal["math"] = "math"
    params: MathParams = MathParams()


class JsonSchema(_WithParams):
    type: Literal["json_schema"] = "json_schema"
    params: JsonSchemaParams


class Sql(_WithParams):
    type: Literal["sql"] = "sql"
    params: SqlParams


Single = Annotated[
    ExactMatch | Regex | Numeric | Math | JsonSchema | Sql,
    Field(discriminator="type"),
]
"""A grader that is no combination."""


class Component(Exact):
    """One part of a combination. E.g. `{"grader": {"type": "math"}, "weight": 0.8}`."""

    grader: Single
    weight: Annotated[float, Field(ge=-1e6, le=1e6)]


class WeightedParams(Exact):
    graders: Annotated[tuple[Component, ...], Field(min_length=1, max_length=MAX_COMPONENTS)]

    @property
    def seconds(self) -> float:
        """Wall-clock limit of one item: each component has its own."""
        return sum(component.grader.params.seconds for component in self.graders)

    def needs(self) -> tuple[str, ...]:
        names = [name for component in self.graders for name in component.grader.params.needs()]
        return tuple(dict.fromkeys(names))


class Weighted(Exact):
    """The weighted sum of what the components give; an `invalid` one gives its `invalid_value`.

    The whole is `invalid` if all components are, with the sum as its value, or if one is whose `invalid_value` is None,
    without a value. An error or timeout of one is that of the whole.
    """

    type: Literal["weighted"] = "weighted"
    params: WeightedParams


Grader = Annotated[
    ExactMatch | Regex | Numeric | Math | JsonSchema | Sql | Weighted,
    Field(discriminator="type"),
]
"""How to score, e.g. `{"type": "numeric", "params": {"column": "answer"}, "invalid_value": -1.0}`."""


class ScoreItem(Exact):
    """One rollout. E.g. `{"prompt": "6 * 7?", "completion": "42", "columns": {"answer": 42}}`."""

    prompt: str
    completion: str
    columns: dict[str, JsonValue] = {}
    """Of the data set's row; they win over the request's."""
    sequence_id: Id | None = None
    """The sampled sequence that it scores, for the record; None: not known."""


class ScoreRequest(Exact):
    """Body of `rewards/score`. E.g. `{"grader": {"type": "math"}, "items": [...], "idempotency_key": "step-1"}`."""

    grader: Grader
    items: Annotated[tuple[ScoreItem, ...], Field(min_length=1, max_length=MAX_ITEMS)]
    columns: dict[str, JsonValue] = {}
    """Shared by all items."""
    idempotency_key: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    """A request that is sent again with the same key has the same future and is scored once."""

    @model_validator(mode="after")
    def _columns_are_there(self) -> "ScoreRequest":
        needed = [name for name in self.grader.params.needs() if name not in self.columns]
        for index, item in enumerate(self.items):
            for name in needed:
                if name not in item.columns:
                    raise InvalidField(f"items[{index}].columns", f"column {name!r} is missing")
        return self


class Score(Exact):
    """What became of one item."""

    outcome: Outcome
    value: float | None
    """The reward; None: there is none, and the item belongs in no batch."""
    reason: str | None = None
    """Why it is invalid, an error or a timeout; a remark on a scored one, or None."""
    grader_version: str
    """Type, release and a hash of all that decides the value: `sql-1+0f3a9c12`."""
    seconds: Annotated[float, Field(ge=0)]
    """Wall clock of the last attempt."""
    attempts: Annotated[int, Field(ge=1)]
    """How often it was tried, this one included."""

    @model_validator(mode="after")
    def _only_an_opinion_has_a_number(self) -> "Score":
        if self.outcome in ("error", "timeout") and self.value is not None:
            raise InvalidField("value", f"{self.value}, but the outcome is {self.outcome}")
        if self.outcome == "scored" and self.value is None:
            raise InvalidField("value", "missing, but the outcome is scored")
        if self.outcome != "scored" and not self.reason:
            raise InvalidField("reason", f"missing, but the outcome is {self.outcome}")
        return self

    @property
    def excluded(self) -> bool:
        """Whether the grader failed, so that the item says nothing about the policy."""
        return self.outcome in ("error", "timeout")


class ScoreResponse(Exact):
    """Result of the future of `rewards/score`."""

    scores: tuple[Score, ...]
    """In the order of the items."""
    excluded: int
    """How many are errors and timeouts."""

    @model_validator(mode="after")
    def _counted(self) -> "ScoreResponse":
        counted = sum(score.excluded for score in self.scores)
        if self.excluded != counted:
            raise InvalidField("excluded", f"{self.excluded}, but {counted} are errors and timeouts")
        return self

    @classmethod
    def of(cls, scores: "tuple[Score, ...]") -> "ScoreResponse":
        return cls(scores=scores, excluded=sum(score.excluded for score in scores))


class GraderInfo(Exact):
    """A type of grader, as `rewards/graders` lists it."""

    type: str
    version: str
    """Type and release: `sql-1`. Scores say more: what decides the value is hashed in."""
    params: dict[str, Any]
    """JSON schema of its params."""


class GradersResponse(Exact):
    graders: tuple[GraderInfo, ...]
