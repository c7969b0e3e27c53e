"""Small random models, an engine and a training service in small, for the tests of the trainer."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.model.base import BaseModel, load_base
from services.train.engine import TrainEngine
from tests.events.nats_process import NatsProcess
from tests.model.random_models import save_random_model
from tests.train.worker_lab import Lab, opened


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(save_random_model("tied", tmp_path_factory.mktemp("tied"))))


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(save_random_model("untied", tmp_path_factory.mktemp("untied"))))


@pytest.fixture
def engine(base: BaseModel) -> TrainEngine:
    return TrainEngine(base)


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    with NatsProcess(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
async def lab(nats: NatsProcess, tmp_path: Path, engine: TrainEngine) -> AsyncIterator[Lab]:
    async with opened(nats.url, tmp_path, engine) as lab:
        yield lab
