"""The databases of the demo: five small worlds of two tables each, as data, and SQLite files made of them.

Four worlds take part in training; the fifth (`HELD_OUT_SCHEMA`) is seen by neither the base model nor RL and
is reported apart. Rows are drawn from a seed. The values of every number and date column are distinct, so that
"the three cheapest" has one answer. Knows nothing of questions or models.
"""

import os
import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROWS = 40
FIRST_YEAR, LAST_YEAR = 2015, 2024

Kind = Literal["label", "category", "number", "date"]


@dataclass(frozen=True)
class Column:
    """A column and how people call it, e.g. `Column("salary", "number", ("salary", "pay"), low=20, high=90)`."""

    name: str
    kind: Kind
    words: tuple[str, ...]
    """Nouns for the column; no two columns of a table share one."""
    values: tuple[str, ...] = ()
    """Every value of a label or category column."""
    low: int = 0
    high: int = 0
    """Bounds of a number column, inclusive, at least `ROWS` apart."""
    verbs: tuple[str, ...] = ()
    """Date columns: what happened on that day ("hired")."""


@dataclass(frozen=True)
class Table:
    """A table and the plural nouns for its rows."""

    name: str
    words: tuple[str, ...]
    columns: tuple[Column, ...]

    def of_kind(self, *kinds: Kind) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.kind in kinds)


@dataclass(frozen=True)
class Schema:
    """A database: its name and its two tables."""

    name: str
    tables: tuple[Table, Table]


def label(name: str, words: str, stems: str) -> Column:
    """A text column that tells rows apart: `ROWS` values made of stems and letters."""
    names = [f"{stem} {letter}" for letter in "ABCD" for stem in stems.split()]
    return Column(name, "label", tuple(words.split("/")), values=tuple(names))


def category(name: str, words: str, values: str) -> Column:
    return Column(name, "category", tuple(words.split("/")), values=tuple(values.split()))


def number(name: str, words: str, low: int, high: int) -> Column:
    return Column(name, "number", tuple(words.split("/")), low=low, high=high)


def date(name: str, words: str, verbs: str) -> Column:
    return Column(name, "date", tuple(words.split("/")), verbs=tuple(verbs.split("/")))


FIRST_NAMES = "Ada Ben Cleo Dan Eve Finn Gia Hugo Ida Jon"
CITIES = "Rome Oslo Lima Cairo Delhi"

SCHEMAS = (
    Schema(
        "company",
        (
            Table(
                "employees",
                ("employees", "workers", "staff members"),
                (
                    label("name", "name/full name", FIRST_NAMES),
                    category("role", "role/job", "clerk engineer manager analyst driver"),
                    number("salary", "salary/pay/wage", 20, 99),
                    number("age", "age", 20, 69),
                    date("hired", "hiring date/start date", "hired/taken on"),
                ),
            ),
            Table(
                "projects",
                ("projects", "assignments"),
                (
                    label(
                        "title",
                        "title/project name",
                        "Alpha Bravo Delta Echo Hotel Kilo Lima Oscar Tango Zulu",
                    ),
                    category("client", "client/contractor", "Acme Globex Initech Umbrella Stark"),
                    number("budget", "budget/funding", 10, 200),
                    number("hours", "hours/workload", 10, 150),
                    date("started", "kick-off date/launch date", "started/launched"),
                ),
            ),
        ),
    ),
    Schema(
        "library",
        (
            Table(
                "books",
                ("books", "volumes"),
                (
                    label(
                        "title", "title/book name", "Dawn Ember Frost Grove Haven Iris Jade Lark Moon Reef"
                    ),
                    category("genre", "genre/type", "crime poetry travel science history"),
                    number("pages", "pages/length", 50, 400),
                    number("copies", "copies", 1, 60),
                    date("published", "publication date/release date", "published/printed"),
                ),
            ),
            Table(
                "members",
                ("members", "readers", "borrowers"),
                (
                    label("name", "name/full name", FIRST_NAMES),
                    category("city", "city/town", CITIES),
                    number("visits", "visits", 1, 90),
                    number("fines", "fines/penalties", 0, 80),
                    date("joined", "joining date/membership date", "enrolled/registered"),
                ),
            ),
        ),
    ),
    Schema(
        "shop",
        (
            Table(
                "products",
                ("products", "articles", "goods"),
                (
                    label("name", "name/product name", "Bolt Cord Desk Fork Lamp Mug Pen Rug Sofa Vase"),
                    category("category", "category/type", "garden office kitchen sport toys"),
                    number("price", "price/cost", 5, 99),
                    number("stock", "stock/quantity", 1, 200),
                    date("added", "listing date/entry date", "added/listed"),
                ),
            ),
            Table(
                "orders",
                ("orders", "purchases"),
                (
                    label("customer", "customer/buyer", FIRST_NAMES),
                    category("country", "country/nation", "Spain Japan Brazil Kenya Norway"),
                    number("amount", "amount/value", 10, 300),
                    number("items", "items/pieces", 1, 70),
                    date("placed", "order date/purchase date", "placed/made"),
                ),
            ),
        ),
    ),
    Schema(
        "league",
        (
            Table(
                "players",
                ("players", "athletes"),
                (
                    label("name", "name/full name", FIRST_NAMES),
                    category("team", "team/club", "Lions Hawks Bears Wolves Sharks"),
                    number("goals", "goals/score", 0, 90),
                    number("height", "height/size", 150, 210),
                    date("signed", "signing date/contract date", "signed/recruited"),
                ),
            ),
            Table(
                "matches",
                ("matches", "games"),
                (
                    label(
                        "stadium", "stadium/venue", "Arena Bowl Court Dome Field Garden Oval Park Ring Rink"
                    ),
                    category("level", "level/division", "amateur junior senior pro elite"),
                    number("crowd", "crowd/spectators", 100, 900),
                    number("cards", "cards/bookings", 0, 80),
                    date("played", "match date/playing date", "played/held"),
                ),
            ),
        ),
    ),
)

