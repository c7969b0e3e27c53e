"""What all tests share: an environment without network, `require`, and the fixtures of a running stack."""

import os
from collections.abc import Iterator

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


@pytest.fixture(autouse=True)
def logs_end_with_their_test() -> Iterator[None]:
    """A command that runs in a test's process has logs written to what that test captures: to no later one's."""
    yield
    structlog.reset_defaults()
