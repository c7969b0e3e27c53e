"""The chaos tests' RL loop as a process of its own: `python -m tests.fake_knative.loop URL KEY MODEL FOLDER LEAST`.

Goes on for at least LEAST steps, and until FOLDER/enough exists; its trace is written to FOLDER/trace.json.
"""

import dataclasses
import json
import sys
from pathlib import Path

from tests.chaos import rl_loop
from tests.ending import leave


def main() -> None:
    url, key, model, folder, least = sys.argv[1:]
    out = Path(folder)
    rl_loop.API_KEY = key

    def go_on(step: int) -> bool:
        sys.stdout.write(f"step {step}\n")
        sys.stdout.flush()
        return step < int(least) or not (out / "enough").exists()

    trace = rl_loop.run_loop(url, model, out / "adapter", go_on, lambda _: None)
    (out / "trace.json").write_text(json.dumps(dataclasses.asdict(trace)))
    leave(0)


if __name__ == "__main__":
    main()
