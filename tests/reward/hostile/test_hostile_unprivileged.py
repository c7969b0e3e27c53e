"""The same attacks where service and guests are one user without privileges, so that no change of user helps."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.reward.sandbox.confine import _open_to_all
from tests.reward.hostile.attack import Attack
from tests.reward.hostile.attacks import ATTACKS

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the attacks have run as a user without privileges already"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (Debian: util-linux)"),
]

ROOT = Path(__file__).resolve().parents[3]
USER = 12_345
READING = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
"""For an interpreter in a folder that is closed to other users. Guests keep it, and Landlock holds them still."""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    if not all(map(_open_to_all, (sys.prefix, sys.base_prefix, str(ROOT)))):
        become += READING
    done = subprocess.run(
        [*become, sys.executable, "-m", "tests.reward.hostile.unprivileged"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_they_run_as_a_user_without_privileges_and_honest_programs_beside_them(found: dict[str, Any]):
    assert found["user"] == USER and found["honest"]


@pytest.mark.parametrize(
    "attack", [one for one in ATTACKS if one.possible], ids=[one.name for one in ATTACKS if one.possible]
)
def test_no_attack_earns_a_reward_or_gets_what_it_wants_here_either(attack: Attack, found: dict[str, Any]):
    result = found["attacks"][attack.name]
    assert result["outcome"] in attack.outcome.split(" or ") and not result["got"], result
    assert re.search(attack.says, result["reason"]), result


def test_what_only_another_process_of_the_same_user_could_do_is_stopped_by_one_layer(found: dict[str, Any]):
    assert found["switched"] and all(one == [False, True] for one in found["switched"].values()), found
