"""A module run by `tests.ending` ends with the status and the output that it would have had."""

import subprocess
import sys
from pathlib import Path

import pytest

ENDING = Path(__file__).parent / "ending.py"


@pytest.mark.parametrize(
    ("body", "status", "printed"),
    [
        ("print('done')", 0, "done\n"),
        ("import sys; print('half'); sys.exit(3)", 3, "half\n"),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit('a reason')", 1, "a reason\n"),
        ("import sys; print(sys.argv[1:])", 0, "['a', '-b']\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
    ],
)
def test_status_and_output_are_kept(body: str, status: int, printed: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(body)
    done = subprocess.run(
        [sys.executable, "-P", str(ENDING), "program", "a", "-b"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status
    assert (done.stdout + done.stderr).endswith(printed)
