"""A loop under fire ends in the very bits of an undisturbed one."""

from pathlib import Path

import pytest

from tests.chaos.trial import try_loop
from tests.e2e.conftest import forgiven

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
STEPS = 15


def test_a_loop_whose_processes_are_killed_at_random_ends_in_the_same_bits(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    with forgiven():
        trial = try_loop(tiny_model_dir, tmp_path, steps=STEPS, kills=12, seed=0)
    assert trial.findings == []
    assert len(trial.hurt.losses) == STEPS
    assert len(trial.kills) >= 4, "the loop was hurt"
    assert any(kill.in_hand for kill in trial.kills), "and hit while it worked"
