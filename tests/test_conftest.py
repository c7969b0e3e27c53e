"""`require` must never let CI pass by skipping."""

import pytest

from tests.conftest import require


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
