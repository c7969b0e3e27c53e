"""Every family trains as plain transformers and PEFT would: many runs in one pass, windows included."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rekindle.types.datums import Datum
from rekindle.types.requests import AdamParams
from services.model.base import BaseModel, load_base
from services.model.lora import LoraSpec
from services.train import engine as engine_module
from services.train.engine import PassWork, TrainEngine
from services.train.passes import compute
from services.train.run import TrainRun
from tests.model.random_models import (
    FAMILIES,
    peft_gradient,
    peft_model,
    plain_logprobs,
    randomize,
    save_random_model,
)
from tests.train.train_data import batch, training

pytestmark = pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")

SPECS = (
    LoraSpec(rank=8, seed=0),
    LoraSpec(rank=3, seed=1, train_mlp=False),
    LoraSpec(rank=2, seed=2, train_attn=False, train_unembed=False),
)
LENGTHS = ([3, 20, 61], [100, 12], [33, 5])
"""Of each run's datums: shorter than the window of 8 tokens, and many windows long."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return load_base(str(save_random_model(request.param, tmp_path_factory.mktemp(request.param))))


@pytest.fixture
def engine(family: BaseModel) -> TrainEngine:
    return TrainEngine(family)


def works(engine: TrainEngine) -> list[PassWork]:
    """One of each of three runs whose adapters already do something."""
    found = []
    for seed, (spec, lengths) in enumerate(zip(SPECS, LENGTHS, strict=True)):
        run = engine.new_run(spec)
        randomize(run.adapter, seed)
        found.append(training(run, batch(lengths, seed)))
    return found


def assert_gradient(run: TrainRun, expected_P: torch.Tensor) -> None:
    tolerance = 1e-5 * expected_P.abs().max().item()
    torch.testing.assert_close(run.gradient_P, expected_P, rtol=1e-4, atol=tolerance)


def plain(model: torch.nn.Module, datum: Datum) -> torch.Tensor:
    targets = torch.from_numpy(datum.inputs["target_tokens"])
    return plain_logprobs(model, torch.from_numpy(datum.tokens), targets)


def test_a_pass_of_several_runs_agrees_with_peft_for_each(
    engine: TrainEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    passes: list[int] = []

    def counted(*arguments):
        passes.append(len(arguments[2]))
        return compute(*arguments)

    monkeypatch.setattr(engine_module, "compute", counted)
    asked = works(engine)
    results = engine.run_passes(asked)
    assert passes == [7], "all datums share one pass"
    for number, (work, result) in enumerate(zip(asked, results, strict=True)):
        adapter = work.run.adapter
        model = peft_model(Path(engine.base.source), adapter, tmp_path / str(number))
        loss = torch.zeros(())
        for datum, logprobs in zip(work.data, result.logprobs, strict=True):
            expected = plain(model, datum)
            np.testing.assert_allclose(logprobs, expected.detach().numpy(), atol=1e-4)
            loss = loss - (torch.from_numpy(datum.inputs["weights"]) * expected).sum()
        loss.backward()
        assert result.metrics["loss:sum"] == pytest.approx(loss.item(), rel=1e-4)
        assert_gradient(work.run, peft_gradient(model, adapter))


def test_a_shared_pass_gives_each_run_the_gradient_of_its_own(engine: TrainEngine):
    shared, solo = works(engine), works(engine)
    engine.run_passes(shared)
    for together, alone in zip(shared, solo, strict=True):
        engine.run_passes([alone])
        assert_gradient(together.run, alone.run.gradient_P)


def test_what_was_trained_is_what_peft_loads(engine: TrainEngine, tmp_path: Path):
    run = engine.new_run(SPECS[0])
    data = batch([30, 9])
    for datum in data:
        datum.inputs["weights"][:] = 1.0
    losses = []
    for _ in range(8):
        (result,) = engine.run_passes([training(run, data)])
        losses.append(result.metrics["loss:sum"])
        engine.optim_step(run, AdamParams(learning_rate=1e-2))
    assert losses[-1] < 0.8 * losses[0]
    (result,) = engine.run_passes([training(run, data)])
    model = peft_model(Path(engine.base.source), run.adapter, tmp_path)
    with torch.no_grad():
        for datum, logprobs in zip(data, result.logprobs, strict=True):
            np.testing.assert_allclose(logprobs, plain(model, datum), atol=1e-4)
