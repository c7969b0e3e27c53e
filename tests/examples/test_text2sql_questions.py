"""The questions of the demo: what is held out stays out, and every question is worth asking."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.text2sql import questions
from examples.text2sql.judge import QueryError, Row, Verdict, judge, run_query
from examples.text2sql.queries import Key, Query
from examples.text2sql.questions import Part, Tasks
from examples.text2sql.schemas import HELD_OUT_SCHEMA, SCHEMAS, Schema, describe_database


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return questions.make_databases(tmp_path_factory.mktemp("databases"), seed=0)


@pytest.fixture(scope="module")
def tasks(databases: dict[str, Path]) -> Tasks:
    return questions.make_tasks(databases, seed=0)


def drawn(databases: dict[str, Path], seed: int, part: Part, count: int) -> list[tuple[Query, str]]:
    stream = questions._draw(SCHEMAS, databases, seed, part)
    return [(query, question) for query, question, _rows in itertools.islice(stream, count)]


@pytest.mark.parametrize(
    ("seed", "size"), [(0, 10_000), pytest.param(1, questions.CORPUS_SIZE, marks=pytest.mark.slow)]
)
def test_no_held_out_question_or_query_is_in_the_corpus_or_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, size: int
):
    keys: dict[str, set[Key]] = {"corpus": set(), "pool": set(), "held_out": set()}
    draw = questions._draw

    def recording(
        schemas: tuple[Schema, ...], databases: dict[str, Path], seed: int, part: Part
    ) -> Iterator[tuple[Query, str, tuple[Row, ...]]]:
        for query, question, rows in draw(schemas, databases, seed, part):
            keys[part].add(query.key)
            yield query, question, rows

    monkeypatch.setattr(questions, "_draw", recording)
    databases = questions.make_databases(tmp_path, seed)
    tasks, corpus = questions.make_tasks(databases, seed), questions.make_corpus(databases, seed, size)

    assert len(keys["held_out"]) == len(tasks.held_out) + len(tasks.held_out_schema)
    assert len(tasks.held_out) >= 200 and len(corpus) == size
    assert not keys["held_out"] & (keys["corpus"] | keys["pool"])
    asked = {task.question for task in (*tasks.held_out, *tasks.held_out_schema)}
    assert not asked & {pair.question for pair in corpus}
    assert not asked & {task.question for task in tasks.pool}


def test_the_corpus_holds_no_query_over_the_held_out_schema(databases: dict[str, Path], tasks: Tasks):
    unseen = describe_database(databases[HELD_OUT_SCHEMA.name])
    corpus = questions.make_corpus(databases, seed=0, size=2000)
    assert {task.schema for task in tasks.held_out_schema} == {unseen}
    assert unseen not in {pair.schema for pair in corpus} | {task.schema for task in tasks.pool}


def test_a_key_belongs_to_one_part_and_another_seed_divides_anew(databases: dict[str, Path]):
    queries = [query for query, _question in drawn(databases, 0, "held_out", 100)]
    assert {questions.part_of(query, 0) for query in queries} == {"held_out"}
    assert {questions.part_of(query, 1) for query in queries} == {"held_out", "pool", "corpus"}


def test_a_question_says_everything_that_its_query_does(databases: dict[str, Path]):
    asked: dict[tuple[str, str], str] = {}
    counts: dict[Part, int] = {"corpus": 5000, "pool": 2000, "held_out": 500}
    for part, count in counts.items():
        for query, question in drawn(databases, 0, part, count):
            sql = query.sql("sqlite")
            assert asked.setdefault((query.schema.name, question), sql) == sql


def test_every_reference_result_has_something_in_it(tasks: Tasks):
    for task in (*tasks.pool, *tasks.held_out, *tasks.held_out_schema):
        cells = [cell for row in task.reference.rows for cell in row]
        assert any(cell not in (None, 0) for cell in cells)


def test_the_sqlite_form_is_right_and_the_other_dialects_fail_where_they_differ(databases: dict[str, Path]):
    failures = 0
    for query, _question, rows in itertools.islice(questions._draw(SCHEMAS, databases, 0, "pool"), 500):
        reference = questions.Reference(rows, ordered=query.order is not None)
        database = databases[query.schema.name]
        assert judge(query.sql("sqlite"), database, reference) is Verdict.RIGHT
        for dialect in ("tsql", "oracle"):
            verdict = judge(query.sql(dialect), database, reference)
            assert verdict is (Verdict.FAILS if query.depends_on_dialect else Verdict.RIGHT)
            failures += verdict is Verdict.FAILS
    assert failures > 300


def test_most_held_out_questions_depend_on_the_dialect(databases: dict[str, Path]):
    keys: dict[Key, bool] = {}
    for query, _question in drawn(databases, 0, "held_out", 600):
        keys.setdefault(query.key, query.depends_on_dialect)
    assert 0.5 < sum(keys.values()) / len(keys) < 0.68


def test_the_same_seed_makes_the_same_data_and_another_seed_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(questions, "POOL_SIZE", 50)
    first, again, other = [
        questions.make_tasks(questions.make_databases(tmp_path / name, seed), seed)
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    ]

    def plain(tasks: Tasks) -> list[tuple[str, object]]:
        return [(task.question, task.reference) for task in tasks.held_out]

    assert plain(first) == plain(again)
    assert plain(first) != plain(other)


def test_the_prompt_shows_tables_and_columns_as_the_database_has_them(databases: dict[str, Path]):
    assert describe_database(databases["library"]) == (
        "books(title, genre, pages, copies, published) members(name, city, visits, fines, joined)"
    )


def test_number_and_date_columns_have_no_ties(databases: dict[str, Path]):
    for schema in SCHEMAS:
        for table in schema.tables:
            for column in table.of_kind("number", "date"):
                sql = f"SELECT COUNT(*), COUNT(DISTINCT {column.name}) FROM {table.name}"
                assert len(set(run_query(sql, databases[schema.name])[0])) == 1


def test_a_query_that_does_not_run_says_so(databases: dict[str, Path]):
    with pytest.raises(QueryError, match="no such table: films"):
        run_query("SELECT * FROM films", databases["shop"])
