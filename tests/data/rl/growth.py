"""How much is kept of an RL run while it goes on: `python -m tests.data.rl.growth [--steps 300] [--every 50]`.

Of streams, bytes of what they hold; of the blob store, bytes of its files but the datasets'. Facts and rows of metrics
may grow with the steps, everything else must not.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from events.bus import Bus
from tests.data.rl.rl_rig import Rig, opened, spec
from tests.tiny_model import make_tiny_model

GROWING = ("FACTS", "RL")
"""Streams that people look at: facts of seven days, and a row of metrics for each step."""

QUICK = {"REKINDLE_SNAPSHOT_SECONDS": "5", "REKINDLE_DETERMINISTIC": "false"}


def kept(rig: Rig) -> dict[str, int]:
    """Bytes by stream, and of files as `blobs`."""
    return asyncio.run(_streams(rig.nats_url)) | {"blobs": _files(rig.blobs)}


async def _streams(url: str) -> dict[str, int]:
    bus = await Bus.connect(url, name="growth")
    try:
        return {str(one.config.name): one.state.bytes for one in await bus.js.streams_info()}
    finally:
        await bus.close()


def _files(root: Path) -> int:
    sizes = 0
    for folder, folders, files in os.walk(root):
        if "datasets" in folders:
            folders.remove("datasets")
        for file in files:
            try:
                sizes += Path(folder, file).stat().st_size
            except FileNotFoundError:  # it has just gone
                continue
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tiny_model(folder / "model")
        with opened(folder, folder / "model", **QUICK) as rig:
            sampling = {"max_tokens": 16, "stop": []}
            wanted = spec(rig.dataset(), steps=options.steps, sampling=sampling, max_staleness=1)
            run = rig.start(wanted)["id"]
            for step in range(options.every, options.steps, options.every):
                rig.until(run, lambda info, step=step: info["step"] >= step, 600.0)
                found = kept(rig)
                rest = sum(size for part, size in found.items() if part not in GROWING)
                said = "  ".join(f"{part} {size / 1024:.0f}" for part, size in found.items() if size)
                sys.stdout.write(f"step {step}: {rest / 1024:.0f} KiB and what grows  ({said})\n")
            rig.http.delete(f"rl_runs/{run}")


if __name__ == "__main__":
    main()
