"""The demo's questions and rewards through the services: the same tasks, the same rewards, and what cannot be sent."""

import random
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import rekindle
from examples.text2sql.databases import MAX_CHARACTERS, dump, restore
from examples.text2sql.dataset import through_service, to_rows, to_tasks
from examples.text2sql.drawing import draw_query
from examples.text2sql.judge import Reference, Row, run_query
from examples.text2sql.loop_judge import LoopJudge
from examples.text2sql.own_data import OwnDataError
from examples.text2sql.questions import Task, Tasks, make_databases
from examples.text2sql.reward_judge import TOGETHER, RewardJudge
from examples.text2sql.schemas import SCHEMAS, describe_database
from examples.text2sql.scoring import Answer
from tests.stack import Stack


@pytest.fixture
def client(stack: Stack) -> Iterator[rekindle.ServiceClient]:
    with rekindle.ServiceClient(stack.url, "tml-local") as client:
        yield client


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Answer]:
    """Questions on all schemas, each with right, wrong and broken answers."""
    files = make_databases(tmp_path_factory.mktemp("databases"), seed=0)
    rng, found = random.Random(0), []
    for schema in SCHEMAS:
        file = files[schema.name]
        queries = [draw_query(rng, schema) for _ in range(12)]
        for query in queries:
            rows = run_query(query.sql("sqlite"), file)
            task = Task(describe_database(file), "?", file, Reference(rows, ordered=query.order is not None))
            sqls = [query.sql("sqlite"), query.sql("tsql"), rng.choice(queries).sql("sqlite"), "```", ""]
            found += [(task, sql) for sql in sqls]
    return found


def database(path: Path, script: str) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def task_of(file: Path, *rows: Row, question: str = "?") -> Task:
    return Task("t(a)", question, file, Reference(rows, ordered=True))


def test_the_reward_service_gives_the_rewards_of_the_judge_in_the_loop(
    client: rekindle.ServiceClient, answers: list[Answer]
):
    expected = LoopJudge().score(answers).result()
    assert set(expected) == {0.0, 0.1, 1.0}
    judge = RewardJudge(client.rewards)
    assert judge.score(answers).result() == expected
    # In small groups, asked for one after the other and collected in another order.
    groups = [answers[start : start + 7] for start in range(0, len(answers), 7)]
    asked = [judge.score(group) for group in groups]
    found = [scores.result() for scores in reversed(asked)]
    assert [score for scores in reversed(found) for score in scores] == expected


def test_small_groups_on_one_database_are_sent_together(
    client: rekindle.ServiceClient, answers: list[Answer]
):
    judge, (task, sql) = RewardJudge(client.rewards), answers[0]
    asked = [judge.score([(task, sql)] * 8) for _ in range(TOGETHER // 8)]
    requests = {request for scores in asked for request, _ in scores.places}
    assert len(requests) == 1
    more = judge.score([(task, sql)])
    assert requests.isdisjoint(request for request, _ in more.places)
    assert [scores.result() for scores in (*asked, more)] == [[1.0] * 8] * len(asked) + [[1.0]]


def test_a_grader_that_fails_gives_no_score_and_spoils_no_other(
    client: rekindle.ServiceClient, answers: list[Answer], tmp_path: Path
):
    broken = task_of(database(tmp_path / "b.sqlite", "CREATE VIRTUAL TABLE t USING fts5(a);"), (1,))
    task, sql = answers[0]
    judge = RewardJudge(client.rewards)
    assert judge.score([(broken, "SELECT 1"), (task, sql), (broken, "nonsense")]).result() == [
        None,
        1.0,
        None,
    ]


def test_the_tasks_that_come_back_are_those_that_were_sent(
    client: rekindle.ServiceClient, answers: list[Answer], tmp_path: Path
):
    tasks = [task for task, _ in answers]
    sent = Tasks(pool=tasks[5:50], held_out=tasks[:5], held_out_schema=tasks[50:])
    back = through_service(client.datasets, "demo/questions", sent, tmp_path)
    for there, here in ((back.pool, sent.pool), (back.held_out, sent.held_out)):
        assert [replace(task, database=Path()) for task in there] == [
            replace(task, database=Path()) for task in here
        ]
    assert len(back.held_out_schema) == len(sent.held_out_schema)
    moved = [(task, sql) for task, (_, sql) in zip(back.held_out_schema, answers[50:], strict=True)]
    assert {task.database.parent for task, _ in moved} == {tmp_path}
    assert LoopJudge().score(moved).result() == LoopJudge().score(answers[50:]).result()


def test_questions_are_uploaded_once_and_anew_when_they_change(
    client: rekindle.ServiceClient, tmp_path: Path
):
    task = task_of(database(tmp_path / "a.sqlite", "CREATE TABLE t (a); INSERT INTO t VALUES (1);"), (1,))
    for question, versions in (("How many?", 1), ("How many?", 1), ("How much?", 2), ("How many?", 3)):
        sent = Tasks(pool=[replace(task, question=question)], held_out=[task], held_out_schema=[])
        back = through_service(client.datasets, "demo/changing", sent, tmp_path / "files")
        assert [one.question for one in back.pool] == [question]
        assert len(client.datasets.versions("demo/changing").result()) == versions


def test_a_database_comes_back_with_its_rows_in_order_and_with_all_that_stands_on_them(tmp_path: Path):
    script = """
        CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT, b REAL);
        CREATE TABLE log (a TEXT);
        CREATE INDEX by_a ON t (a);
        CREATE VIEW v AS SELECT a FROM t WHERE b IS NOT NULL;
        CREATE TRIGGER noted AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.a); END;
        INSERT INTO t (a, b) VALUES ('it''s; x', 0.1), ('', NULL), ('line
break', 1e300);
    """
    file = database(tmp_path / "a.sqlite", script)
    back = restore(dump(file), tmp_path / "files")
    for sql in ("SELECT * FROM t", "SELECT * FROM log", "SELECT * FROM v"):
        assert run_query(sql, back) == run_query(sql, file)
    assert dump(back) == dump(file) and restore(dump(back), tmp_path / "files") == back


def test_what_cannot_be_sent_says_what_to_do(tmp_path: Path):
    file = database(tmp_path / "a.sqlite", "CREATE TABLE t (a);")
    with pytest.raises(OwnDataError, match=r"bytes is not JSON serializable.*--judge loop --data local"):
        to_rows(Tasks(pool=[task_of(file, (b"1",))], held_out=[], held_out_schema=[]))
    large = database(
        tmp_path / "b.sqlite", f"CREATE TABLE t (a); INSERT INTO t VALUES ('{'x' * MAX_CHARACTERS}');"
    )
    with pytest.raises(OwnDataError, match="the services take 262144; use --judge loop --data local"):
        RewardJudge(None).score([(task_of(large, (1,)), "SELECT 1")]).result()  # type: ignore[arg-type]


def test_no_row_of_the_dataset_holds_sql_that_answers_it(answers: list[Answer], tmp_path: Path):
    tasks = Tasks(pool=[task for task, _ in answers], held_out=[], held_out_schema=[])
    rows = to_rows(tasks)
    assert set(rows[0]) == {"part", "schema", "question", "ddl", "data", "rows", "ordered"}
    assert not any("SELECT" in str(value) for row in rows for value in row.values())
    assert to_tasks(rows, tmp_path).pool[0].reference == tasks.pool[0].reference
