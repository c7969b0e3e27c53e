"""The state of a run survives a save and a load bit for bit."""

from pathlib import Path

import pytest
import torch

from rekindle.types.requests import AdamParams
from services.model.base import BaseModel
from services.model.lora import Adapter, LoraSpec
from services.model.peft_files import save_adapter
from services.train.engine import TrainEngine
from services.train.run import TrainRun, load_state, save_state
from tests.train.train_data import batch, training


@pytest.fixture
def used(engine: TrainEngine) -> TrainRun:
    """A run in the middle of its work: two steps taken, a gradient accumulated since."""
    run = engine.new_run(LoraSpec(rank=3, seed=0))
    for _ in range(2):
        engine.run_passes([training(run, batch([5, 8]))])
        engine.optim_step(run, AdamParams(learning_rate=1e-2))
    engine.run_passes([training(run, batch([6], seed=1))])
    return run


def test_a_whole_snapshot_goes_on_bit_for_bit(
    engine: TrainEngine, used: TrainRun, base: BaseModel, tmp_path: Path
):
    save_state(tmp_path, used, optimizer=True, gradients=True)
    loaded = load_state(tmp_path, base, optimizer=True, gradients=True)
    for run in (used, loaded):
        engine.run_passes([training(run, batch([7, 4], seed=2))])
        engine.optim_step(run, AdamParams(learning_rate=1e-2, weight_decay=0.1))
    assert used.step == loaded.step == 3
    for name in ("parameters_P", "gradient_P", "mean_P", "variance_P"):
        assert torch.equal(getattr(used, name), getattr(loaded, name)), name


def test_without_the_optimizer_the_weights_come_back_and_the_rest_is_fresh(
    used: TrainRun, base: BaseModel, tmp_path: Path
):
    save_state(tmp_path, used, optimizer=True)
    loaded = load_state(tmp_path, base, optimizer=False)
    assert torch.equal(loaded.parameters_P, used.parameters_P)
    assert loaded.step == 0
    assert not (loaded.mean_P.any() or loaded.variance_P.any() or loaded.gradient_P.any())


def test_a_missing_part_is_an_error(used: TrainRun, base: BaseModel, tmp_path: Path):
    save_state(tmp_path, used, optimizer=False)
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path, base, optimizer=True)


def test_buffers_do_not_depend_on_the_order_of_modules_in_a_file(used: TrainRun, base: BaseModel):
    shuffled = Adapter(
        used.adapter.rank, dict(reversed(used.adapter.a.items())), dict(reversed(used.adapter.b.items()))
    )
    assert torch.equal(TrainRun.of(shuffled, base).parameters_P, used.parameters_P)


def test_an_adapter_of_another_model_is_refused(used: TrainRun, base: BaseModel, tmp_path: Path):
    foreign = Adapter(2, {"model.other.q_proj": torch.ones(2, 4)}, {"model.other.q_proj": torch.ones(4, 2)})
    save_adapter(tmp_path / "foreign", foreign, "other")
    with pytest.raises(ValueError, match=r"model\.other\.q_proj"):
        load_state(tmp_path / "foreign", base, optimizer=False)
    name = next(iter(used.adapter.a))
    misshapen = Adapter(2, {name: torch.ones(2, 999)}, {name: torch.ones(4, 2)})
    with pytest.raises(ValueError, match="999"):
        TrainRun.of(misshapen, base)


def test_a_copy_is_untouched_by_what_follows(engine: TrainEngine, used: TrainRun):
    copy = used.copy()
    before = copy.parameters_P.clone()
    engine.optim_step(used, AdamParams(learning_rate=1e-2))
    assert torch.equal(copy.parameters_P, before)
    assert torch.equal(torch.cat([factor.flatten() for factor in copy.adapter.parameters()]), before)
    assert copy.gradient_P.any() and not used.gradient_P.any()
