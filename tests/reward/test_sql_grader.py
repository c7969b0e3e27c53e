"""The SQL grader: whose rows are right, what the reference may be, and the demo's verdicts on the demo's databases."""

import random
import sqlite3
from pathlib import Path

import pytest

from examples.text2sql.drawing import draw_query
from examples.text2sql.judge import Reference, Verdict, judge
from examples.text2sql.questions import make_databases
from examples.text2sql.schemas import HELD_OUT_SCHEMA, SCHEMAS
from rekindle.types import rewards
from services.reward import graders
from services.reward.graders.base import Graded, Item
from services.reward.graders.sqlite import DATABASES, Databases
from services.reward.pool import Pool

MIB = 2**20

SCHEMA = "CREATE TABLE people (name TEXT, rank INTEGER, weight REAL);"
ROWS = [["Ann", 3, 1.5], ["Bob", 1, None], ["Cyd", 2, 2.5]]
HIGH = [["Ann"], ["Cyd"]]


def grade(sql: str, params: dict | None = None, **columns) -> Graded:
    """Against `HIGH`, or against the query `gold` where there is one."""
    reference = {"query_column": "gold"} if "gold" in columns else {"rows_column": "rows"}
    described = {"data_column": "data", "partial": 0.1, **reference, **(params or {})}
    spec = graders.parse({"type": "sql", "params": described, "invalid_value": 0.0})
    return graders.load(spec)(
        Item("", sql, {"schema": SCHEMA, "data": {"people": ROWS}, "rows": HIGH, **columns})
    )


@pytest.mark.parametrize(
    ("sql", "value", "valid"),
    [
        ("SELECT name FROM people WHERE rank > 1", 1.0, True),
        ("SELECT name FROM people WHERE rank > 1 ORDER BY name DESC;", 1.0, True),
        ("```sql\nSELECT name FROM people WHERE rank > 1\n```", 1.0, True),
        ("SELECT name FROM people", 0.1, True),
        ("SELECT name, rank FROM people WHERE rank > 1", 0.1, True),
        ("SELECT 'Ann' UNION ALL SELECT 'Ann' UNION ALL SELECT 'Cyd'", 0.1, True),
        ("SELECT TOP 2 name FROM people", 0.0, False),
        ("", 0.0, False),
    ],
)
def test_an_unordered_answer_is_scored_by_its_rows(sql: str, value: float, valid: bool):
    graded = grade(sql)
    assert (graded.value, graded.valid) == (value, valid), graded


def test_where_order_was_asked_for_it_counts():
    down, up = ("SELECT name FROM people WHERE rank > 1 ORDER BY rank" + way for way in (" DESC", ""))
    assert [grade(sql, {"ordered": True}).value for sql in (down, up)] == [1.0, 0.1]
    by_row = {"ordered_column": "ordered"}
    assert [grade(up, by_row, ordered=ordered).value for ordered in (False, True)] == [1.0, 0.1]
    with pytest.raises(TypeError, match="true or false"):
        grade(up, by_row, ordered=1)


def test_the_right_rows_may_be_json_text():
    sql = "SELECT name, rank FROM people WHERE rank > 1"
    assert [grade(sql, rows=rows).value for rows in ('[["Cyd", 2], ["Ann", 3]]', "[]")] == [1.0, 0.1]


def test_numbers_compare_by_value_and_text_is_not_a_number():
    answers = ("SELECT AVG(rank) FROM people", "SELECT 2", "SELECT '2'", "SELECT NULL", "SELECT 2.0000000001")
    assert [grade(sql, rows=[[2.0]]).value for sql in answers] == [1.0, 1.0, 0.1, 0.1, 1.0]
    assert grade("SELECT NULL", rows=[[None]]).value == 1.0
    assert [grade(sql, rows=[[0]]).value for sql in ("SELECT -0.0", "SELECT 0.0 * -1")] == [1.0, 1.0]


def test_a_reference_query_is_run_on_the_same_database():
    gold = "SELECT name FROM people WHERE weight IS NOT NULL"
    assert grade("SELECT name FROM people WHERE weight > 0", gold=gold).value == 1.0
    assert grade("SELECT name FROM people", gold=gold).value == 0.1


