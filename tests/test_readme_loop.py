"""The loop of the README runs as it stands there, but for the server's address and the model's name."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests import ending
from tests.stack import Stack

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_loop_of_the_readme_runs(stack: Stack, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    for said, here in {"http://127.0.0.1:8000": stack.url, "Qwen/Qwen3-0.6B": stack.base_model}.items():
        assert said in code
        code = code.replace(said, here)
    (tmp_path / "loop.py").write_text(code)
    command = [sys.executable, "-P", ending.__file__, "loop"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stdout.splitlines() if "loss:sum" in line]
    assert [line.split()[0] for line in steps] == ["0", "1", "2"]
