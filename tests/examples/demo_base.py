"""The base model that slow tests of the demo share: one for all of them, since it takes longer than any of them."""

import fcntl
import os
from pathlib import Path

import pytest

from examples.text2sql.base_model import Recipe, make_base_model
from examples.text2sql.questions import make_databases

SEED = 5


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base model that knows enough to begin with, and the cache with its databases."""
    own = tmp_path_factory.getbasetemp()
    parallel = "PYTEST_XDIST_WORKER" in os.environ  # then the folder above is that of all processes
    cache = (own.parent if parallel else own) / "demo"
    cache.mkdir(exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        databases = make_databases(cache / f"databases-{SEED}", SEED)
        return make_base_model(Recipe(SEED, corpus_size=20_000, steps=250), databases, cache).folder, cache
