"""What `docs/rl.md` says of a spec is what a spec is, and its examples are right."""

import inspect
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import rekindle
from rekindle.types.rl import Algorithm, RlRunSpec, TriggerSpec, read_yaml
from services.data.rl.triggers import PAUSES
from tests.sdk.rl_server import RlServer

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "rl.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def inner(annotation: Any) -> list[type[BaseModel]]:
    """The messages of a spec within an annotation."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation] if annotation.__module__.startswith("rekindle.types.rl") else []
    return [one for part in typing.get_args(annotation) for one in inner(part)]


def fields(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, default) of every field with a value of its own."""
    for name, field in kind.model_fields.items():
        parts = inner(field.annotation)
        if field.is_required() and len(parts) != 1:
            yield f"{prefix}{name}", "required"
        elif not isinstance(field.default, BaseModel) and not field.is_required():
            value = list(field.default) if isinstance(field.default, tuple) else field.default
            yield f"{prefix}{name}", f"`{json.dumps(value)}`"
        if len(parts) == 1:
            yield from fields(parts[0], f"{prefix}{name}{'[]' if name == 'messages' else ''}.")
        elif parts:
            assert isinstance(field.default, BaseModel)
            yield f"{prefix}{name}", f'`{{"type": "{field.default.type}"}}`'  # type: ignore[attr-defined]


def test_the_table_has_every_field_with_its_default() -> None:
    table = re.search(r"^\| field \| default .*?\n\n", GUIDE, re.DOTALL | re.MULTILINE)
    assert table is not None
    assert re.findall(r"^\| `([^`]+)` \| (\S.*?) \| ", table[0], re.MULTILINE) == list(fields(RlRunSpec))


def test_every_algorithm_is_told_with_its_settings() -> None:
    for kind in typing.get_args(typing.get_args(Algorithm)[0]):
        settings = kind().model_dump()
        name = settings.pop("type")
        told = ", ".join(f"`{key}` {value}" for key, value in settings.items())
        assert f"| `{name}` | {told} |".replace("|  |", "| |") in GUIDE, name


def test_the_pauses_of_webhooks_are_those_that_are_told() -> None:
    assert "after 5 s, 30 s, 2, 10, 30 and 120 minutes" in GUIDE
    assert PAUSES == (5, 30, 120, 600, 1800, 7200)


def test_the_specs_are_specs() -> None:
    run, triggered = blocks("yaml")
    assert RlRunSpec.from_yaml(run).columns() == ("question", "answer")
    trigger = TriggerSpec(
        name="sql", on="dataset.uploaded", match={"name": "sql/*"}, start=read_yaml(triggered)
    )
    said = {"name": "sql/a", "version": 3}
    assert trigger.fits(said) and not trigger.fits({"name": "text"})
    assert (trigger.spec_for(said).name, trigger.spec_for(said).dataset.version) == ("sql, version 3", 3)


def test_the_script_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = blocks("python")
    (tmp_path / "run.yaml").write_text(blocks("yaml")[0].replace("Qwen/Qwen3-0.6B", "tiny"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rekindle.rl_runs.SHORTEST_POLL", 0.0)
    server = RlServer()
    with server.service() as client:
        monkeypatch.setattr(rekindle, "ServiceClient", lambda: client)
        exec(compile(code, "docs/rl.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 101 and said[-1] == "completed all steps are done None"
    assert len((tmp_path / "run.csv").read_text().splitlines()) == 101
