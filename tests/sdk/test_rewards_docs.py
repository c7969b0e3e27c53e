"""The walk from a function to a reward in use in `docs/rewards.md` runs as it stands, but for the model's name."""

import re
from pathlib import Path

from services.reward import versions
from services.reward.sandbox import MECHANISMS
from tests.sdk.guide import run_guide
from tests.stack import Stack

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "rewards.md"


def test_the_guide_runs_from_top_to_bottom(stack: Stack, tmp_path: Path) -> None:
    function, *blocks = re.findall(r"```python\n(.*?)\n```\n", GUIDE.read_text(), re.DOTALL)
    code = "\n".join(blocks)
    assert function.startswith("# brevity.py")
    (tmp_path / "brevity.py").write_text(function)
    printed = run_guide(code, stack, tmp_path)
    for said in (
        "[1.0, 0.2]",
        "[1.0, 1.0]",
        "scored 1.0 None function-1+",
        "step 1 reward",
        "scored 0.6666666666666666 test 3 of 3: AssertionError (line 1)",
        "invalid 0.0 test 1 of 3: the program has ended",
        "scored 0.0 test 1 of 3: AssertionError (line 1)",
    ):
        assert said in printed, printed


def rows(section: str) -> list[str]:
    """The first cells of a section's tables."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return [cell for cell in re.findall(r"^\| (.+?) \|", text, re.MULTILINE) if cell not in ("type", "layer")]


def test_its_tables_name_every_grader_and_every_layer() -> None:
    assert [name.strip("`") for name in rows("Graders")] == list(versions.SPECS)
    assert rows("The sandbox") == list(MECHANISMS)
