"""Small random models and an engine, for the tests of the trainer."""

import pytest

from services.model.base import BaseModel, load_base
from services.train.engine import TrainEngine
from tests.model.random_models import save_random_model


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(save_random_model("tied", tmp_path_factory.mktemp("tied"))))


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(save_random_model("untied", tmp_path_factory.mktemp("untied"))))


@pytest.fixture
def engine(base: BaseModel) -> TrainEngine:
    return TrainEngine(base)
