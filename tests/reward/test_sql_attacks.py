"""SQL that does what no answer may: each is stopped, is `invalid` with its reason, and changes nothing.

All run against one database in one pool, each followed by an honest query on the same database.
"""

import asyncio
from pathlib import Path

import pytest

from rekindle.types import rewards
from rekindle.types.rewards import Score, ScoreItem
from services.reward import pool as pools
from services.reward.pool import Pool

SCHEMA = """
CREATE TABLE people (name TEXT, rank INTEGER, weight REAL);
INSERT INTO people VALUES ('Ann', 3, 1.5), ('Bob', 1, NULL), ('Cyd', 2, 2.5);
CREATE VIRTUAL TABLE notes USING fts4(body);
INSERT INTO notes VALUES ('hello there');
CREATE VIEW everyone AS SELECT * FROM people;
"""
HONEST = (
    "SELECT (SELECT COUNT(*) FROM sqlite_master), (SELECT group_concat(name) FROM people), "
    "(SELECT COUNT(*) FROM sqlite_temp_master), (SELECT COUNT(*) FROM notes)"
)
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
LONG = "replace(hex(zeroblob(49000)), '00', 'a')"
LIMITS = rewards.SqlParams(query_column="gold", seconds=0.3, partial=0.1, memory_bytes=64 * 2**20)

