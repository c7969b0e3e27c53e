"""`rekindle up` and `rekindle ps`: what they refuse, and what they say of a running stack."""

import json
import socket
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner, Result

from rekindle.cli import build
from services.local.stack import BaseModelChoice, StackOptions, children, listen
from tests.stack import Stack

STAYING = ["dispatcher", "gateway", "nats", "supervisor"]
ON_DEMAND = ["checkpoint", "data", "reward", "sample", "train"]
WARM = ["warm", "warm"]
FIELDS = {
    "name",
    "service",
    "base_model",
    "replica",
    "replicas",
    "pid",
    "state",
    "activations",
    "rss_bytes",
    "url",
    "reason",
    "dead",
    "verdict",
}


def rekindle(*arguments: object) -> Result:
    return CliRunner().invoke(build(), [str(argument) for argument in arguments])


def said(result: Result) -> str:
    """What a person reads, without the box around it."""
    return " ".join(result.output.replace("│", " ").split())


def test_ps_shows_every_process_of_a_running_stack(stack: Stack) -> None:
    result = rekindle("ps", "--data-dir", stack.data_dir, "--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert sorted(row["service"] for row in rows) == sorted([*STAYING, *ON_DEMAND, *WARM])
    for row in rows:
        assert set(row) == FIELDS
        assert (row["url"] is not None) == (row["service"] in ON_DEMAND)
        if row["service"] in STAYING:
            assert row["state"] == "ready"
        if row["pid"] is None:
            assert row["state"] in ("zero", "starting") and row["rss_bytes"] is None
        else:
            family = psutil.Process(row["pid"]).parents()
            assert row["rss_bytes"] > 2**20
            assert row["service"] == "supervisor" or stack.pid in [process.pid for process in family]
        assert (row["base_model"] == stack.base_model) == (row["service"] in ("train", "sample"))
    table = rekindle("ps", "--data-dir", stack.data_dir)
    assert table.exit_code == 0 and all(name in table.output for name in STAYING + ON_DEMAND)


@pytest.mark.parametrize("left_behind", [False, True])
def test_ps_shows_nothing_where_nothing_runs(tmp_path: Path, left_behind: bool) -> None:
    if left_behind:
        (tmp_path / "processes.json").write_text('[{"service": "train", "pid": 1}]')
    result = rekindle("ps", "--data-dir", tmp_path, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout) == []


def test_a_folder_in_use_is_refused(stack: Stack) -> None:
    result = rekindle("up", "--base-model", stack.base_model, "--data-dir", stack.data_dir, "--port", 0)
    assert result.exit_code == 1
    assert "running on this data folder already" in result.stderr and not result.stdout


def test_a_port_in_use_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = rekindle("up", "--base-model", tiny_model_dir, "--data-dir", tmp_path, "--port", port)
    assert result.exit_code == 1
    assert f"port {port}" in result.stderr and not result.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--base-model", "/nonexistent/model"], "no such model folder"),
        (["--base-model", "name=/nonexistent/model"], "no such model folder"),
        (["--base-model", "=x"], "expected [NAME=]FOLDER_OR_HUB_ID"),
        (["--base-model", "a=x/y", "--base-model", "a=x/z"], "same name"),
        (["--base-model", "x/y", "--host", "0.0.0.0"], "needs at least one --api-key"),
        (["--base-model", "x/y", "--host", "::"], "needs at least one --api-key"),
        (["--base-model", "x/y", "--api-key", "secret"], "keys start with tml-"),
        (["--base-model", "x/y", "--port", "70000"], "65535"),
        (["--base-model", "x/y", "--engine", "vllm", "--deterministic"], "use --engine torch"),
        ([], "--base-model"),
    ],
)
def test_bad_options_are_refused_with_the_reason(tmp_path: Path, arguments: list[str], reason: str) -> None:
    result = rekindle("up", *arguments, "--data-dir", tmp_path / "data")
    assert result.exit_code == 2
    assert reason in said(result)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_reaches_those_who_compute_and_nobody_else(tmp_path: Path, deterministic: bool) -> None:
    with listen("127.0.0.1", 0) as held:
        choices = [BaseModelChoice("tiny", "x/y")]
        options = StackOptions(choices, tmp_path, "127.0.0.1", held, deterministic=deterministic)
        found = children(options)
        told = {child.service for child in found if "REKINDLE_DETERMINISTIC" in child.environment}
        for child in found:
            if child.listening is not None and child.listening is not held:
                child.listening.close()
    assert told == ({"register", "train", "sample"} if deterministic else set())


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    result = rekindle("up", "--base-model", tmp_path, "--data-dir", tmp_path / "data")
    assert result.exit_code == 2 and "config.json" in said(result)
