"""The subscriber in `docs/rl.md` needs nothing of ours, and hears facts as CloudEvents."""

import asyncio
import os
import re
import sys
from pathlib import Path

from events import catalog, facts, names
from events.bus import Bus
from tests.events.nats_process import NatsProcess

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "rl.md"


async def test_a_stock_subscriber_hears_each_fact_once(
    own_nats: NatsProcess, unique: str, tmp_path: Path
) -> None:
    """On a server where nobody else says anything: a subscriber hears all tenants."""
    bus = await Bus.connect(own_nats.url, name="test")
    await bus.ensure_shared_streams()
    (code,) = re.findall(r"```python\n(# subscriber.py.*?)```", GUIDE.read_text(), re.DOTALL)
    imported = set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE))
    assert imported == {"asyncio", "os", "nats", "cloudevents"}
    for number in (1, 2, 1, 3):
        fact = facts.make_fact(
            catalog.DATASET_UPLOADED,
            tenant=unique,
            service="data",
            subject=f"größe/{unique}",
            id=f"{unique}-{number}",
            data={"number": number},
        )
        await bus.append(names.fact_subject(unique, catalog.DATASET_UPLOADED), fact)
    script = tmp_path / "subscriber.py"
    script.write_text(code)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subscriber = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        script,
        cwd=tmp_path,
        env={**environment, "NATS_URL": own_nats.url, "PYTHONIOENCODING": "utf-8"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert subscriber.stdout is not None
    said: list[str] = []
    while len(said) < 3:
        line = (await subscriber.stdout.readline()).decode().strip()
        assert line.startswith("dev.rekindle."), line
        said += [line] if unique in line else []
    subscriber.kill()
    await subscriber.communicate()
    await bus.close()
    start = f"dev.rekindle.dataset.uploaded größe/{unique}"
    assert said == [f"{start} {{'number': {number}}}" for number in (1, 2, 3)]