@pytest.mark.parametrize(
    "gold",
    [
        "SELECT nothing FROM people",
        "DELETE FROM people",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n",
    ],
)
def test_a_reference_query_that_fails_is_the_graders_error(gold: str):
    with pytest.raises(RuntimeError, match="the reference query"):
        grade("SELECT 1", {"seconds": 0.1}, gold=gold)


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        ({"schema": "CREATE TABLE"}, sqlite3.Error, "incomplete input"),
        ({"schema": "ATTACH 'x.sqlite' AS x"}, sqlite3.Error, "not authorized|authorization denied"),
        ({"schema": "CREATE TABLE people AS SELECT load_extension('x')"}, sqlite3.Error, "not authorized"),
        ({"schema": 3}, TypeError, "expected a text"),
        ({"data": 3}, TypeError, "expected a script or rows by table"),
        ({"data": {"people": [[1]]}}, sqlite3.Error, "3 columns but 1 values"),
        ({"rows": "Ann"}, TypeError, "a text that is no JSON"),
        ({"rows": '"Ann"'}, TypeError, "expected a list of rows"),
        ({"rows": [[["Ann"]]]}, TypeError, "neither text nor number"),
    ],
)
def test_a_row_that_is_wrong_is_the_graders_error(columns: dict, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        grade("SELECT 1", **columns)


def test_a_schema_that_takes_for_ever_to_build_is_the_graders_overrun():
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
    with pytest.raises(TimeoutError, match="building the database"):
        grade(
            "SELECT 1", {"seconds": 0.1}, schema=f"CREATE TABLE people AS {endless} SELECT COUNT(*) FROM n;"
        )


def test_data_may_be_a_script_and_dumps_are_understood():
    script = "PRAGMA foreign_keys=OFF; BEGIN TRANSACTION; INSERT INTO people VALUES ('Ann', 3, 1.5); COMMIT;"
    assert grade("SELECT name FROM people", data=script, rows=[["Ann"]]).value == 1.0


def test_the_sql_stands_where_the_pattern_says():
    params = {"pattern": "<sql>(.*?)</sql>"}
    assert grade("I think <sql>SELECT name\nFROM people WHERE rank > 1</sql>.", params).value == 1.0
    graded = grade("SELECT 1", params)
    assert not graded.valid and "the pattern does not match" in str(graded.reason)


@pytest.mark.parametrize(
    ("sql", "params", "reason"),
    [
        ("SELECT name FROM people", {"max_rows": 2}, "2 rows"),
        ("SELECT name FROM people", {"max_result_bytes": 5}, "5 bytes of rows"),
        ("SELECT name FROM people", {"max_sql_bytes": 10}, "too large"),
        ("SELECT 'a long text'", {"max_cell_bytes": 10}, "too big"),
    ],
)
def test_limits_are_the_tasks(sql: str, params: dict, reason: str):
    assert grade(sql, params).reason is None or grade(sql).valid
    graded = grade(sql, params)
    assert not graded.valid and reason in str(graded.reason)


@pytest.mark.parametrize("table", ["sqlite_stmt", "dbstat", "pragma_table_list", "pragma_function_list"])
def test_sqlites_own_state_cannot_be_read(table: str):
    graded = grade(f"SELECT * FROM {table}", gold="SELECT 'gold'")
    assert not graded.valid and "does not run" in str(graded.reason)


def test_a_database_is_built_once_and_the_least_used_is_closed():
    databases = Databases()
    first = databases.open(SCHEMA, None, 1.0)
    assert databases.open(SCHEMA, None, 1.0) is first
    for number in range(DATABASES):
        databases.open(SCHEMA, {"people": [["Ann", number, None]]}, 1.0)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        first._connection.execute("SELECT 1")


def test_large_databases_are_kept_by_their_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.reward.graders.sqlite.DATABASES_BYTES", 2**21)
    databases = Databases()
    for kilobytes in (700, 800, 900, 3000, 700):
        databases.open(f"CREATE TABLE t AS SELECT zeroblob({kilobytes} * 1024)", None, 1.0)
    assert len(databases) == 1, "the one of 3 MB stood alone"
    databases.open("CREATE TEMP TABLE t AS SELECT zeroblob(800 * 1024)", None, 1.0)
    databases.open("CREATE TABLE t AS SELECT zeroblob(850 * 1024)", None, 1.0)
    assert len(databases) == 2, "those of 700 and 800 KB did not both stay"


async def test_large_answers_of_many_references_leave_room_for_the_next():
    spec = rewards.Sql(params={"query_column": "gold", "memory_bytes": 64 * MIB})
    large = "SELECT hex(zeroblob(45000)), {n} FROM (VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9), (10))"
    golds = [large.format(n=n) for n in range(200)]
    items = [rewards.ScoreItem(prompt="", completion=gold, columns={"gold": gold}) for gold in golds]
    async with Pool(1, memory_bytes=2**28) as pool:
        scores = await pool.score("t", spec, items, {"schema": SCHEMA})
    assert [score.value for score in scores] == [1.0] * len(items), scores


EXPECTED = {Verdict.RIGHT: (1.0, True), Verdict.RUNS: (0.1, True), Verdict.FAILS: (0.0, False)}


def test_the_demos_verdicts_are_the_same_on_the_demos_databases(tmp_path: Path):
    rng = random.Random(0)
    files = make_databases(tmp_path, 0)
    seen = set()
    for schema in (*SCHEMAS, HELD_OUT_SCHEMA):
        script = dump(files[schema.name])
        queries = [draw_query(rng, schema) for _ in range(60)]
        for asked in queries:
            rows = run(files[schema.name], asked.sql("sqlite"))
            reference = Reference(rows, ordered=asked.order is not None)
            answers = [asked.sql(dialect) for dialect in ("sqlite", "tsql", "oracle")]
            answers += [
                rng.choice(queries).sql("sqlite"),
                asked.sql("sqlite") + " x",
                asked.sql("sqlite")[:-3],
            ]
            for sql in answers:
                verdict = judge(sql, files[schema.name], reference)
                params = {"ordered": reference.ordered, "data_column": None}
                graded = grade(sql, params, schema=script, rows=[list(row) for row in rows])
                assert (graded.value, graded.valid) == EXPECTED[verdict], (sql, graded)
                seen.add(verdict)
    assert seen == set(Verdict)


def dump(file: Path) -> str:
    connection = sqlite3.connect(file)
    script = "\n".join(connection.iterdump())
    connection.close()
    return script


def run(file: Path, sql: str) -> tuple[tuple, ...]:
    connection = sqlite3.connect(file)
    rows = tuple(connection.execute(sql).fetchall())
    connection.close()
    return rows
