"""Random datums, and works made of them."""

import numpy as np

from rekindle.types.datums import Datum
from services.train.engine import PassWork
from services.train.run import TrainRun
from tests.model.random_models import VOCABULARY


def datum(length: int, seed: int, columns: int | None = None) -> Datum:
    """A datum with the inputs of all losses; `columns` gives it (N, K) targets."""
    random = np.random.default_rng(seed)
    shape = (length,) if columns is None else (length, columns)
    inputs = {
        "target_tokens": random.integers(VOCABULARY, size=shape),
        "weights": random.normal(size=shape).astype(np.float32),
        "logprobs": (random.normal(size=shape) - 5).astype(np.float32),
        "advantages": random.normal(size=shape).astype(np.float32),
    }
    return Datum(random.integers(VOCABULARY, size=length), inputs)


def batch(lengths: list[int], seed: int = 0) -> list[Datum]:
    return [datum(length, 1000 * seed + index) for index, length in enumerate(lengths)]


def training(run: TrainRun, data: list[Datum], loss_fn: str = "cross_entropy", **config: float) -> PassWork:
    return PassWork(run, data, loss_fn, config, forward_only=False)


def scoring(run: TrainRun, data: list[Datum], loss_fn: str = "cross_entropy", **config: float) -> PassWork:
    return PassWork(run, data, loss_fn, config, forward_only=True)
