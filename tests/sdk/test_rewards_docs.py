"""The walk from a function to a reward in use in `docs/rewards.md` runs as it stands, but for the model's name."""

import os
import re
import subprocess
import sys
from pathlib import Path

from services.reward import versions
from services.reward.sandbox import MECHANISMS
from tests.stack import Stack

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "rewards.md"
MODEL = "Qwen/Qwen3-0.6B"


def test_the_guide_runs_from_top_to_bottom(stack: Stack, tmp_path: Path) -> None:
    function, *blocks = re.findall(r"```python\n(.*?)\n```\n", GUIDE.read_text(), re.DOTALL)
    code = "\n".join(blocks)
    assert function.startswith("# brevity.py") and code.count(MODEL) == 1
    (tmp_path / "brevity.py").write_text(function)
    script = tmp_path / "guide.py"
    script.write_text(code.replace(MODEL, stack.base_model))
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=tmp_path,
        env={**os.environ, "REKINDLE_BASE_URL": stack.url, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    for said in (
        "[1.0, 0.2]",
        "[1.0, 1.0]",
        "scored 1.0 None function-1+",
        "step 1 reward",
        "scored 0.6666666666666666 test 3 of 3: AssertionError (line 1)",
        "invalid 0.0 test 1 of 3: the program has ended",
        "scored 0.0 test 1 of 3: AssertionError (line 1)",
    ):
        assert said in done.stdout, done.stdout


def rows(section: str) -> list[str]:
    """The first cells of a section's tables."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return [cell for cell in re.findall(r"^\| (.+?) \|", text, re.MULTILINE) if cell not in ("type", "layer")]


def test_its_tables_name_every_grader_and_every_layer() -> None:
    assert [name.strip("`") for name in rows("Graders")] == list(versions.SPECS)
    assert rows("The sandbox") == list(MECHANISMS)
