"""A loop under fire ends in the very bits of an undisturbed one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "tests.chaos.trial", "--steps", "15", "--kills", "12", "--seed", "0"]


def test_a_loop_whose_processes_are_killed_at_random_ends_in_the_same_bits() -> None:
    """In a process of its own, as a person runs it; the SDK leaves connections to the garbage collector."""
    done = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = re.search(r"^kills survived: (\d+)", done.stdout, re.MULTILINE)
    assert kills is not None and int(kills[1]) >= 4, f"the loop was hurt:\n{done.stdout}"
    in_hand = re.search(r"in hand: (\d+)", done.stdout)
    assert in_hand is not None and int(in_hand[1]) >= 1, f"and hit while it worked:\n{done.stdout}"
    assert "bit for bit" in done.stdout
