"""`rekindle up`, `rekindle ps` and `rekindle events`: the whole stack on this machine."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import psutil
import typer
from cloudevents.core.v1.event import CloudEvent
from rich.console import Console
from rich.table import Table

from events import envelope, logs
from events.bus import Bus
from events.catalog import PREFIX
from events.keys import Keyring
from events.settings import LOOPBACK
from services.local import nats_server
from services.local.keeper import StackFailed
from services.local.stack import BaseModelChoice, StackOptions, listen, state_path
from services.local.supervisor import DataDirInUse, Supervisor, lock

Engine = Literal["torch", "vllm"]
DataDir = Annotated[Path, typer.Option(help="Folder that holds everything: NATS streams, weights, logs.")]


def up(
    base_model: Annotated[
        list[str],
        typer.Option(help="Base model to serve, [NAME=]FOLDER_OR_HUB_ID; give it several times for more."),
    ],
    data_dir: DataDir,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the gateway; 0 takes a free one.")
    ] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to serve; other than loopback needs --api-key.")
    ] = "127.0.0.1",
    engine: Annotated[Engine, typer.Option(help="What samples; vllm has to be installed beside.")] = "torch",
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="REKINDLE_API_KEY", help="Admit this key (tml-…) and no others."),
    ] = None,
    keys_file: Annotated[
        Path | None,
        typer.Option(
            envvar="REKINDLE_KEYS_FILE",
            exists=True,
            dir_okay=False,
            help="Admit the keys in this file, each as its tenant; `rekindle keys` writes it.",
        ),
    ] = None,
    idle: Annotated[
        float, typer.Option(min=0, help="Seconds after which a service that nobody needs ends; 0 = never.")
    ] = 60.0,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Weights and tokens bit for bit the same however often processes die; slower, torch engine only.",
        ),
    ] = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="Keep no process ready to become a service: start each anew.")
    ] = False,
) -> None:
    """Run the whole stack on this machine until Ctrl-C. Services start when they are needed."""
    keys = api_key or []
    if host not in LOOPBACK and not keys and keys_file is None:
        raise typer.BadParameter(
            "an address other than loopback needs at least one --api-key, or --keys-file", param_hint="--host"
        )
    if keys_file is not None:
        try:
            Keyring([], keys_file)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--keys-file") from error
    if any(not key.startswith("tml-") or len(key) < 8 for key in keys):
        raise typer.BadParameter("keys start with tml- and have 8 characters or more", param_hint="--api-key")
    if deterministic and engine != "torch":
        raise typer.BadParameter(
            f"the {engine} engine cannot promise it; leave it out or use --engine torch",
            param_hint="--deterministic",
        )
    if engine == "vllm" and find_spec("vllm") is None:
        raise typer.BadParameter("vllm is not installed in this environment", param_hint="--engine")
    try:
        choices = [BaseModelChoice.parse(argument) for argument in base_model]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--base-model") from error
    if len({choice.name for choice in choices}) < len(choices):
        raise typer.BadParameter("two models have the same name", param_hint="--base-model")
    logs.configure("supervisor")
    try:
        with lock(data_dir), listen(host, port) as held:
            bound = held.getsockname()[1]
            options = StackOptions(
                choices,
                data_dir.absolute(),
                host,
                held,
                keys,
                keys_file.absolute() if keys_file else None,
                os.environ.get("NATS_URL"),
                engine,
                idle_seconds=idle,
                warm=not cold,
                deterministic=deterministic,
            )
            shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
            asyncio.run(_run(options, f"http://{shown}:{bound}"))
    except (DataDirInUse, StackFailed, OSError) as error:
        typer.echo(f"rekindle up: {error}", err=True)
        raise typer.Exit(1) from error


async def _run(options: StackOptions, url: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)

    def ready() -> None:
        sys.stdout.write(f"ready {url}\n")
        sys.stdout.flush()

    await Supervisor(options).run(ready, stop)


def ps(
    data_dir: DataDir,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the processes of the stack on a data folder."""
    rows = _rows(data_dir)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("service", "base model", "replica", "pid", "state", "activations", "memory")
    for row in rows:
        rss = row["rss_bytes"]
        memory = f"{rss / 2**20:.0f} MiB" if isinstance(rss, int) else "–"
        cells = [row[key] for key in ("service", "base_model", "replica", "pid", "state", "activations")]
        table.add_row(*("–" if cell is None else str(cell) for cell in cells), memory)
    Console().print(table)


def events(
    data_dir: DataDir,
    run: Annotated[str | None, typer.Option(help="Only about this run, dataset or sampler.")] = None,
    type_: Annotated[
        str | None, typer.Option("--type", help="Only of this type, e.g. step.applied; a prefix will do.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each as a structured CloudEvent on a line of its own.")
    ] = False,
) -> None:
    """Print the facts of the stack on a data folder as they happen, until Ctrl-C."""
    url = os.environ.get("NATS_URL") or nats_server.address(data_dir).url
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_follow(url, run, (type_ or "").removeprefix(PREFIX), as_json))


async def _follow(url: str, run: str | None, type_: str, as_json: bool) -> None:
    bus = await Bus.connect(url, name="events")
    try:
        async for fact in bus.follow("facts.>"):
            kind = fact.get_type().removeprefix(PREFIX)
            if kind.startswith(type_) and run in (None, fact.get_subject()):
                line = envelope.to_json(fact).decode() if as_json else _line(fact, kind)
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
    finally:
        await bus.close()


def _line(fact: CloudEvent, kind: str) -> str:
    """A fact for people; large data stays away."""
    said = envelope.data_of(fact).decode(errors="replace")
    at = fact.get_time()
    shown = said if len(said) <= 160 else said[:160] + "…"
    return f"{at.astimezone():%H:%M:%S}  {kind:20} {fact.get_subject()}  {shown}" if at else f"{kind} {shown}"


def _rows(data_dir: Path) -> list[dict[str, object]]:
    """Rows of the running stack with their memory; none when nothing runs."""
    try:
        rows: list[dict[str, object]] = json.loads(state_path(data_dir).read_text())
        lock(data_dir).close()
        return []  # left behind by a supervisor that was killed
    except FileNotFoundError:
        return []
    except DataDirInUse:
        for row in rows:
            row["rss_bytes"] = _memory(row["pid"])
        return rows


def _memory(pid: object) -> int | None:
    """Resident bytes of a process, None when it has just ended."""
    try:
        rss: int | None = psutil.Process(pid).memory_info().rss if isinstance(pid, int) else None
        return rss
    except psutil.NoSuchProcess:
        return None
