"""Starting and stopping the stack of the demo, with a stand-in command: what is read, and that it ends."""

import os
import stat
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from examples.text2sql import stack
from examples.text2sql.stack import StackError, running_stack


def command(folder: Path, body: str) -> Path:
    """An executable in place of `rekindle`."""
    script = folder / "rekindle"
    script.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{textwrap.dedent(body)}")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def test_the_stack_is_ready_at_the_url_it_prints_and_is_stopped_by_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    script = command(
        tmp_path,
        """
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
        data_dir = sys.argv[sys.argv.index("--data-dir") + 1]
        print("starting", flush=True)
        try:
            print("ready http://127.0.0.1:4711", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            with open(data_dir + "/stopped", "w") as file:
                file.write(" ".join(sys.argv[1:]))
        """,
    )
    monkeypatch.setattr(stack, "_rekindle", lambda: str(script))
    data_dir = tmp_path / "data"
    before = set(psutil.Process().children())
    with running_stack(None, "text2sql=/models/x", data_dir) as running:
        assert running.url == "http://127.0.0.1:4711"
        running.measure()
        ours = psutil.Process().memory_info().rss
        assert running.peak_rss_bytes > ours * 0.9
        started = set(psutil.Process().children()) - before
        assert len(started) == 1
    assert not any(child.is_running() for child in started)
    # Written on Ctrl-C alone.
    arguments = f"up --base-model text2sql=/models/x --data-dir {data_dir} --port 0"
    assert (data_dir / "stopped").read_text() == arguments


def test_a_stack_that_does_not_start_shows_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    script = command(tmp_path, 'print("no such model", file=sys.stderr); sys.exit(2)')
    monkeypatch.setattr(stack, "_rekindle", lambda: str(script))
    with pytest.raises(StackError, match="no such model"), running_stack(None, "x", tmp_path / "data"):
        pytest.fail("it was never ready")


def test_a_stack_that_hangs_before_it_is_ready_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = command(tmp_path, "signal.pause()")
    monkeypatch.setattr(stack, "_rekindle", lambda: str(script))
    monkeypatch.setattr(stack, "START_SECONDS", 0.5)
    with (
        pytest.raises(StackError, match="ended before it was ready"),
        running_stack(None, "x", tmp_path / "d"),
    ):
        pytest.fail("it was never ready")


def test_a_server_elsewhere_is_used_as_it_is(tmp_path: Path):
    data_dir = tmp_path / "data"
    with running_stack("http://example.invalid:80/", "x", data_dir) as running:
        assert running.url == "http://example.invalid:80"
    assert not data_dir.exists()


def test_an_earlier_demo_leaves_nothing_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = command(tmp_path, 'print("ready http://127.0.0.1:1", flush=True)')
    monkeypatch.setattr(stack, "_rekindle", lambda: str(script))
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "old").write_text("left")
    with running_stack(None, "x", data_dir):
        assert os.listdir(data_dir) == ["stack.log"]
