"""What all tests share: an environment without network, `require`, and the fixtures of a running stack."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

# Before anything imports the libraries that read them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

pytest_plugins = ["tests.stack"]


def require(available: object, what: str) -> None:
    """Go on if `available` is true; without it skip on a person's machine and fail where `CI` is set.

    `what` names the missing prerequisite and how to get it, e.g. "the cookbook (task setup:cookbook)".
    """
    if available:
        return
    if os.environ.get("CI"):
        pytest.fail(f"missing: {what}", pytrace=False)
    pytest.skip(f"missing: {what}")


@pytest.hookimpl(trylast=True)  # among those that are left
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests may take longest come first: beside them others fill the time, after them nothing does."""
    longest: dict[Path, float] = {}
    for item in items:
        mark = item.get_closest_marker("timeout")
        longest[item.path] = max(longest.get(item.path, 0.0), mark.args[0] if mark else 0.0)
    items.sort(key=lambda item: longest[item.path], reverse=True)


@pytest.fixture(autouse=True)
def logs_end_with_their_test() -> Iterator[None]:
    """A command that runs in a test's process has logs written to what that test captures: to no later one's."""
    yield
    structlog.reset_defaults()
