"""`require` must never let CI pass by skipping; long files come first."""

from pathlib import Path

import pytest

from tests.conftest import pytest_collection_modifyitems, require


def test_a_missing_prerequisite_skips_on_a_persons_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="missing: a thing"):
        require(False, "a thing")


def test_a_missing_prerequisite_fails_in_ci(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="missing: a thing"):
        require(None, "a thing")


def test_a_present_prerequisite_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CI", "true")
    require("here", "a thing")


def test_the_files_with_the_longest_tests_come_first_and_stay_together(collected: list[pytest.Item]):
    pytest_collection_modifyitems(collected)
    assert [item.name for item in collected] == ["b1", "b2", "d1", "a1", "c1"]


@pytest.fixture
def collected(request: pytest.FixtureRequest) -> list[pytest.Item]:
    """Of four files, two of which have a test that may take long."""

    class Plain(pytest.Item):
        def runtest(self) -> None:
            raise AssertionError("never run")

    limits = {"a1": None, "b1": None, "b2": 600, "c1": None, "d1": 300}
    items: list[pytest.Item] = []
    for name, seconds in limits.items():
        item = Plain.from_parent(request.session, name=name, path=Path(f"test_{name[0]}.py"))
        if seconds is not None:
            item.add_marker(pytest.mark.timeout(seconds))
        items.append(item)
    return items
