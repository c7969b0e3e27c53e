"""`rekindle run` and `rekindle triggers`, against a server in the same process."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from rekindle.cli import live
from rekindle.types.rl import Firing, MetricsRow
from tests.sdk.cli_server import CliServer
from tests.sdk.rl_server import SPEC, row


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "Text2SQL.run.yaml"
    path.write_text(json.dumps(SPEC))
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between looks: the server of these tests holds no polls."""
    monkeypatch.setattr("rekindle.rl_runs.SHORTEST_POLL", 0.0)


def test_a_run_is_started_from_a_file_once_for_a_key(cli: CliServer, spec: Path) -> None:
    shown = cli.run("run", "start", spec).stdout
    assert "rl-0" in shown and "running" in shown and "spider@3" in shown
    made = [json.loads(cli.run("run", "start", spec, "--key", "k", "--json").stdout) for _ in range(2)]
    assert [one["id"] for one in made] == ["rl-1", "rl-1"]


def test_a_mistake_in_the_file_is_one_line_with_field_and_place(cli: CliServer, spec: Path) -> None:
    spec.write_text(
        "base_model: tiny\nsampling:\n  max_tokens: none\n"
        "dataset: {name: a}\nprompt: p\ngrader: {type: math}\nsteps: 1\n"
    )
    done = cli.run("run", "start", spec)
    assert done.exit_code == 1 and not cli.asked
    assert done.stderr.startswith(f"rekindle run start: {spec}:3: sampling.max_tokens: ")
    assert len(done.stderr.splitlines()) == 1


def test_runs_are_listed_shown_and_steered(cli: CliServer, spec: Path) -> None:
    cli.run("run", "start", spec)
    assert json.loads(cli.run("run", "list", "--json").stdout)[0]["id"] == "rl-0"
    assert "0/4" in cli.run("run", "list").stdout
    assert "1 of 4" in cli.run("run", "show", "rl-0").stdout
    for word, phase in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert cli.run("run", word, "rl-0").stdout == f"rl-0 {phase}, step 1/4\n"
        assert json.loads(cli.run("run", word, "rl-0", "--json").stdout)["phase"] == phase
    kept = cli.run("run", "delete", "rl-0", input="\n")
    assert kept.exit_code == 1 and cli.rl.runs
    assert cli.run("run", "delete", "rl-0", "--yes").stdout == "deleted rl-0\n" and not cli.rl.runs
    gone = cli.run("run", "show", "rl-0")
    assert gone.exit_code == 1 and gone.stderr == "rekindle run show: 404: rl_run 'rl-0' does not exist\n"


@pytest.mark.usefixtures("quick")
def test_a_watch_is_a_line_a_step_where_there_is_no_terminal(cli: CliServer) -> None:
    done = cli.run("run", "watch", cli.rl.begin())
    first, step, *_, last = done.stdout.splitlines()
    assert first.startswith("step 1/4  reward 0  KL sampler 0.001  entropy 1.5  length 20.5  longest 64  ")
    assert first.endswith("step s 2  held out 0.5 (version 0)")
    assert step == "rl-0 running at step 1/4"
    assert last == "rl-0 completed at step 4/4: all steps are done" and done.exit_code == 0
    assert len(done.stdout.splitlines()) == 4 + 2


@pytest.mark.usefixtures("quick")
def test_a_watch_as_json_is_an_object_a_line(cli: CliServer, spec: Path) -> None:
    done = cli.run("run", "start", spec, "--watch", "--json")
    *rows, run = map(json.loads, done.stdout.splitlines())
    assert [one["step"] for one in rows] == [0, 1, 2, 3] and run["phase"] == "completed"
    (last,) = map(json.loads, cli.run("run", "watch", "rl-0", "--after", 3, "--json").stdout.splitlines())
    assert last == run


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("ending", ["failed", "cancelled"])
def test_a_watch_of_a_run_that_ends_badly_ends_with_exit_code_1(cli: CliServer, ending: str) -> None:
    cli.rl.ending = ending
    done = cli.run("run", "watch", cli.rl.begin())
    assert done.exit_code == 1 and ending in done.stdout


