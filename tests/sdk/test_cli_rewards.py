"""`rekindle rewards`, against a server in the same process."""

import json
from pathlib import Path

import pytest

from rekindle.cli import rewards
from rekindle.types.rewards import Score
from tests.sdk.cli_server import CliServer

GRADER = '{"type": "exact_match", "params": {"column": "answer"}}'


def bad(outcome: str, value: float | None) -> Score:
    return Score.model_validate(
        {
            "outcome": outcome,
            "value": value,
            "reason": "because",
            "grader_version": "exact_match-1+00",
            "seconds": 0.1,
            "attempts": 1,
        }
    )


@pytest.fixture
def items(tmp_path: Path) -> Path:
    completions = ["42", "42", "41", "unreadable", "crash", "hang"]
    lines = [{"prompt": "6*7?", "completion": one, "columns": {"answer": "42"}} for one in completions]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "\n")
    return path


@pytest.fixture
def grading(cli: CliServer) -> CliServer:
    cli.outcomes = {
        "unreadable": bad("invalid", -1.0),
        "crash": bad("error", None),
        "hang": bad("timeout", None),
    }
    return cli


def test_graders_are_listed_with_version_and_parameters(cli: CliServer) -> None:
    table = cli.run("rewards", "graders").stdout
    assert "exact_match-1" in table and "casefold" in table and '"answer"' in table
    (found,) = json.loads(cli.run("rewards", "graders", "--json").stdout)
    assert found["type"] == "exact_match" and "casefold" in found["params"]["properties"]


def test_score_summarizes_the_outcomes(grading: CliServer, items: Path) -> None:
    done = grading.run("rewards", "score", "--grader", GRADER, "--items", items, "--json")
    assert json.loads(done.stdout) == {
        "items": 6,
        "outcomes": {"scored": 3, "invalid": 1, "error": 1, "timeout": 1},
        "excluded": 2,
        "mean_value": 0.25,
        "grader_versions": ["exact_match-1+00"],
    }
    table = grading.run("rewards", "score", "--grader", GRADER, "--items", items).stdout
    assert "timeout" in table and "0.666667" in table and "0.25" in table


def test_scores_are_written_in_the_order_of_the_items(
    grading: CliServer, items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewards, "BATCH", 1)
    monkeypatch.setattr(rewards, "AHEAD", 2)
    grader, out = tmp_path / "grader.json", tmp_path / "scores.jsonl"
    grader.write_text(GRADER)
    done = grading.run("rewards", "score", "--grader", grader, "--items", items, "--out", out)
    assert done.exit_code == 0, done.output
    scores = [Score.model_validate_json(line) for line in out.read_text().splitlines()]
    assert [one.value for one in scores] == [1.0, 1.0, 0.0, -1.0, None, None]
    keys = [body["idempotency_key"] for body in grading.bodies("/score")]
    assert len(set(keys)) == len(keys) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grader.json", "items.jsonl", "scores.jsonl"]


def test_a_failure_leaves_the_scores_of_before(
    grading: CliServer, items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores.jsonl"
    out.write_text("of before\n")
    monkeypatch.setattr(rewards, "BATCH", 1)
    grading.fatal = "unreadable"
    done = grading.run("rewards", "score", "--grader", GRADER, "--items", items, "--out", out)
    assert done.exit_code == 1 and done.stderr.startswith("rekindle rewards score: no worker lived (request")
    assert out.read_text() == "of before\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.jsonl", "scores.jsonl"]


def test_a_terminal_sees_how_many_items_are_done(grading: CliServer, items: Path) -> None:
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}
    done = grading.run("rewards", "score", "--grader", GRADER, "--items", items, env=terminal)
    assert "scoring" in done.stderr and "6/6" in done.stderr


@pytest.mark.parametrize(
    ("grader", "reason"),
    [
        ('{"type": "oracle"}', "oracle"),
        ('{"type": "exact_match", "params": {"colunm": "a"}}', "colunm"),
        ("{", "not JSON"),
    ],
)
def test_a_grader_that_is_none_is_a_usage_error(
    cli: CliServer, items: Path, grader: str, reason: str
) -> None:
    done = cli.run("rewards", "score", "--grader", grader, "--items", items)
    assert done.exit_code == 2 and reason in done.stderr and not cli.asked


def test_a_grader_file_that_is_not_there_is_one_line(cli: CliServer, items: Path) -> None:
    done = cli.run("rewards", "score", "--grader", "grader.json", "--items", items)
    assert done.exit_code == 1 and "No such file" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "p"}', "completion: missing"),
        ('{"prompt": "p", "completion": "c", "columns": {}}', "column 'answer' is missing"),
        ("[]", "body"),
        ("nonsense", "not JSON"),
        ('"""', "JSON"),
    ],
)
def test_a_bad_item_is_named_by_its_line(cli: CliServer, items: Path, line: str, reason: str) -> None:
    items.write_text(items.read_text() + line + "\n")
    done = cli.run("rewards", "score", "--grader", GRADER, "--items", items)
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"rekindle rewards score: {items}:8: ") and reason in done.stderr
    assert not cli.asked


def test_a_function_is_registered_listed_and_forgotten(cli: CliServer, items: Path, tmp_path: Path) -> None:
    file = tmp_path / "brevity.py"
    file.write_text("def reward(completions, limit):\n    ...\n")
    table = cli.run("rewards", "register", file, "--examples", items, "--pure").stdout
    assert '"name": "brevity"' in table and "limit" in table and table.count("0.5") == 6
    other = cli.run("rewards", "register", file, "--examples", items, "--name", "short", "--json").stdout
    assert json.loads(other)["function"]["pure"] is False
    (first, second) = json.loads(cli.run("rewards", "functions", "--json").stdout)
    assert (first["name"], second["name"]) == ("brevity", "short")
    assert first["version"] in cli.run("rewards", "functions", "brevity").stdout
    assert cli.run("rewards", "unregister", "brevity", input="n\n").exit_code == 1 and len(cli.functions) == 2
    assert cli.run("rewards", "unregister", "brevity", "--yes").exit_code == 0
    assert [one.name for one in cli.functions] == ["short"]
    done = cli.run("rewards", "unregister", "brevity", "--yes")
    assert done.exit_code == 1 and "'brevity' does not exist" in done.stderr


def test_an_example_that_is_none_is_named_by_its_line(cli: CliServer, items: Path) -> None:
    items.write_text(items.read_text() + '{"prompt": "p"}\n')
    done = cli.run("rewards", "register", items, "--examples", items, "--name", "short")
    assert done.exit_code == 1 and f"{items}:8: completion: missing" in done.stderr and not cli.asked


def test_the_doctor_shows_the_layers_and_fails_where_no_code_runs(cli: CliServer) -> None:
    done = cli.run("rewards", "doctor")
    assert done.exit_code == 0 and "cpu limit" in done.stdout and "confined" in done.stdout
    cli.refused = "the floor is not reached: landlock filesystem"
    done = cli.run("rewards", "doctor")
    assert done.exit_code == 1 and cli.refused in done.stdout
    assert json.loads(cli.run("rewards", "doctor", "--json").stdout)["layers"][0]["in_force"] is False


def test_a_file_without_items_is_refused(cli: CliServer, items: Path) -> None:
    items.write_text("\n")
    done = cli.run("rewards", "score", "--grader", GRADER, "--items", items)
    assert done.exit_code == 1 and "no items, expected at least one" in done.stderr
