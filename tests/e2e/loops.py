"""What the end-to-end tests train on: small batches of counting sequences, as SDK types."""

from collections.abc import Sequence

import tinker
from tinker import types

WAIT = 120.0
ADAM = types.AdamParams(learning_rate=1e-2, eps=1e-8)


def tokens(*ids: int) -> types.ModelInput:
    return types.ModelInput.from_ints(list(ids))


def counting(start: int, length: int = 12, weight: float = 1.0) -> types.Datum:
    """Predict each next number of `start, start + 1, …`, in a range that the tiny vocabulary has."""
    ids = [5 + (start + step) % 90 for step in range(length + 1)]
    inputs = {"target_tokens": ids[1:], "weights": [weight] * length}
    return types.Datum(model_input=tokens(*ids[:-1]), loss_fn_inputs=inputs)


def batch(size: int = 4) -> list[types.Datum]:
    return [counting(7 * index, 6 + index) for index in range(size)]


def client(service: tinker.ServiceClient, model: str, rank: int = 4, seed: int = 1) -> tinker.TrainingClient:
    return service.create_lora_training_client(model, rank=rank, seed=seed).result(WAIT)


def loss(training: tinker.TrainingClient, data: Sequence[types.Datum] | None = None) -> float:
    """The loss under the weights of now; trains nothing."""
    found = training.forward(list(data or batch()), "cross_entropy").result(WAIT)
    return float(found.metrics["loss:sum"])


def train(training: tinker.TrainingClient, steps: int, adam: types.AdamParams = ADAM) -> list[float]:
    """Supervised steps, each queued before the last has ended; the loss of each."""
    futures = []
    for _ in range(steps):
        futures.append(training.forward_backward(batch(), "cross_entropy"))
        training.optim_step(adam)
    return [float(future.result(WAIT).metrics["loss:sum"]) for future in futures]
