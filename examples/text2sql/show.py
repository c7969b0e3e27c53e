"""What a person sees: live progress with the events of a step, and a table at the end.

Two writers, one screen: the loop reports steps, a background thread reads the stack's event stream. Without a
terminal each step is one line. Knows nothing of how rewards or events come about.
"""

import asyncio
import json
import threading
from collections import Counter, deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SHOWN_EVENTS = 8
EVENT_PREFIX = "dev.rekindle."
CONNECT_SECONDS = 5.0

Metrics = Mapping[str, float | int | None]


class EventFeed:
    """The last events of `GET /api/v1/events` (server-sent, one CloudEvent a `data:` line), read in a thread."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self.total = 0
        self.note = ""
        self._lock = threading.Lock()
        self._kinds: Counter[str] = Counter()
        self._latest: deque[tuple[str, int]] = deque(maxlen=SHOWN_EVENTS)
        self._url = f"{base_url}/api/v1/events"
        self._headers = {"X-API-Key": api_key}
        self._loop = asyncio.new_event_loop()
        self._reading = self._loop.create_task(self._read())
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close the connection, if it is still open, and wait for the thread; to be called once after `start`."""
        self._loop.call_soon_threadsafe(self._reading.cancel)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        # Unlike awaiting the task itself, this does not raise when it is cancelled.
        self._loop.run_until_complete(asyncio.wait([self._reading]))

    async def _read(self) -> None:
        timeout = httpx.Timeout(CONNECT_SECONDS, read=None)
        try:
            async with (
                httpx.AsyncClient(timeout=timeout, headers=self._headers) as client,
                client.stream("GET", self._url) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    self.note = f"no events: {self._url} answered {response.status_code}"
                    return
                async for line in response.aiter_lines():
                    if line.startswith("data:"):
                        self._take(line.removeprefix("data:").strip())
        except httpx.HTTPError as error:
            # The run is worth more than its commentary.
            self.note = f"no more events: {error or type(error).__name__}"

    def _take(self, data: str) -> None:
        event: dict[str, Any] = json.loads(data)
        kind = str(event.get("type", "?")).removeprefix(EVENT_PREFIX)
        line = f"{kind:<20} {event.get('source', '')}  {event.get('subject', '')}"
        with self._lock:
            self.total += 1
            self._kinds[kind] += 1
            # A batch of samples is one line with a count, or it would push everything else off the screen.
            repeated = bool(self._latest) and self._latest[-1][0] == line
            count = self._latest.pop()[1] if repeated else 0
            self._latest.append((line, count + 1))

    def take_kinds(self) -> str:
        """What has passed since the last call: "sample.completed × 16, step.applied"."""
        with self._lock:
            kinds, self._kinds = self._kinds, Counter()
        return ", ".join(f"{kind} × {count}" if count > 1 else kind for kind, count in kinds.items())

    @property
    def lines(self) -> list[str]:
        """The latest events, oldest first."""
        with self._lock:
            return [f"{line}  × {count}" if count > 1 else line for line, count in self._latest]


class Show:
    """The screen of one run: `with Show(...) as show:` and `show.step(metrics)` after each step."""

    def __init__(self, base_url: str, api_key: str, steps: int) -> None:
        self.console = Console()
        self._steps = steps
        self._rows: deque[Metrics] = deque(maxlen=8)
        self._feed = EventFeed(base_url, api_key)
        self._live = Live(
            get_renderable=self._render, console=self.console, refresh_per_second=8, transient=True
        )

    def __enter__(self) -> Self:
        self._feed.start()
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self._feed.stop()
        self.console.print(self._feed.note or f"{self._feed.total} events passed")

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def step(self, metrics: Metrics) -> None:
        """Show the metrics of one step; without a terminal as one line, with the events of the step."""
        self._rows.append(metrics)
        if not self.console.is_terminal:
            figures = "  ".join(f"{name} {_text(value)}" for name, value in metrics.items())
            self.say(f"{figures} | {self._feed.take_kinds()}")

    def _render(self) -> Group:
        done = int(self._rows[-1]["step"] or 0) if self._rows else 0
        table = Table(box=None, padding=(0, 2))
        for name in self._rows[-1] if self._rows else ():
            table.add_column(name, justify="right")
        for row in self._rows:
            table.add_row(*(_text(value) for value in row.values()))
        events = [Text(line, style="dim", no_wrap=True) for line in self._feed.lines]
        note = Text(self._feed.note or f"events ({self._feed.total})", style="bold")
        return Group(ProgressBar(total=self._steps, completed=done, width=60), table, note, *events)


def _text(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def show_result(console: Console, result: Mapping[str, Any]) -> None:
    """The table at the end: greedy execution match, base model against after RL."""
    table = Table(title=f"execution match, greedy (seed {result['seed']}, {result['rewards']} rewards)")
    for column in ("", "base", "after RL"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row(
        f"{result['questions']} held-out questions", *map(_percent, (result["before"], result["after"]))
    )
    unseen = result["heldout_schema"]
    table.add_row("held-out schema (not counted)", _percent(unseen["before"]), _percent(unseen["after"]))
    console.print(table)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"
