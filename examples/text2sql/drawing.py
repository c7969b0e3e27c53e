"""Random queries over a schema: what there is to ask. Knows nothing of words, data or splits."""

import random
from dataclasses import replace

from examples.text2sql.queries import Aggregate, Filter, Query
from examples.text2sql.schemas import FIRST_YEAR, LAST_YEAR, Column, Schema

KINDS = {"list": 20, "count": 12, "aggregate": 14, "group": 12, "distinct": 4, "top": 28, "top_group": 10}
"""Kinds of query and how often each is drawn."""
FUNCTIONS: tuple[Aggregate, ...] = ("AVG", "SUM", "MIN", "MAX")
MIN_LIMIT, MAX_LIMIT = 2, 6


def draw_query(rng: random.Random, schema: Schema) -> Query:
    """One query of a random kind over a random table of `schema`."""
    table = rng.choice(schema.tables)
    (kind,) = rng.choices(list(KINDS), weights=list(KINDS.values()))
    query = _draw_unfiltered(rng, Query(schema, table), kind)
    # A filter on the column that is asked for would leave little to ask.
    return replace(query, filters=_draw_filters(rng, [c for c in table.columns if c not in query.columns]))


def _draw_unfiltered(rng: random.Random, query: Query, kind: str) -> Query:
    table = query.table
    (group,) = table.of_kind("category")
    number = rng.choice(table.of_kind("number"))
    function = rng.choice(FUNCTIONS)
    measure = rng.choice([("COUNT", None), (function, number)])
    match kind:
        case "list":
            return replace(query, columns=tuple(rng.sample(table.columns, rng.choice([1, 1, 2]))))
        case "count":
            return replace(query, aggregate=("COUNT", None))
        case "aggregate":
            return replace(query, aggregate=(function, number))
        case "group":
            return replace(query, columns=(group,), aggregate=measure, group=group)
        case "distinct":
            return replace(query, columns=(group,), distinct=True)
        case "top":
            order = rng.choice(table.of_kind("number", "date"))
            column = rng.choice([column for column in table.columns if column != order])
            limit = rng.randint(MIN_LIMIT, MAX_LIMIT)
            return replace(query, columns=(column,), order=order, descending=_coin(rng), limit=limit)
        case _:
            return replace(
                query, columns=(group,), group=group, order=measure, descending=_coin(rng), limit=1
            )


def _draw_filters(rng: random.Random, columns: list[Column]) -> tuple[Filter, ...]:
    candidates = [column for column in columns if column.kind != "label"]
    count = rng.choices([0, 1, 2], weights=[35, 45, 20])[0]
    chosen = rng.sample(candidates, min(count, len(candidates)))
    return tuple(_draw_filter(rng, column) for column in candidates if column in chosen)


def _draw_filter(rng: random.Random, column: Column) -> Filter:
    if column.kind == "category":
        return Filter(column, "=", rng.choice(column.values))
    if column.kind == "date":
        return Filter(column, rng.choice(["=", "=", ">", "<"]), rng.randint(FIRST_YEAR, LAST_YEAR))
    # Round numbers of the middle: people ask for those, and either side of them holds rows.
    step = 5 if column.high < 300 else 50
    width = column.high - column.low
    value = rng.randint(column.low + width // 5, column.high - width // 5)
    return Filter(column, rng.choice([">", "<"]), value // step * step)


def _coin(rng: random.Random) -> bool:
    return rng.random() < 0.5
