"""Runs the code of a page of `docs/` as a reader would, but for the model's name."""

import os
import subprocess
import sys
from pathlib import Path

from tests.stack import Stack

MODEL = "Qwen/Qwen3-0.6B"


def run_guide(code: str, stack: Stack, folder: Path) -> str:
    """What the code prints, run in `folder` against a stack; warnings are errors."""
    assert code.count(MODEL) == 1, "the page names its model once"
    script = folder / "guide.py"
    script.write_text(code.replace(MODEL, stack.base_model))
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=folder,
        env={**os.environ, "REKINDLE_BASE_URL": stack.url, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
