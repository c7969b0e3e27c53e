"""One running data service for the session, and names that no other test has."""

import uuid
from collections.abc import Iterator

import pytest

from tests.data.lab import Lab, opened


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with opened(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture
def name() -> str:
    """Of a dataset, with a slash in it."""
    return f"tests/{uuid.uuid4().hex[:12]}"