ATTACKS = {
    "writes by delete": ("DELETE FROM people", "not authorized"),
    "writes by insert": ("INSERT INTO people VALUES ('Dot', 4, 1)", "not authorized"),
    "writes by update": ("UPDATE people SET rank = 9", "not authorized"),
    "writes by replace": ("REPLACE INTO people VALUES ('Dot', 4, 1)", "not authorized"),
    "writes in a with clause": ("WITH x AS (SELECT 1) DELETE FROM people", "not authorized"),
    "writes with returning": ("DELETE FROM people RETURNING name", "not authorized"),
    "writes to the search index": ("SELECT optimize(notes) FROM notes", "authorization denied"),
    "drops a table": ("DROP TABLE people", "not authorized"),
    "creates a table": ("CREATE TABLE more (x)", "not authorized"),
    "creates a temporary table": ("CREATE TEMP TABLE people AS SELECT 'Zed' AS name", "not authorized"),
    "creates a temporary view over a table": ("CREATE TEMP VIEW people AS SELECT 1", "not authorized"),
    "creates a trigger": ("CREATE TRIGGER t AFTER INSERT ON people BEGIN SELECT 1; END", "not authorized"),
    "creates a virtual table": ("CREATE VIRTUAL TABLE v USING fts5(x)", "not authorized"),
    "begins a transaction": ("BEGIN EXCLUSIVE", "not authorized"),
    "sets a savepoint": ("SAVEPOINT mine", "not authorized"),
    "reindexes": ("REINDEX", "not authorized"),
    "analyzes": ("ANALYZE", "not authorized"),
    "attaches a file": ("ATTACH DATABASE '{folder}/other.sqlite' AS other", "does not run"),
    "attaches by URI": ("ATTACH 'file:{folder}/other.sqlite?mode=rwc' AS other", "does not run"),
    "detaches": ("DETACH DATABASE main", "not authorized"),
    "copies by vacuum": ("VACUUM INTO '{folder}/copy.sqlite'", "does not run"),
    "vacuums": ("VACUUM", "does not run"),
    "loads an extension": ("SELECT load_extension('{folder}/evil.so')", "not authorized"),
    "registers a tokenizer at an address": (
        "SELECT fts3_tokenizer('simple', x'4141414141414141')",
        "not authorized",
    ),
    "reads the address of a tokenizer": ("SELECT hex(fts3_tokenizer('simple'))", "not authorized"),
    "reads a file": ("SELECT readfile('/etc/passwd')", "does not run"),
    "writes a file": ("SELECT writefile('{folder}/file', 'x')", "does not run"),
    "sets a pragma": ("PRAGMA writable_schema = ON", "not authorized"),
    "lifts the protection": ("PRAGMA query_only = OFF", "not authorized"),
    "reads a pragma": ("PRAGMA database_list", "not authorized"),
    "reads a pragma as a table": ("SELECT * FROM pragma_database_list", "not authorized"),
    "two statements": ("SELECT 1; DELETE FROM people", "one statement at a time"),
    "no statement": ("-- nothing", "is not a query"),
    "a NUL byte": ("SELECT 1\0; DELETE FROM people", "null character"),
    "a parameter": ("SELECT ?1", "does not run"),
    "recurses for ever": (f"{ENDLESS} SELECT COUNT(*) FROM n", "passed the limit of 0.3 s"),
    "returns a billion rows": (
        f"{ENDLESS} SELECT x FROM n LIMIT 1000000000",
        "passed the limit of 1000 rows",
    ),
    "sorts a billion rows": (f"{ENDLESS} SELECT x FROM n ORDER BY random() LIMIT 1", "passed the limit of"),
    "keeps a billion rows": (f"{ENDLESS} SELECT COUNT(DISTINCT x) FROM n", "passed the limit of"),
    "hoards long rows": (
        f"{ENDLESS}, big AS MATERIALIZED (SELECT x, {LONG} AS y FROM n) SELECT MAX(y) FROM big",
        "passed the limit of",
    ),
    "a cross join": (
        "SELECT COUNT(*) FROM " + ", ".join(f"people p{i}" for i in range(40)),
        "passed the limit of 0.3 s",
    ),
    "a cross join of counters": (
        f"{ENDLESS} SELECT COUNT(*) FROM n a, n b, n c LIMIT 1",
        "passed the limit of 0.3 s",
    ),
    "a blob of two gigabytes": ("SELECT zeroblob(2000000000)", "too big"),
    "a random blob of two gigabytes": ("SELECT randomblob(2000000000)", "too big"),
    "a text of two gigabytes by printf": ("SELECT printf('%.*c', 2000000000, 'x')", "took longer than"),
    "a text of two gigabytes by replace": (
        f"SELECT replace({LONG}, 'a', {LONG})",
        "too big",
    ),
    "a text of two gigabytes by group_concat": (
        f"{ENDLESS} SELECT group_concat({LONG}) FROM (SELECT x FROM n LIMIT 30000)",
        "too big",
    ),
    "many long rows": (f"{ENDLESS} SELECT {LONG} FROM n", "passed the limit of 4000000 bytes of rows"),
    "billions of comparisons in a few opcodes": (
        "SELECT " + ", ".join([f"trim({LONG}, replace(substr({LONG}, 1, 8000), 'a', 'b') || 'a')"] * 30),
        "the rollout's code took longer than",
    ),
    "a search of every place in a long text": (
        f"{ENDLESS} SELECT COUNT(*) FROM n WHERE x + instr({LONG}, substr({LONG}, x % 9, 20000) || 'b') < 0",
        "passed the limit of 0.3 s",
    ),
    "a pattern that is too long": (f"SELECT 'a' LIKE '{'%a' * 600}'", "too complex"),
    "a deep expression": ("SELECT " + "(" * 1500 + "1" + ")" * 1500, "does not run"),
    "a long chain of operators": ("SELECT 1" + "+1" * 1500, "does not run"),
    "a statement that is too long": ("SELECT '" + "x" * 5000 + "'", "query string is too large"),
    "many compound selects": (
        " UNION ALL ".join(["SELECT 1"] * 250) + " " * 5000,
        "query string is too large",
    ),
    "doubling subqueries": (
        "WITH a0 AS (SELECT * FROM people), "
        + ", ".join(f"a{i} AS (SELECT x.* FROM a{i - 1} x, a{i - 1} y)" for i in range(1, 40))
        + " SELECT * FROM a39",
        "",
    ),
    "text that is none": ("SELECT CAST(x'ff' AS TEXT)", "UTF-8"),
    "half a surrogate pair": ("SELECT '\ud800'", "surrogates"),
    "a search expression out of control": (
        f"SELECT * FROM notes WHERE notes MATCH '{'(' * 300}hello{')' * 300}'",
        "does not run",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attacked")


@pytest.fixture(scope="module")
def scores(folder: Path) -> dict[str, tuple[Score, Score]]:
    """By attack: its score, and that of the honest query after it."""
    texts = [sql.replace("{folder}", str(folder)) for sql, _ in ATTACKS.values()]
    items = [ScoreItem(prompt="", completion=text) for sql in texts for text in (sql, HONEST)]
    grader = rewards.Sql(params=LIMITS, invalid_value=-1.0)

    async def score() -> list[Score]:
        async with Pool(1) as pool:
            return await pool.score("t", grader, items, {"schema": SCHEMA, "gold": HONEST})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "GRACE", 0.5)
        found = asyncio.run(score())
    return dict(zip(ATTACKS, zip(found[::2], found[1::2], strict=True), strict=True))


def test_there_are_attacks_of_every_kind():
    assert len(ATTACKS) >= 50


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_stopped_and_is_invalid_with_its_reason(
    name: str, scores: dict[str, tuple[Score, Score]], folder: Path
):
    attack, honest = scores[name]
    assert (attack.outcome, attack.value, attack.attempts) == ("invalid", -1.0, 1), attack
    assert ATTACKS[name][1] in (attack.reason or ""), attack.reason
    assert (honest.outcome, honest.value) == ("scored", 1.0), honest
    assert not list(folder.iterdir())
