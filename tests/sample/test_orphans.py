"""A child that watches its parent does not outlive it."""

import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
from services.sample.orphans import end_with_parent
end_with_parent()
print("watching", flush=True)
input()
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def test_a_child_ends_with_a_parent_that_is_killed():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None and parent.stdout.readline() == "watching\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
        _, alive = psutil.wait_procs([child], timeout=60)
        for survivor in alive:
            survivor.kill()
        assert not alive
