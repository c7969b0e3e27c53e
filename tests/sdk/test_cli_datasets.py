"""`rekindle datasets`, against a server in the same process."""

import json
from pathlib import Path

import pytest

from tests.sdk.cli_server import CliServer

ROWS = [{"n": number, "text": f"row {number}"} for number in range(25)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def filled(cli: CliServer) -> CliServer:
    cli.rows["spider/train"] = [ROWS[:2], ROWS]
    return cli


def test_an_upload_ends_with_version_rows_and_columns(cli: CliServer, file: Path) -> None:
    done = cli.run("datasets", "upload", file)
    assert done.exit_code == 0, done.output
    assert cli.rows["train"] == [ROWS]
    assert "train@1" in done.stdout and "25" in done.stdout and "text" in done.stdout
    assert not done.stderr, "no bar without a terminal"


def test_the_name_format_and_description_of_an_upload_can_be_said(cli: CliServer, file: Path) -> None:
    other = file.rename(file.with_suffix(".data"))
    told = ["--name", "spider/train", "--format", "jsonl", "--description", "for people"]
    done = cli.run("datasets", "upload", other, *told, "--json")
    assert json.loads(done.stdout)["name"] == "spider/train"
    (opened,) = cli.bodies("/datasets")
    assert (opened["format"], opened["description"]) == ("jsonl", "for people")


def test_an_upload_that_broke_off_sends_only_what_is_missing_when_run_again(
    cli: CliServer, file: Path
) -> None:
    cli.refused_from = 8
    broken = cli.run("datasets", "upload", file)
    assert broken.exit_code == 1 and not cli.rows
    assert broken.stderr == "rekindle datasets upload: 413: part: too slow, the limit is 60 s\n"
    (upload,) = cli.uploads.values()
    there = set(upload["parts"])  # which of those before it were on their way still is a matter of luck
    assert there and there <= set(range(8))
    cli.refused_from, cli.asked = None, []
    assert cli.run("datasets", "upload", file).exit_code == 0
    sent = [int(one.url.path.rpartition("/")[2]) for one in cli.asked if one.method == "PUT"]
    assert sorted(sent) == sorted(set(upload["parts"]) - there) and cli.rows["train"] == [ROWS]


def test_a_terminal_sees_a_bar_and_json_does_not(cli: CliServer, file: Path) -> None:
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm"}
    done = cli.run("datasets", "upload", file, env=terminal)
    assert "checking" in done.stderr and "bytes" in done.stderr
    quiet = cli.run("datasets", "upload", file, "--json", env=terminal)
    assert not quiet.stderr and json.loads(quiet.stdout)["version"] == 2


def test_the_server_says_which_row_is_wrong(cli: CliServer, file: Path) -> None:
    file.write_text("{\n")
    done = cli.run("datasets", "upload", file)
    assert done.exit_code == 1 and not done.stdout
    assert (
        done.stderr.startswith("rekindle datasets upload: row 1: not JSON") and done.stderr.count("\n") == 1
    )


def test_a_name_that_is_none_is_refused_before_anything_is_sent(cli: CliServer, file: Path) -> None:
    done = cli.run("datasets", "upload", file, "--name", "../x")
    assert done.exit_code == 1 and done.stderr.startswith("rekindle datasets upload: name: '../x'")
    assert not cli.asked


def test_a_file_of_no_known_format_is_refused(cli: CliServer, tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("x")
    done = cli.run("datasets", "upload", path)
    assert done.exit_code == 1 and done.stderr.startswith("rekindle datasets upload: format: not given")


def test_list_and_versions_show_a_line_each(filled: CliServer) -> None:
    assert "spider/train@2" in filled.run("datasets", "list").stdout
    listed = json.loads(filled.run("datasets", "list", "--json").stdout)
    assert [(one["name"], one["version"], one["rows"]) for one in listed] == [("spider/train", 2, 25)]
    both = json.loads(filled.run("datasets", "versions", "spider/train", "--json").stdout)
    assert [one["version"] for one in both] == [2, 1]
    assert "spider/train@1" in filled.run("datasets", "versions", "spider/train").stdout


@pytest.mark.parametrize(
    ("version", "number"), [("spider/train", 2), ("spider/train@latest", 2), ("spider/train@1", 1)]
)
def test_show_gives_schema_and_statistics_of_the_version(
    filled: CliServer, version: str, number: int
) -> None:
    shown = filled.run("datasets", "show", version).stdout
    assert f"spider/train@{number}" in shown and "9.5" in shown and "2.0 KiB" in shown
    found = json.loads(filled.run("datasets", "show", version, "--json").stdout)
    assert found["version"] == number and [column["name"] for column in found["columns"]] == ["n", "text"]


def test_rows_go_on_at_the_cursor_until_there_are_no_more(filled: CliServer) -> None:
    seen, cursor = [], []
    while True:
        asked = ["datasets", "rows", "spider/train@2", "--limit", "10", *cursor]
        page = json.loads(filled.run(*asked, "--json").stdout)
        seen += page["rows"]
        if page["cursor"] is None:
            break
        cursor = ["--cursor", page["cursor"]]
    assert seen == ROWS and (page["name"], page["version"]) == ("spider/train", 2)
    table = filled.run("datasets", "rows", "spider/train", "--limit", "3")
    assert "row 2" in table.stdout and "row 3" not in table.stdout
    assert "more: rekindle datasets rows spider/train@2 --limit 3 --cursor 3" in table.stderr


def test_a_cursor_needs_the_version_that_it_is_of(filled: CliServer) -> None:
    done = filled.run("datasets", "rows", "spider/train", "--cursor", "3")
    assert done.exit_code == 2 and "NAME@VERSION" in done.stderr and not filled.asked


def test_cells_are_neither_markup_nor_commands_to_a_terminal(cli: CliServer) -> None:
    cli.rows["x"] = [[{"text": "[bold]a[/bold] \x1b[2J\x9b31m\u202e:smile: " + "y" * 100, "other": None}]]
    table = cli.run("datasets", "rows", "x").stdout
    assert "[bold]a[/bold] \\x1b[2J\\x9b31m\\u202e:smile: y" in table and "y…" in table and "–" in table
    assert json.loads(cli.run("datasets", "rows", "x", "--json").stdout)["rows"] == cli.rows["x"][0]


def test_filter_sends_the_conditions_as_typed(filled: CliServer) -> None:
    conditions = ["n>=3", "text contains row", "text in 1,b", "n is not null"]
    done = filled.run("datasets", "filter", "spider/train@1", *conditions, "--json")
    assert json.loads(done.stdout)["version"] == 3
    (body,) = filled.bodies("/versions/1/derive")
    assert body == {
        "op": "filter",
        "where": [
            {"column": "n", "op": ">=", "value": 3},
            {"column": "text", "op": "contains", "value": "row"},
            {"column": "text", "op": "in", "value": ["1", "b"]},
            {"column": "n", "op": "is_null", "value": False},
        ],
    }


def test_dedupe_takes_columns_between_commas(filled: CliServer) -> None:
    assert filled.run("datasets", "dedupe", "spider/train", "--columns", "n,text").exit_code == 0
    assert filled.run("datasets", "dedupe", "spider/train@1").exit_code == 0
    assert filled.bodies("/versions/2/derive") == [{"op": "dedupe", "columns": ["n", "text"]}]
    assert filled.bodies("/versions/1/derive") == [{"op": "dedupe"}]


def test_split_shows_the_version_of_every_part(filled: CliServer) -> None:
    asked = ["datasets", "split", "spider/train", "train=0.9", "test=0.1", "--seed", "7", "--by", "n"]
    table = filled.run(*asked).stdout
    assert "spider/train@3" in table and "spider/train@4" in table and "test" in table
    made = json.loads(filled.run(*asked, "--json").stdout)
    assert {part: one["version"] for part, one in made.items()} == {"train": 5, "test": 6}
    body = filled.bodies("/versions/2/derive")[0]
    assert body == {"op": "split", "parts": {"train": 0.9, "test": 0.1}, "seed": 7, "by": ["n"]}


@pytest.mark.parametrize("shares", [["train=0.9"], ["train=0.9", "test=0.2"], ["train=1.5", "test=-0.5"]])
def test_shares_that_are_no_whole_are_refused(filled: CliServer, shares: list[str]) -> None:
    done = filled.run("datasets", "split", "spider/train", *shares)
    assert done.exit_code == 1 and done.stderr.startswith("rekindle datasets split: parts")


def test_download_writes_the_file(filled: CliServer, tmp_path: Path) -> None:
    target = tmp_path / "new" / "rows.parquet"
    done = filled.run("datasets", "download", "spider/train@1", target, "--json")
    assert json.loads(done.stdout) == {"downloaded": str(target), "bytes": target.stat().st_size}
    assert json.loads(target.read_bytes()) == ROWS[:2]
    assert str(target) in filled.run("datasets", "download", "spider/train", target).stdout


def test_a_file_that_cannot_be_written_is_one_line(filled: CliServer, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    done = filled.run("datasets", "download", "spider/train", tmp_path / "taken" / "rows.parquet")
    assert done.exit_code == 1 and done.stderr.startswith("rekindle datasets download:")
    assert done.stderr.count("\n") == 1


def test_delete_asks_first_and_takes_no_for_an_answer(filled: CliServer) -> None:
    kept = filled.run("datasets", "delete", "spider/train@1", input="n\n")
    assert kept.exit_code == 1 and "Delete spider/train@1 for good?" in kept.stderr and not filled.asked
    gone = filled.run("datasets", "delete", "spider/train@1", input="y\n")
    assert gone.exit_code == 0 and "deleted spider/train@1" in gone.stdout
    assert filled.rows["spider/train"] == [ROWS]


def test_delete_without_a_version_is_the_whole_dataset(filled: CliServer) -> None:
    done = filled.run("datasets", "delete", "spider/train", input="y\n")
    assert "all versions of spider/train" in done.stderr and "deleted spider/train" in done.stdout
    assert filled.asked[-1].url.path == "/api/v1/datasets/spider/train"
    unasked = filled.run("datasets", "delete", "spider/train", "--yes", "--json")
    assert json.loads(unasked.stdout) == {"deleted": "spider/train"} and not unasked.stderr


@pytest.mark.parametrize("command", ["show", "rows", "versions", "dedupe"])
def test_an_unknown_name_is_one_line(cli: CliServer, command: str) -> None:
    done = cli.run("datasets", command, "nobody")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"rekindle datasets {command}: 404: dataset 'nobody' does not exist\n"
