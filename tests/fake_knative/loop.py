"""The chaos tests' RL loop as a process of its own: `python -m tests.fake_knative.loop URL KEY MODEL FOLDER LEAST`.

Goes on for at least LEAST steps, and until FOLDER/enough exists; its trace is written to FOLDER/trace.json. While
FOLDER/paused exists it rests between two steps.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

from tests.chaos import rl_loop
from tests.ending import leave


def main() -> None:
    url, key, model, folder, least = sys.argv[1:]
    out = Path(folder)
    rl_loop.API_KEY = key

    def say(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def go_on(step: int) -> bool:
        say(f"rest {step}")
        while (out / "paused").exists():
            time.sleep(0.02)
        say(f"step {step}")
        return step < int(least) or not (out / "enough").exists()

    trace = rl_loop.run_loop(url, model, out / "adapter", go_on, lambda _: None)
    (out / "trace.json").write_text(json.dumps(dataclasses.asdict(trace)))
    leave(0)


if __name__ == "__main__":
    main()
