"""The command as a whole: quick, complete, documented, with errors in one line and no tracebacks."""

import io
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rekindle.cli import build, main, output, plugins
from rekindle.cli.connection import FIRST_CONTACT
from rekindle.cli.output import plain, shortened, size
from tests.sdk.cli_server import CliServer

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "cli.md"
HEAVY = (
    "httpx",
    "numpy",
    "pydantic_settings",
    "kubernetes",
    "rekindle.types",
    "services.local.supervisor",
    "torch",
)
GROUPS = ("datasets", "rewards", "run", "triggers", "runs", "checkpoints", "keys", "models")


def rekindle(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "rekindle.cli", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


def commands(command: Any, path: str = "rekindle") -> Iterator[tuple[str, Any]]:
    """Every command below with what one types for it."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    yield path, command
    for name, one in command.commands.items():
        entry = plugins.load(name) if path == "rekindle" else None
        yield from commands(entry or one, f"{path} {name}")


def options(command: Any) -> list[str]:
    return [name for one in command.params for name in one.opts if name.startswith("--") and name != "--help"]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


# ---- Start ----


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = "import sys, rekindle.cli; sys.argv = ['rekindle', '--help']; rekindle.cli.main()"
    watched = (
        f"import atexit, sys; atexit.register(lambda: print('LOADED', set(sys.modules) & set({HEAVY!r})))"
    )

    def once() -> float:
        """Seconds of the processor: those of the clock depend on who else is at work."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", f"{watched}; {code}"], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0 and "LOADED set()" in done.stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(once() for _ in range(5)) < 0.4


@pytest.mark.parametrize(
    "group", [one for one in GROUPS if one not in ("keys", "models")]
)  # they ask no server
def test_help_of_a_group_names_its_options_and_variables(group: str) -> None:
    said = CliRunner().invoke(build(), [group, "--help"], env={"COLUMNS": "120"}).output
    assert all(name in said for name in ("--base-url", "REKINDLE_BASE_URL", "--api-key", "REKINDLE_API_KEY"))


def test_plugins_are_listed_with_what_they_do_and_found_by_their_options() -> None:
    listed = CliRunner().invoke(build(), ["--help"], env={"COLUMNS": "120"}).output
    assert "Run the whole stack on this machine until Ctrl-C." in listed
    told = CliRunner().invoke(build(), ["ps", "--help"], env={"COLUMNS": "120"}).output
    assert "--data-dir" in told


def test_a_plugin_whose_code_is_missing_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("up", "nowhere_at_all.cli:up", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry])
    assert "Needs the server side." in CliRunner().invoke(build(), ["--help"]).output
    done = CliRunner().invoke(build(), ["up", "--port", "0"])
    assert done.exit_code == 2 and not done.stdout
    assert done.stderr.startswith("rekindle up: needs the server side") and "nowhere_at_all" in done.stderr


def test_what_a_plugin_raises_is_a_bug_and_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(EntryPoint, "load", lambda _: broken)
    with pytest.raises(KeyError, match="a bug"):
        CliRunner().invoke(build(), ["ps"], catch_exceptions=False)


# ---- Completion ----


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("rekindle ", {*GROUPS, "deploy", "status", "up", "ps", "events"}),
        ("rekindle data", {"datasets"}),
        ("rekindle datasets d", {"dedupe", "download", "delete"}),
        ("rekindle datasets upload --f", {"--format"}),
        ("rekindle datasets upload --format ", {"jsonl", "csv", "parquet"}),
        ("rekindle checkpoints un", {"unpublish"}),
        ("rekindle ps --data", {"--data-dir"}),
    ],
)
def test_the_shell_completes_commands_options_and_values(typed: str, expected: set[str]) -> None:
    words = typed.split(" ")
    done = rekindle(
        _REKINDLE_COMPLETE="complete_bash", COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1)
    )
    assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_the_shell_is_for_this_command(shell: str) -> None:
    done = rekindle("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0 and "_REKINDLE_COMPLETE" in done.stdout


# ---- Errors ----


@pytest.mark.parametrize("command", [["datasets", "list"], ["runs", "list"], ["rewards", "graders"]])
def test_a_server_that_is_not_there_is_one_line_and_soon(closed_port: int, command: list[str]) -> None:
    url = f"http://127.0.0.1:{closed_port}"
    started = time.monotonic()
    done = rekindle(*command, REKINDLE_BASE_URL=url)
    assert time.monotonic() - started < FIRST_CONTACT + 15, "the SDK itself would try for 30 s"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"rekindle {' '.join(command)}: {url}: ") and done.stderr.count("\n") == 1


