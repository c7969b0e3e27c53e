"""The event feed against a real HTTP server, and the files that a run leaves."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from examples.text2sql.record import Record
from examples.text2sql.show import EventFeed, Show, show_result

EVENTS = [
    {"type": "dev.rekindle.sample.completed", "subject": "run-1", "source": "/rekindle/local/sample"},
    {"type": "dev.rekindle.sample.completed", "subject": "run-1", "source": "/rekindle/local/sample"},
    {"type": "dev.rekindle.step.applied", "subject": "run-1", "source": "/rekindle/local/train"},
]
DEADLINE = 10.0


@contextmanager
def server(status: int, hold: threading.Event) -> Iterator[str]:
    """A server whose event stream sends `EVENTS` and then stays open until `hold` is set."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            if status == 200:
                for event in EVENTS:
                    self.wfile.write(f": comment\nid: 1\ndata: {json.dumps(event)}\n\n".encode())
                hold.wait(DEADLINE)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        hold.set()
        running.shutdown()
        thread.join()
        running.server_close()


def test_the_feed_shows_events_as_they_pass_counts_repeats_and_stops_while_the_stream_is_open(
    monkeypatch: pytest.MonkeyPatch,
):
    arrived = threading.Event()
    take = EventFeed._take

    def taking(feed: EventFeed, data: str) -> None:
        take(feed, data)
        if feed.total == len(EVENTS):
            arrived.set()

    monkeypatch.setattr(EventFeed, "_take", taking)
    with server(200, threading.Event()) as url:
        feed = EventFeed(url, "tml-local")
        feed.start()
        assert arrived.wait(DEADLINE)
        feed.stop()
    assert [line.split() for line in feed.lines] == [
        ["sample.completed", "/rekindle/local/sample", "run-1", "×", "2"],
        ["step.applied", "/rekindle/local/train", "run-1"],
    ]
    assert feed.take_kinds() == "sample.completed × 2, step.applied"
    assert feed.take_kinds() == "" and feed.note == ""


def test_a_server_without_events_is_tolerated_and_named():
    with server(404, threading.Event()) as url, Show(url, "tml-local", steps=1) as show:
        show._feed._thread.join(DEADLINE)
        assert show._feed.note == f"no events: {url}/api/v1/events answered 404"
        show.step({"step": 1, "reward": 0.5, "match": 0.25, "heldout": None, "tokens_per_second": 900})


def test_a_server_that_is_gone_ends_the_feed_and_nothing_else():
    with server(404, threading.Event()) as url:
        pass
    feed = EventFeed(url, "tml-local")
    feed.start()
    feed._thread.join(DEADLINE)
    feed.stop()
    assert feed.note.startswith("no more events")


def test_a_record_leaves_metrics_result_and_curve(tmp_path: Path):
    record = Record(tmp_path)
    record.start(match=0.4, heldout=0.42)
    record.step(reward=0.5, match=0.45, heldout=None, tokens=1000)
    record.step(reward=0.6, match=0.55, heldout=0.5, tokens=500)
    record.finish({"seed": 0, "rewards": "true"})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert [line["heldout"] for line in lines] == [0.42, None, 0.5]
    assert record.tokens == 1500 and record.tokens_per_second > 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "result.json").read_text()) == {"seed": 0, "rewards": "true"}


def test_ids_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]):
    text = "session:train:0 [bold] of a name that is longer than a line " + "x" * 80
    with Show("http://127.0.0.1:1", "tml-local", steps=1) as show:
        show.say(text)
    assert text in capsys.readouterr().out


def test_the_table_shows_base_and_after_in_percent_and_a_dash_for_what_was_not_asked():
    console = Console(record=True, width=80)
    figures = {"seed": 0, "rewards": "true", "questions": 256, "before": 0.4219, "after": 0.99}
    show_result(console, {**figures, "heldout_schema": {"before": None, "after": None}})
    text = console.export_text()
    assert "42.2 %" in text and "99.0 %" in text and text.count(" - ") == 2