HELD_OUT_SCHEMA = Schema(
    "hotel",
    (
        Table(
            "rooms",
            ("rooms", "suites"),
            (
                label("name", "name/full name", "Amber Coral Ivory Olive Pearl Ruby Sable Topaz Umber Azure"),
                category("type", "type/category", "single double twin family deluxe"),
                number("price", "price/cost", 40, 200),
                number("size", "size", 10, 90),
                date("opened", "opening date", "opened"),
            ),
        ),
        Table(
            "guests",
            ("guests", "visitors"),
            (
                label("name", "name/full name", FIRST_NAMES),
                category("city", "city/town", CITIES),
                number("age", "age", 20, 69),
                number("nights", "nights", 1, 60),
                date("arrived", "arrival date", "arrived"),
            ),
        ),
    ),
)


def _cells(column: Column, rng: random.Random) -> list[str] | list[int]:
    """`ROWS` cells of one column; labels, numbers and dates are distinct."""
    match column.kind:
        case "label":
            return rng.sample(column.values, ROWS)
        case "category":
            return rng.choices(column.values, k=ROWS)
        case "number":
            return rng.sample(range(column.low, column.high + 1), ROWS)
        case "date":
            years, days = range(FIRST_YEAR, LAST_YEAR + 1), range(1, 29)
            every = [
                f"{year}-{month:02}-{day:02}" for year in years for month in range(1, 13) for day in days
            ]
            return rng.sample(every, ROWS)


def create_database(schema: Schema, path: Path, seed: int) -> None:
    """Write `schema` with `ROWS` rows a table to a new SQLite file; the same seed gives the same rows.

    It appears whole, in the place of an older one: another process may be doing the same.
    """
    rng = random.Random(f"{seed}/{schema.name}")
    types = {"label": "TEXT", "category": "TEXT", "number": "INTEGER", "date": "TEXT"}
    unfinished = path.with_name(f".{path.name}-{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    connection = sqlite3.connect(unfinished)
    with connection:
        for table in schema.tables:
            columns = ", ".join(f"{column.name} {types[column.kind]}" for column in table.columns)
            connection.execute(f"CREATE TABLE {table.name} ({columns})")
            rows = zip(*(_cells(column, rng) for column in table.columns), strict=True)
            marks = ", ".join("?" * len(table.columns))
            connection.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows)
    connection.close()
    unfinished.replace(path)


def describe_database(path: Path) -> str:
    """The schema as the prompt shows it, read from the file itself: `books(title, genre) members(name, city)`."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
    ).fetchall()
    described = []
    for (table,) in tables:
        columns = connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        described.append(f"{table}({', '.join(name for (name,) in columns)})")
    connection.close()
    return " ".join(described)
