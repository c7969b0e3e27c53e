"""The loop of the README runs as it stands there, but for the server's address and the model's name."""

import re
from pathlib import Path

from tests.stack import Stack

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_loop_of_the_readme_runs_and_changes_the_weights(stack: Stack, capsys) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert "http://127.0.0.1:8000" in code
    assert "Qwen/Qwen3-0.6B" in code
    code = code.replace("http://127.0.0.1:8000", stack.url).replace("Qwen/Qwen3-0.6B", stack.base_model)
    scope: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), scope)
    lines = [line for line in capsys.readouterr().out.splitlines() if "loss:sum" in line]
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]
