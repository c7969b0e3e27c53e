"""What a question asks, free of dialect, and how three SQL dialects write it.

The dialects differ in two places: how many rows to keep (`LIMIT`, `TOP`, `FETCH FIRST`) and the year of a date
(`strftime`, `YEAR`, `EXTRACT`). SQLite runs only its own form of both. Knows nothing of natural language.
"""

from dataclasses import dataclass
from typing import Literal

from examples.text2sql.schemas import Column, Schema, Table

Dialect = Literal["sqlite", "tsql", "oracle"]
Aggregate = Literal["COUNT", "AVG", "SUM", "MIN", "MAX"]
Operator = Literal["=", ">", "<"]
Value = str | int
Key = tuple[str, str, tuple[Value, ...]]
"""(schema, SQL skeleton, values)"""


@dataclass(frozen=True)
class Filter:
    """`column op value`; on a date column it is the year that is compared."""

    column: Column
    operator: Operator
    value: Value


@dataclass(frozen=True)
class Query:
    """One SELECT over one table, e.g. the average salary per role of those hired in 2019."""

    schema: Schema
    table: Table
    columns: tuple[Column, ...] = ()
    """Plain columns of the result, before the aggregate."""
    aggregate: tuple[Aggregate, Column | None] | None = None
    """Last column of the result; `("COUNT", None)` is `COUNT(*)`."""
    distinct: bool = False
    filters: tuple[Filter, ...] = ()
    """In the order of the table's columns, so that one question has one query."""
    group: Column | None = None
    order: Column | tuple[Aggregate, Column | None] | None = None
    descending: bool = True
    limit: int | None = None

    @property
    def key(self) -> Key:
        """What must not be shared between a held-out question and training."""
        values = [filter_.value for filter_ in self.filters]
        return (
            self.schema.name,
            _render(self, "sqlite", masked=True),
            (*values, *([self.limit] if self.limit else [])),
        )

    @property
    def depends_on_dialect(self) -> bool:
        """Whether only the SQLite form of this query runs on SQLite."""
        return self.limit is not None or any(filter_.column.kind == "date" for filter_ in self.filters)

    def sql(self, dialect: Dialect) -> str:
        """The query as SQL text of a dialect."""
        return _render(self, dialect, masked=False)


def _render(query: Query, dialect: Dialect, masked: bool) -> str:
    count = "?" if masked else str(query.limit)
    parts = ["SELECT"]
    if query.limit and dialect == "tsql":
        parts.append(f"TOP {count}")
    if query.distinct:
        parts.append("DISTINCT")
    parts += [_result(query), "FROM", query.table.name]
    if query.filters:
        parts += ["WHERE", " AND ".join(_condition(filter_, dialect, masked) for filter_ in query.filters)]
    if query.group:
        parts.append(f"GROUP BY {query.group.name}")
    if query.order:
        parts.append(f"ORDER BY {_expression(query.order)} {'DESC' if query.descending else 'ASC'}")
    if query.limit and dialect != "tsql":
        parts.append(f"LIMIT {count}" if dialect == "sqlite" else f"FETCH FIRST {count} ROWS ONLY")
    return " ".join(parts)


def _result(query: Query) -> str:
    expressions = [column.name for column in query.columns]
    return ", ".join(expressions + ([_expression(query.aggregate)] if query.aggregate else []))


def _expression(expression: Column | tuple[Aggregate, Column | None]) -> str:
    if isinstance(expression, Column):
        return expression.name
    function, column = expression
    return f"{function}({column.name if column else '*'})"


def _condition(filter_: Filter, dialect: Dialect, masked: bool) -> str:
    name, value = filter_.column.name, filter_.value
    if filter_.column.kind != "date":
        literal = f"'{value}'" if isinstance(value, str) else str(value)
        return f"{name} {filter_.operator} {'?' if masked else literal}"
    year = {
        "sqlite": f"strftime('%Y', {name})",
        "tsql": f"YEAR({name})",
        "oracle": f"EXTRACT(YEAR FROM {name})",
    }[dialect]
    literal = f"'{value}'" if dialect == "sqlite" else str(value)
    return f"{year} {filter_.operator} {'?' if masked else literal}"
