"""Queries in English: synonyms and sentence patterns are drawn, the meaning is not.

A phrasing says everything that the query does, so two queries never share a sentence. Knows nothing of SQL.
"""

import random

from examples.text2sql.queries import Aggregate, Filter, Operator, Query
from examples.text2sql.schemas import Column

AGGREGATE_WORDS: dict[Aggregate, tuple[str, ...]] = {
    "COUNT": ("number", "count"),
    "AVG": ("average", "mean"),
    "SUM": ("total", "combined"),
    "MIN": ("lowest", "smallest", "minimum"),
    "MAX": ("highest", "largest", "maximum"),
}
NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
YEAR_WORDS: dict[Operator, tuple[str, ...]] = {
    "=": ("in", "during"),
    ">": ("after", "later than"),
    "<": ("before", "earlier than"),
}
RELATION_WORDS: dict[Operator, tuple[str, ...]] = {
    "=": ("", "equal to "),
    ">": ("above ", "over ", "more than "),
    "<": ("below ", "under ", "less than "),
}


def phrase(query: Query, rng: random.Random) -> str:
    """The question in words; synonyms and sentence patterns are drawn, the meaning is not."""
    rows = rng.choice(query.table.words)
    about = rows + _phrase_filters(query, rng)
    if query.limit and query.group:
        return _phrase_top_group(query, rng, about)
    if query.limit:
        return _phrase_top(query, rng, rows)
    if query.group:
        return _phrase_group(query, rng, about)
    if query.aggregate and query.aggregate[1] is None:
        return rng.choice(["How many {} are there?", "Count the {}.", "What is the number of {}?"]).format(
            about
        )
    named = " and ".join(rng.choice(column.words) for column in query.columns)
    if query.distinct:
        named = rng.choice(["different", "distinct"]) + " " + named
    if query.aggregate:
        named = _phrase_measure(query.aggregate, rng)
    return rng.choice(
        ["What is the {} of {}?", "Show the {} of {}.", "List the {} for {}.", "Give me the {} of {}."]
    ).format(named, about)


def _phrase_top(query: Query, rng: random.Random, rows: str) -> str:
    order, limit = query.order, query.limit
    assert isinstance(order, Column) and limit is not None, "a top query orders by a column and has a limit"
    named, filters = rng.choice(query.columns[0].words), _phrase_filters(query, rng)
    count = rng.choice([str(limit), NUMBER_WORDS[limit]])
    if order.kind == "date":
        adverb = rng.choice(["most recently", "last"] if query.descending else ["earliest", "first"])
        return _sentence(
            f"{named} of the {count} {rows}{filters} that were {rng.choice(order.verbs)} {adverb}."
        )
    extreme = rng.choice(
        ["highest", "largest", "top"] if query.descending else ["lowest", "smallest", "bottom"]
    )
    pattern = rng.choice(["Show the {} of the {} {}{} with the {} {}.", "{} of the {} {}{} by {} {}?"])
    return _sentence(pattern.format(named, count, rows, filters, extreme, rng.choice(order.words)))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _phrase_group(query: Query, rng: random.Random, about: str) -> str:
    assert query.group and query.aggregate, "a grouped query has a group and an aggregate"
    group, measure = rng.choice(query.group.words), _phrase_measure(query.aggregate, rng)
    patterns = ["{} of {} per {}?", "For each {2}, what is the {0} of {1}?", "Show the {} of {} by {}."]
    return _sentence(rng.choice(patterns).format(measure, about, group))


def _phrase_top_group(query: Query, rng: random.Random, about: str) -> str:
    assert query.group and isinstance(query.order, tuple), "a top group is ordered by an aggregate"
    extreme = rng.choice(["greatest", "biggest"] if query.descending else ["least", "slightest"])
    patterns = ["Which {} has the {} {} of {}?", "Name the {} with the {} {} of {}."]
    return rng.choice(patterns).format(
        rng.choice(query.group.words), extreme, _phrase_measure(query.order, rng), about
    )


def _phrase_measure(measure: tuple[Aggregate, Column | None], rng: random.Random) -> str:
    function, column = measure
    word = rng.choice(AGGREGATE_WORDS[function])
    return f"{word} {rng.choice(column.words)}" if column else word


def _phrase_filters(query: Query, rng: random.Random) -> str:
    phrases = [_phrase_filter(filter_, rng) for filter_ in query.filters]
    return " " + " and ".join(phrases) if phrases else ""


def _phrase_filter(filter_: Filter, rng: random.Random) -> str:
    column, value = filter_.column, filter_.value
    if column.kind == "date":
        return f"{rng.choice(column.verbs)} {rng.choice(YEAR_WORDS[filter_.operator])} {value}"
    return f"with {rng.choice(column.words)} {rng.choice(RELATION_WORDS[filter_.operator])}{value}"
