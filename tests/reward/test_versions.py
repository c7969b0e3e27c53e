"""A grader's version names all that decides its values."""

import pytest
from pydantic import TypeAdapter

from rekindle.types.rewards import Grader
from services.reward import graders, versions


def version(type_: str, **rest: object) -> str:
    return versions.version(TypeAdapter(Grader).validate_python({"type": type_, **rest}))


def test_a_version_changes_with_everything_that_decides_a_value():
    part = {"grader": {"type": "math"}, "weight": 1.0}
    found = [
        version("math"),
        version("math", params={"column": "gold"}),
        version("math", invalid_value=None),
        version("numeric"),
        version("weighted", params={"graders": [part]}),
        version("weighted", params={"graders": [{**part, "weight": 2.0}]}),
        version("function", params={"name": "mine", "version": "0" * 16}),
        version("function", params={"name": "mine", "version": "1" * 16}),
    ]
    assert len(set(found)) == len(found)
    assert found[0].startswith("math-1+") and found[0] == version("math")


def test_a_version_changes_with_the_library_and_the_release(monkeypatch: pytest.MonkeyPatch):
    before = version("math")
    with monkeypatch.context() as patch:
        patch.setattr(versions.metadata, "version", lambda name: "99")
        assert version("math") != before
    monkeypatch.setattr(graders.MathGrader, "release", 2)
    assert version("math").startswith("math-2+")


def test_every_type_on_the_wire_has_a_release():
    assert [versions.release(type_).rpartition("-")[0] for type_ in versions.SPECS] == list(versions.SPECS)
    assert not graders.GRADERS.keys() & versions.RELEASES.keys()
