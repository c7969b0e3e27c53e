"""The judge: what is right, what merely runs, what fails, and what a hostile completion cannot do."""

import sqlite3
import time
from pathlib import Path

import pytest

from examples.text2sql import judge as judging
from examples.text2sql.judge import QueryError, Reference, Verdict, judge, run_query

ROWS = (("Ann", 3, 1.5), ("Bob", 1, None), ("Cyd", 2, 2.5))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "people.sqlite"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("CREATE TABLE people (name TEXT, rank INTEGER, weight REAL)")
        connection.executemany("INSERT INTO people VALUES (?, ?, ?)", ROWS)
    connection.close()
    return path


def test_rewards_are_one_for_right_a_tenth_for_running_and_nothing_else():
    assert [verdict.value for verdict in Verdict] == [1.0, 0.1, 0.0]


@pytest.mark.parametrize(
    ("sql", "verdict"),
    [
        ("SELECT name FROM people WHERE rank > 1", Verdict.RIGHT),
        ("SELECT name FROM people WHERE rank > 1 ORDER BY name DESC", Verdict.RIGHT),
        ("SELECT name FROM people WHERE rank > 1;", Verdict.RIGHT),
        ("SELECT name FROM people", Verdict.RUNS),
        ("SELECT name, rank FROM people WHERE rank > 1", Verdict.RUNS),
        ("SELECT 'Ann' UNION ALL SELECT 'Ann' UNION ALL SELECT 'Cyd'", Verdict.RUNS),
        ("SELECT TOP 2 name FROM people", Verdict.FAILS),
        ("SELECT name FROM people; SELECT 1", Verdict.FAILS),
        ("", Verdict.FAILS),
        ("-- nothing", Verdict.FAILS),
        ("SELECT '\ud800'", Verdict.FAILS),
        ("SELECT name\0 FROM people", Verdict.FAILS),
    ],
)
def test_an_unordered_answer_is_judged_by_its_rows(database: Path, sql: str, verdict: Verdict):
    assert judge(sql, database, Reference((("Ann",), ("Cyd",)), ordered=False)) is verdict


def test_where_order_was_asked_for_it_counts(database: Path):
    reference = Reference((("Ann",), ("Cyd",), ("Bob",)), ordered=True)
    assert judge("SELECT name FROM people ORDER BY rank DESC", database, reference) is Verdict.RIGHT
    assert judge("SELECT name FROM people ORDER BY rank", database, reference) is Verdict.RUNS


def test_numbers_compare_by_value_and_text_is_not_a_number(database: Path):
    reference = Reference(((2.0,),), ordered=False)
    assert judge("SELECT AVG(rank) FROM people", database, reference) is Verdict.RIGHT
    assert judge("SELECT 2", database, reference) is Verdict.RIGHT
    assert judge("SELECT '2'", database, reference) is Verdict.RUNS
    assert judge("SELECT NULL", database, reference) is Verdict.RUNS


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM people",
        "INSERT INTO people VALUES ('Dot', 4, 1)",
        "UPDATE people SET rank = 9",
        "DROP TABLE people",
        "CREATE TABLE more (x)",
        "PRAGMA writable_schema = ON",
        "ATTACH DATABASE 'elsewhere.sqlite' AS other",
        "VACUUM INTO 'copy.sqlite'",
        "BEGIN",
    ],
)
def test_nothing_but_a_select_is_authorized(
    database: Path, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QueryError):
        run_query(sql, database)
    assert list(tmp_path.iterdir()) == [database]
    assert run_query("SELECT * FROM people", database) == ROWS


def test_an_endless_query_is_stopped(database: Path):
    started = time.monotonic()
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n"
    with pytest.raises(QueryError, match="interrupted"):
        run_query(endless, database)
    assert time.monotonic() - started < 10 * judging.SECONDS


def test_a_flood_of_rows_is_refused(database: Path):
    flood = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
    with pytest.raises(QueryError, match=f"more than {judging.MAX_ROWS} rows"):
        run_query(flood, database)


def test_a_huge_value_is_refused(database: Path):
    with pytest.raises(QueryError, match="too big"):
        run_query("SELECT randomblob(500000000)", database)


def test_a_missing_database_is_an_error_of_the_judge_and_no_verdict(tmp_path: Path):
    with pytest.raises(sqlite3.OperationalError):
        judge("SELECT 1", tmp_path / "absent.sqlite", Reference(((1,),), ordered=False))
