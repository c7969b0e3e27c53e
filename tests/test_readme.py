"""The README shows the recorded results, and only results that say where they come from."""

import datetime
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks import figures, record
from examples.text2sql import questions

EXAMPLE = {
    "command": "task bench",
    "commit": "0123456789",
    "machine": "a laptop",
    "date": "2026-01-31",
    "columns": ["sequences", "tokens/s", "way"],
    "rows": [[1, 12.345, "a|b"], [64, 1234.5, None]],
    "note": "Medians of five.",
}
BLOCK = """\
<!-- figures:speed -->
| sequences | tokens/s | way |
| --- | --- | --- |
| 1 | 12.3 | a\\|b |
| 64 | 1,234 | not measured |

Medians of five.

`task bench` · commit 0123456789 · 2026-01-31 · a laptop
<!-- /figures -->"""
EMPTY = "<!-- figures:speed -->\n<!-- /figures -->"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "speed.json").write_text(json.dumps(EXAMPLE))
    return tmp_path


def test_the_readme_agrees_with_the_results():
    text = figures.README.read_text()
    assert figures.update(text) == text, "run `task figures`"


def test_every_recorded_result_is_whole():
    for path in sorted(record.RESULTS.glob("*.json")):
        figures.load(path.stem)


def test_a_block_is_rendered_and_the_text_around_it_kept(results: Path):
    assert figures.update(f"before\n{EMPTY}\nafter\n", results) == f"before\n{BLOCK}\nafter\n"


def test_rendering_again_changes_nothing(results: Path):
    assert figures.update(BLOCK, results) == BLOCK


def test_an_edited_figure_is_noticed(results: Path):
    edited = BLOCK.replace("12.3", "99.9")
    assert figures.update(edited, results) == BLOCK != edited


def test_two_blocks_are_kept_apart(results: Path):
    (results / "other.json").write_text(json.dumps(EXAMPLE | {"note": None}))
    text = figures.update(f"{EMPTY}\nbetween\n{EMPTY.replace('speed', 'other')}", results)
    assert text.startswith(f"{BLOCK}\nbetween\n<!-- figures:other -->\n")


@pytest.mark.parametrize(
    "text",
    [
        "<!-- figures:speed -->\n",
        "<!-- /figures -->\n",
        f"<!-- figures:speed -->\n{EMPTY}",
        f"{EMPTY}\n<!-- /figures -->",
    ],
)
def test_a_marker_without_partner_is_refused(text: str, results: Path):
    with pytest.raises(ValueError, match="markers"):
        figures.update(text, results)


def test_a_block_without_result_is_refused(results: Path):
    with pytest.raises(FileNotFoundError):
        figures.update(EMPTY.replace("speed", "missing"), results)


@pytest.mark.parametrize("field", ["command", "commit", "machine", "date", "columns", "rows"])
def test_a_result_without_its_origin_is_refused(field: str, results: Path):
    (results / "speed.json").write_text(json.dumps({k: v for k, v in EXAMPLE.items() if k != field}))
    with pytest.raises(ValidationError, match=field):
        figures.update(EMPTY, results)


def test_a_recorded_result_says_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    record.record("latency", ["p50 (ms)"], [[1.5]], command="task bench -- latency")
    result = figures.load("latency", tmp_path)
    assert result.command == "task bench -- latency"
    assert result.commit.removesuffix("-dirty") in record.git("rev-parse", "HEAD")
    assert "torch" in result.machine and "GiB" in result.machine
    assert result.date <= datetime.datetime.now(datetime.UTC).date()


@pytest.mark.parametrize("rows", [[], [[1.0, 2.0]], [[float("nan")]]])
def test_a_result_that_cannot_be_shown_is_not_recorded(
    rows: list[list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    with pytest.raises(ValidationError):
        record.record("latency", ["p50 (ms)"], rows, command="task bench")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["README.md", "examples/text2sql/README.md"])
def test_what_is_said_of_the_demo_is_what_its_code_does(text: str):
    said = (record.ROOT / text).read_text()
    assert f"{questions.CORPUS_SIZE:,} pairs of question and SQL" in said
    for dialect, name in {"sqlite": "SQLite", "tsql": "T-SQL", "oracle": "Oracle"}.items():
        assert f"{questions.DIALECT_SHARES[dialect]:.0%}".replace("%", f" % {name}") in said