def test_the_option_wins_over_the_variable(closed_port: int) -> None:
    url = f"http://127.0.0.1:{closed_port}"
    done = rekindle("runs", "--base-url", url, "list", REKINDLE_BASE_URL="http://127.0.0.1:1")
    assert url in done.stderr


def test_the_key_is_sent_and_a_refused_one_is_one_line(
    cli: CliServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.run("runs", "--api-key", "tml-mine", "list").exit_code == 0
    assert cli.run("runs", "list", env={"REKINDLE_API_KEY": "tml-other"}).exit_code == 0
    assert [one.headers["x-api-key"] for one in cli.asked] == ["tml-mine", "tml-other"]
    refused = cli.run("runs", "show", "nobody", env={"REKINDLE_API_KEY": "tml-other"})
    assert refused.exit_code == 1 and refused.stderr.count("\n") == 1


@pytest.mark.parametrize("url", ["nonsense", "ftp://host", "http://", "http://["])
def test_an_address_that_is_none_is_a_usage_error(url: str) -> None:
    done = rekindle("runs", "--base-url", url, "list")
    assert done.returncode == 2 and "--base-url" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["datasets", "nonsense"], ["datasets", "upload"], ["datasets", "upload", "/not/there"], ["x"]],
)
def test_wrong_usage_ends_with_two(arguments: list[str]) -> None:
    done = CliRunner().invoke(build(), arguments)
    assert done.exit_code == 2 and not done.stdout and "Usage" in done.stderr


def test_a_closed_pipe_ends_in_silence(cli: CliServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(typer, "echo", broken)
    done = cli.run("datasets", "list", "--json")
    assert done.exit_code == 1 and not done.stderr


def test_a_terminal_without_unicode_shows_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    monkeypatch.setattr("rekindle.cli.build", lambda: lambda **_: output.print_fields([("rank", None)]))
    main()
    assert rb"\u2013" in shown.getvalue()


# ---- Words ----


def test_sizes_have_a_fitting_unit() -> None:
    assert [size(count) for count in (None, 0, 1023, 1024, 3 * 2**20, 2**50)] == [
        "–",
        "0 bytes",
        "1023 bytes",
        "1.0 KiB",
        "3.0 MiB",
        "1024.0 TiB",
    ]


def test_control_characters_are_shown_and_other_scripts_stay() -> None:
    assert plain("größe 表\n\t\x07\u2028") == "größe 表\\n\\t\\x07\\u2028"
    assert shortened("abcdef", 4) == "abc…" and shortened("abcd", 4) == "abcd"


# ---- Documentation ----


def test_every_command_and_every_option_is_documented() -> None:
    sections = _sections()
    missing = []
    for path, command in commands(typer.main.get_command(build())):
        if path not in sections:
            missing.append(path)
            continue
        told = re.findall(r"--[a-z][a-z-]*", sections[path])
        missing += [f"{path} {name}" for name in options(command) if name not in told]
    assert not missing


def test_nothing_is_documented_that_does_not_exist() -> None:
    known = dict(commands(typer.main.get_command(build())))
    for path, text in _sections().items():
        assert path in known
        said = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text.partition("\n\n")[0]))
        assert said <= set(options(known[path])), path


def _sections() -> dict[str, str]:
    """What the document says of each command: its usage, and the text up to the next one."""
    parts = re.split(r"^#+ `(rekindle[a-z ]*)`$", DOCUMENT.read_text(), flags=re.M)[1:]
    return {name: text.strip() for name, text in zip(parts[::2], parts[1::2], strict=True)}
