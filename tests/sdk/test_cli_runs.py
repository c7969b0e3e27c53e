"""`rekindle runs` and `rekindle checkpoints`, against a server in the same process."""

import json
from pathlib import Path

import pytest

from tests.sdk.cli_server import EXPORT, PATH, RUN, CliServer


def test_runs_are_listed_and_shown(cli: CliServer) -> None:
    table = cli.run("runs", "list", "--limit", "5").stdout
    assert RUN in table and "weights/000020" in table
    assert cli.asked[0].url.params["limit"] == "5"
    assert [run["training_run_id"] for run in json.loads(cli.run("runs", "list", "--json").stdout)] == [RUN]
    shown = cli.run("runs", "show", RUN).stdout
    assert PATH in shown and "base" in shown and "2026-05-04" in shown
    assert json.loads(cli.run("runs", "show", RUN, "--json").stdout)["lora_rank"] == 8


@pytest.mark.parametrize(
    "arguments",
    [["runs", "checkpoints", RUN], ["checkpoints", "list", "--run", RUN], ["checkpoints", "list"]],
)
def test_checkpoints_are_listed(cli: CliServer, arguments: list[str]) -> None:
    table = cli.run(*arguments).stdout
    assert PATH in table and "1.5 KiB" in table and "never" in table
    (found,) = json.loads(cli.run(*arguments, "--json").stdout)
    assert (found["tinker_path"], found["expires_at"]) == (PATH, None)


def test_rollouts_become_a_version_of_a_dataset(cli: CliServer) -> None:
    made = json.loads(cli.run("runs", "rollouts", RUN, "--name", "out/rollouts", "--json").stdout)
    assert (made["name"], made["version"], made["rows"]) == ("out/rollouts", 1, 1)
    assert "out/rollouts@2" in cli.run("runs", "rollouts", RUN, "--name", "out/rollouts").stdout


def test_a_checkpoint_is_shown_with_what_goes_on_from_it(cli: CliServer) -> None:
    shown = cli.run("checkpoints", "show", PATH).stdout
    assert "training" in shown and "base" in shown and "never" in shown
    found = json.loads(cli.run("checkpoints", "show", PATH, "--json").stdout)
    assert (found["checkpoint_id"], found["base_model"], found["lora_rank"]) == ("weights/000020", "base", 8)


@pytest.mark.parametrize(
    ("command", "method", "end", "body"),
    [
        (["publish", PATH], "POST", "/publish", b""),
        (["unpublish", PATH], "DELETE", "/publish", b""),
        (["ttl", PATH, "3600"], "PUT", "/ttl", b'{"ttl_seconds": 3600}'),
        (["ttl", PATH, "none"], "PUT", "/ttl", b'{"ttl_seconds": null}'),
        (["delete", PATH, "--yes"], "DELETE", "", b""),
    ],
)
def test_a_change_is_one_call(cli: CliServer, command: list[str], method: str, end: str, body: bytes) -> None:
    done = cli.run("checkpoints", *command)
    assert done.exit_code == 0 and PATH in done.stdout
    (asked,) = cli.asked
    path = f"/api/v1/training_runs/{RUN}/checkpoints/weights/000020{end}"
    assert (asked.method, asked.url.path, asked.content) == (method, path, body)
    assert PATH in json.loads(cli.run("checkpoints", *command, "--json").stdout).values()


def test_a_checkpoint_is_deleted_after_a_yes_alone(cli: CliServer) -> None:
    kept = cli.run("checkpoints", "delete", PATH, input="\n")
    assert kept.exit_code == 1 and "for good?" in kept.stderr and not cli.asked


def test_what_the_server_refuses_to_send_is_one_line(cli: CliServer, tmp_path: Path) -> None:
    done = cli.run("checkpoints", "download", EXPORT, tmp_path / "adapter")
    assert done.exit_code == 1 and done.stderr == "rekindle checkpoints download: 403: not here\n"


@pytest.mark.parametrize(
    "command", [["show"], ["publish"], ["unpublish"], ["ttl", "none"], ["delete", "--yes"], ["download", "."]]
)
def test_a_path_that_is_none_is_one_line(cli: CliServer, command: list[str]) -> None:
    name, *rest = command
    done = cli.run("checkpoints", name, "tinker://x", *rest)
    assert done.exit_code == 1 and not cli.asked
    assert done.stderr.startswith(f"rekindle checkpoints {name}: path: 'tinker://x', expected tinker://<run>")


def test_an_unknown_run_is_one_line(cli: CliServer) -> None:
    done = cli.run("runs", "show", "nobody")
    assert done.exit_code == 1 and done.stderr.startswith("rekindle runs show: 404: ")


def test_a_ttl_that_is_no_number_is_a_usage_error(cli: CliServer) -> None:
    done = cli.run("checkpoints", "ttl", PATH, "1h")
    assert done.exit_code == 2 and "whole number of seconds" in done.stderr and not cli.asked