@pytest.mark.usefixtures("quick")
def test_on_a_terminal_a_watch_is_one_moving_picture(cli: CliServer, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(force_terminal=True, width=120, record=True)
    monkeypatch.setattr("rich.console.Console", lambda: console)
    assert cli.run("run", "watch", cli.rl.begin(name="sql [bold]")).exit_code == 0
    said = console.export_text()
    for part in ("sql [bold]", "rl-0 completed at step 4/4", "▁▃▆█", "4/4", "tokens/s", "1235", "train s"):
        assert part in said, part
    assert "held out 0.5 at version 2" in said
    *_, heads, graders, samplers = (line.split() for line in said.splitlines())
    assert heads == ["service", "state", "replicas", "queued"]
    assert (graders, samplers) == (["reward", "ready", "1", "7"], ["sample", "zero", "–", "0", "starting"])


def test_the_picture_of_a_run_without_rows_says_so(cli: CliServer) -> None:
    run = cli.rl.runs[cli.rl.begin()]
    console = Console(width=120)
    with console.capture() as said:
        console.print(live.picture(run, None, [], []))
    assert "rl-0 running at step 0/4" in said.get() and "staleness  –" in said.get()


def test_rows_that_were_skipped_are_shown_where_there_are_some(cli: CliServer) -> None:
    run = cli.rl.runs[cli.rl.begin()].model_copy(update={"skipped": 2, "cursor": 16})
    assert live.line(run, MetricsRow(row=0, step=0, skipped=2)).endswith("rows skipped 2")
    assert "skipped" not in live.line(run, MetricsRow(row=0, step=0, skipped=0))
    console = Console(width=120)
    with console.capture() as said:
        console.print(live.picture(run, None, [], []))
    assert "2 of 16 rows could not be asked" in said.get()


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([None], ""), ([0.5, 0.5], "▁▁"), ([0.0, None, 1.0], "▁ █"), ([-1.0, 0.0, 1.0], "▁▅█")],
)
def test_a_sparkline_goes_from_the_least_to_the_greatest(values: list[float | None], drawn: str) -> None:
    assert live.sparkline(values) == drawn
    assert len(live.sparkline([1.0, 2.0] * 100)) == live.SPARKS


@pytest.mark.usefixtures("quick")
def test_metrics_are_shown_written_and_drawn(cli: CliServer, tmp_path: Path) -> None:
    run = cli.rl.begin()
    cli.run("run", "watch", run)
    table = cli.run("run", "metrics", run, "--after", 1).stdout
    assert "evaluation" in table and "1234.57" in table and "0.75" in table and "0.25" not in table
    assert json.loads(cli.run("run", "metrics", run, "--json").stdout)[3] == row(3).model_dump(mode="json")
    written = cli.run("run", "metrics", run, "--csv", tmp_path / "run.csv", "--json").stdout
    assert json.loads(written) == {"csv": str(tmp_path / "run.csv")}
    assert len((tmp_path / "run.csv").read_text().splitlines()) == 5
    pytest.importorskip("matplotlib")
    done = cli.run("run", "plot", run, tmp_path / "run.png")
    assert done.stdout == f"plotted {tmp_path / 'run.png'}\n" and (tmp_path / "run.png").exists()


def test_what_is_not_installed_is_one_line(cli: CliServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    done = cli.run("run", "metrics", cli.rl.begin(), "--mlflow", "sql")
    assert done.exit_code == 1 and "pip install 'rekindle[mlflow]'" in done.stderr


# ---- Triggers ----


def test_a_trigger_is_made_of_a_spec_and_named_after_its_file(cli: CliServer, spec: Path) -> None:
    done = cli.run(
        "triggers", "create", "--on", "dataset.uploaded", "--match", "name=sql/*", "--match", "version=3",
        "--match", 'split="1"', "--start", spec, "--json",
    )  # fmt: skip
    made = json.loads(done.stdout)["trigger"]
    assert (made["name"], made["on"]) == ("text2sql", "dataset.uploaded")
    assert made["match"] == {"name": "sql/*", "version": 3, "split": "1"}
    assert made["start"]["checkpoints"] is None and made["webhook"] is None


def test_triggers_are_listed_with_their_firings_and_deleted(cli: CliServer) -> None:
    made = cli.run("triggers", "create", "--on", "run.failed", "--webhook", "https://x.test/h", "--name", "w")
    assert "calls https://x.test/h" in made.stdout
    assert "run.failed" in cli.run("triggers", "list").stdout
    assert json.loads(cli.run("triggers", "list", "--json").stdout)[0]["trigger"]["name"] == "w"
    cli.rl.firings = (
        Firing(
            trigger="w",
            event="e1",
            source="/rekindle/local/data",
            type="run.failed",
            subject="rl-0",
            time=datetime(2026, 5, 4, tzinfo=UTC),
            outcome="failed",
            reason="call 7: HTTP 500",
        ),
    )
    assert "call 7: HTTP 500" in cli.run("triggers", "firings", "w").stdout
    assert json.loads(cli.run("triggers", "firings", "w", "--json").stdout)[0]["event"] == "e1"
    assert cli.run("triggers", "delete", "w", "--yes").stdout == "deleted w\n" and not cli.rl.triggers


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--webhook", "https://x.test/"], "--name"),
        (["--name", "w", "--webhook", "https://x.test/", "--match", "name"], "expected a field"),
        (["--name", "w", "--webhook", "https://x.test/", "--match", "a=1", "--match", "a=2"], "twice"),
    ],
)
def test_a_trigger_that_is_not_whole_is_wrong_usage(cli: CliServer, arguments: list[str], said: str) -> None:
    done = cli.run("triggers", "create", "--on", "run.failed", *arguments)
    assert done.exit_code == 2 and said in done.stderr and not cli.asked
