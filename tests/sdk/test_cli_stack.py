"""The command against a running stack: as a process of its own where that makes a difference, else in this one."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rekindle import SamplingParams, ServiceClient
from rekindle.cli import build
from tests.stack import ROOT, Stack

WAIT = 120.0
ROWS = [{"question": f"{n} * 2?", "answer": n * 2, "level": n % 5} for n in range(50)]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "rekindle.cli", *map(str, arguments)]


class Shell:
    """A shell whose environment names the stack's server."""

    def __init__(self, stack: Stack) -> None:
        self.environment = {**os.environ, "REKINDLE_BASE_URL": stack.url, "TERM": "xterm", "COLUMNS": "150"}

    def process(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command(*arguments), cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=WAIT
        )

    def run(self, *arguments: object) -> Result:
        return CliRunner().invoke(build(), [*map(str, arguments)], prog_name="rekindle", env=self.environment)

    def json(self, *arguments: object) -> Any:
        done = self.run(*arguments, "--json")
        assert done.exit_code == 0 and not done.stderr, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def on_a_terminal(self, *arguments: object) -> "Iterator[tuple[subprocess.Popen[str], int]]":
        """The process, with its stderr on a terminal, and that terminal's other side."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            command(*arguments),
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
        )
        os.close(theirs)
        try:
            with process:
                yield process, ours
        finally:
            os.close(ours)


def read_until(terminal: int, word: str | None) -> str:
    """What appears up to that word; up to the end if None."""
    seen = b""
    while word is None or word.encode() not in seen:
        try:
            more = os.read(terminal, 4096)
        except OSError:  # nobody is at the other side any more
            more = b""
        if not more:
            break
        seen += more
    return seen.decode(errors="replace")


@pytest.fixture(scope="module")
def shell(stack: Stack) -> Shell:
    return Shell(stack)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "math.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def checkpoint(rekindled: ServiceClient, stack: Stack) -> str:
    """A saved state, by its path."""
    training = rekindled.create_lora_training_client(stack.base_model, rank=4).result(WAIT)
    return training.save_state("of-the-command").result(WAIT).path


def test_a_dataset_from_its_upload_to_its_end(shell: Shell, file: Path, tmp_path: Path) -> None:
    shown = shell.process("datasets", "upload", file, "--name", "cli/math", "--description", "doubles")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "cli/math@1" in shown.stdout and "question" in shown.stdout and "doubles" in shown.stdout
    assert "cli/math@1" in shell.run("datasets", "list").stdout

    page = shell.json("datasets", "rows", "cli/math", "--limit", 30)
    rest = shell.json(
        "datasets", "rows", f"cli/math@{page['version']}", "--cursor", page["cursor"], "--limit", 30
    )
    assert page["rows"] + rest["rows"] == ROWS and rest["cursor"] is None

    high = shell.json(
        "datasets", "filter", "cli/math", "level>=3", "question contains 1", "answer in 26,28,36"
    )
    assert (high["version"], high["rows"], high["parent"]) == (2, 3, 1)
    assert shell.json("datasets", "dedupe", "cli/math@1", "--columns", "level")["rows"] == 5
    parts = shell.json("datasets", "split", "cli/math@1", "train=0.8", "test=0.2", "--seed", 3)
    assert parts["train"]["rows"] + parts["test"]["rows"] == len(ROWS)
    assert [one["version"] for one in shell.json("datasets", "versions", "cli/math")] == [5, 4, 3, 2, 1]

    copy = tmp_path / "copy.parquet"
    assert shell.json("datasets", "download", "cli/math@1", copy)["bytes"] == copy.stat().st_size
    first = shell.json("datasets", "show", "cli/math@1")
    assert shell.json("datasets", "upload", copy, "--name", "cli/copy")["sha256"] == first["sha256"]

    assert shell.json("datasets", "delete", "cli/math@2", "--yes") == {"deleted": "cli/math@2"}
    assert shell.run("datasets", "show", "cli/math@2").exit_code == 1
    assert shell.json("datasets", "delete", "cli/math", "--yes") == {"deleted": "cli/math"}
    gone = shell.run("datasets", "show", "cli/math")
    assert gone.stderr == "rekindle datasets show: 404: dataset 'cli/math' does not exist\n"


def test_what_the_server_refuses_is_one_line_that_says_where(shell: Shell, file: Path) -> None:
    file.write_text('{"a": 1}\n{"a": "x"}\n')
    broken = shell.process("datasets", "upload", file, "--name", "cli/broken")
    assert (broken.returncode, broken.stdout) == (1, "")
    assert (
        broken.stderr.startswith("rekindle datasets upload: line 2, column")
        and broken.stderr.count("\n") == 1
    )
    assert shell.run("datasets", "show", "cli/broken").exit_code == 1
    missing = shell.run("runs", "rollouts", "nobody", "--name", "cli/none")
    assert missing.exit_code == 1 and "nobody" in missing.stderr


def test_an_upload_on_a_terminal_shows_a_bar_and_goes_on_after_ctrl_c(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for number in range(40):
            file.write(json.dumps({"n": number, "text": os.urandom(2**19).hex()}) + "\n")
    asked = ("datasets", "upload", path, "--name", "cli/large", "--json")
    with shell.on_a_terminal(*asked[:-1]) as (process, terminal):
        assert "uploading" in read_until(terminal, "uploading")
        process.send_signal(signal.SIGINT)
        seen = read_until(terminal, None)
        assert process.wait(WAIT) == 130 and "Traceback" not in seen
    made = shell.json(*asked)
    assert (made["version"], made["rows"]) == (1, 40)
    shell.json("datasets", "delete", "cli/large", "--yes")


def test_a_reader_that_has_seen_enough_ends_the_command_in_silence(shell: Shell, file: Path) -> None:
    shell.json("datasets", "upload", file, "--name", "cli/piped")
    process = subprocess.Popen(
        command("datasets", "rows", "cli/piped", "--json"),
        cwd=ROOT,
        env=shell.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout and process.stderr
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 1 and "Traceback" not in said
    shell.json("datasets", "delete", "cli/piped", "--yes")


def test_scores_by_a_grader_of_the_server(shell: Shell, tmp_path: Path) -> None:
    assert {"exact_match", "numeric"} <= {one["type"] for one in shell.json("rewards", "graders")}
    items, out = tmp_path / "items.jsonl", tmp_path / "scores.jsonl"
    with items.open("w") as file:
        for n in range(300):
            said = f"it is {n}" if n % 3 else "no idea"
            file.write(
                json.dumps({"prompt": "?", "completion": said, "columns": {"answer": n - n % 2}}) + "\n"
            )
    asked = ("rewards", "score", "--grader", '{"type": "numeric"}', "--items", items, "--out", out)
    summary = shell.json(*asked)
    assert summary["outcomes"] == {"scored": 200, "invalid": 100, "error": 0, "timeout": 0}
    assert summary["mean_value"] == pytest.approx(1 / 3) and summary["excluded"] == 0
    values = [json.loads(line)["value"] for line in out.read_text().splitlines()]
    assert values == [float(n % 3 != 0 and n % 2 == 0) for n in range(300)]
    with shell.on_a_terminal(*asked) as (process, terminal):
        assert "300/300" in read_until(terminal, None)
        assert process.stdout and "invalid" in process.stdout.read()


def test_a_run_and_its_checkpoint(shell: Shell, checkpoint: str, stack: Stack, tmp_path: Path) -> None:
    run = checkpoint.removeprefix("tinker://").partition("/")[0]
    assert run in [one["training_run_id"] for one in shell.json("runs", "list")]
    assert run in shell.run("runs", "list").stdout
    assert shell.json("runs", "show", run)["lora_rank"] == 4
    for listed in (
        ("runs", "checkpoints", run),
        ("checkpoints", "list", "--run", run),
        ("checkpoints", "list"),
    ):
        assert checkpoint in [one["tinker_path"] for one in shell.json(*listed)]
        assert checkpoint in shell.run(*listed).stdout
    assert shell.json("checkpoints", "show", checkpoint)["base_model"] == stack.base_model

    assert shell.run("checkpoints", "publish", checkpoint).exit_code == 0
    assert shell.json("checkpoints", "show", checkpoint)["public"] is True
    shell.json("checkpoints", "unpublish", checkpoint)
    shell.json("checkpoints", "ttl", checkpoint, 7200)
    limited = shell.json("checkpoints", "show", checkpoint)
    assert (limited["public"], limited["expires_at"] is None) == (False, False)
    assert "never" in shell.run("checkpoints", "ttl", checkpoint, "none").stdout
    short = shell.run("checkpoints", "ttl", checkpoint, 5)
    assert short.exit_code == 1 and "3600" in short.stderr and short.stderr.count("\n") == 1

    files = shell.json("checkpoints", "download", checkpoint, tmp_path / "adapter")["files"]
    assert {Path(one["path"]).name for one in files} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert all(Path(one["path"]).stat().st_size == one["bytes"] for one in files)

    assert shell.json("checkpoints", "delete", checkpoint, "--yes") == {"deleted": checkpoint}
    assert shell.run("checkpoints", "show", checkpoint).exit_code == 1


def test_the_rollouts_of_a_run_become_a_dataset(shell: Shell, rekindled: ServiceClient, stack: Stack) -> None:
    training = rekindled.create_lora_training_client(stack.base_model, rank=4).result(WAIT)
    asked = ("runs", "rollouts", training.model_id, "--name", "cli/rollouts")
    early = shell.run(*asked)
    assert early.exit_code == 1 and early.stderr.count("\n") == 1 and "has sampled nothing" in early.stderr

    sampling = training.save_weights_and_get_sampling_client().result(WAIT)
    sampling.sample([5, 6, 7], 2, SamplingParams(max_tokens=3)).result(WAIT)
    shown = shell.run(*asked)
    assert shown.exit_code == 0 and "cli/rollouts@1" in shown.stdout
    rows = shell.json("datasets", "rows", "cli/rollouts@1")["rows"]
    assert [row["prompt_tokens"] for row in rows] == [[5, 6, 7]] * 2
    assert shell.json(*asked)["how"] == {"op": "rollouts", "run_id": training.model_id}
    shell.json("datasets", "delete", "cli/rollouts", "--yes")
