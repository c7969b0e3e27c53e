"""Runs that come and go leave nothing behind: the trial of `task soak`, shorter."""

from pathlib import Path

import pytest

from tests.soak.trial import soak
from tests.stack import running_stack

SHARE = 0.15
"""Of memory: so soon after the start the collectors of NATS and Python have not settled."""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_memory_disk_and_streams_are_as_before_after_many_runs(tiny_model_dir: Path, tmp_path: Path) -> None:
    with running_stack(tiny_model_dir, tmp_path / "data", ["--idle", "0"]) as stack:
        result = soak(stack, runs=40, warm=16)
    assert list(result.findings(SHARE)) == []
    assert result.end.facts > result.warm.facts, "something has happened"
