"""Passes of many runs: right numbers, whatever the packing, and nothing changed by a failure."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from rekindle.types.datums import Datum
from rekindle.types.losses import LOSSES
from rekindle.types.requests import AdamParams
from services.model import head
from services.model.base import BaseModel
from services.model.lora import LoraSpec
from services.train import engine as engine_module
from services.train.engine import DatumTooLarge, NonFiniteResult, PassWork, TrainEngine, WorkError
from services.train.packing import Item, Pass
from services.train.passes import PassOutput, compute
from services.train.run import TrainRun
from tests.model.random_models import VOCABULARY, peft_gradient, peft_model, plain_logprobs, randomize
from tests.train.train_data import batch, datum, scoring, training


def started(engine: TrainEngine, rank: int, seed: int, **switches: bool) -> TrainRun:
    """A run whose adapter already does something."""
    run = engine.new_run(LoraSpec(rank=rank, seed=seed, **switches))
    randomize(run.adapter, seed)
    return run


def targets(data: Datum) -> torch.Tensor:
    return torch.from_numpy(data.inputs["target_tokens"])


# ---- Against plain transformers + PEFT ----


@pytest.mark.parametrize("name", ["base", "untied"])
@pytest.mark.parametrize("loss_fn", LOSSES)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_logprobs_loss_and_gradient_agree_with_peft(
    name: str, loss_fn: str, request: pytest.FixtureRequest, tmp_path: Path
):
    base: BaseModel = request.getfixturevalue(name)
    engine = TrainEngine(base)
    run = started(engine, rank=4, seed=0)
    data = batch([3, 20, 11, 12])
    (result,) = engine.run_passes([training(run, data, loss_fn)])

    model = peft_model(Path(base.source), run.adapter, tmp_path / "adapter")
    total = torch.zeros(())
    for own, logprobs in zip(data, result.logprobs, strict=True):
        expected = plain_logprobs(model, torch.from_numpy(own.tokens), targets(own))
        np.testing.assert_allclose(logprobs, expected.detach().numpy(), atol=1e-4)
        total = total + plain_loss(loss_fn, expected, own)
    total.backward()
    assert result.metrics["loss:sum"] == pytest.approx(total.item(), rel=1e-4)
    expected_P = peft_gradient(model, run.adapter)
    tolerance = 1e-5 * expected_P.abs().max().item()
    torch.testing.assert_close(run.gradient_P, expected_P, rtol=1e-4, atol=tolerance)


def plain_loss(loss_fn: str, p: torch.Tensor, own: Datum) -> torch.Tensor:
    weights, q, advantages = (
        torch.from_numpy(own.inputs[key]) for key in ("weights", "logprobs", "advantages")
    )
    ratio = torch.exp(p - q)
    if loss_fn == "cross_entropy":
        return -(weights * p).sum()
    if loss_fn == "importance_sampling":
        return -(ratio * advantages).sum()
    return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).sum()


def test_several_target_columns_of_different_number_in_one_pass(engine: TrainEngine):
    run = started(engine, rank=4, seed=0)
    wide, wider = datum(6, 1, columns=3), datum(9, 2, columns=5)
    narrow = datum(4, 3)
    together = engine.run_passes([scoring(run, [wide, narrow, wider])])[0]
    assert [array.shape for array in together.logprobs] == [(6, 3), (4,), (9, 5)]
    for index, own in enumerate((wide, narrow, wider)):
        (alone,) = engine.run_passes([scoring(run, [own])])
        np.testing.assert_allclose(together.logprobs[index], alone.logprobs[0], atol=1e-5)
    cells = zip((wide, narrow, wider), together.logprobs, strict=True)
    by_hand = -sum(float(np.sum(own.inputs["weights"].astype(float) * p)) for own, p in cells)
    assert together.metrics["loss:sum"] == pytest.approx(by_hand, rel=1e-5)


def test_absent_weights_are_one(engine: TrainEngine):
    run = started(engine, rank=4, seed=0)
    full = datum(6, 1)
    bare = Datum(full.tokens, {"target_tokens": full.inputs["target_tokens"]})
    ones = Datum(full.tokens, {**full.inputs, "weights": np.ones(6, np.float32)})
    result, expected = (engine.run_passes([scoring(run, [own])])[0] for own in (bare, ones))
    assert result.metrics == expected.metrics
    assert result.metrics["loss:sum"] == pytest.approx(-result.logprobs[0].sum(), rel=1e-6)


def test_ppo_bounds_come_from_the_config_or_per_token(engine: TrainEngine):
    run = started(engine, rank=4, seed=0)
    own = datum(12, 1)
    bounds = {"clip_low_threshold": 0.5, "clip_high_threshold": 0.9}
    arrays = {name: np.full(12, value, np.float32) for name, value in bounds.items()}
    by_config = engine.run_passes([scoring(run, [own], "ppo", **bounds)])[0]
    by_token = engine.run_passes([scoring(run, [Datum(own.tokens, {**own.inputs, **arrays})], "ppo")])[0]
    by_default = engine.run_passes([scoring(run, [own], "ppo")])[0]
    assert by_config.metrics == by_token.metrics != by_default.metrics
    assert by_config.metrics.keys() == {"loss:sum", "clipped_tokens:sum"}


# ---- Entropy ----


def spreads_of(model: torch.nn.Module, own: Datum) -> torch.Tensor:
    """(N, 2): mean and variance of -log p over tokens of p, from all logits of plain transformers."""
    logp_N_V = model(input_ids=torch.from_numpy(own.tokens)[None]).logits[0].double().log_softmax(-1)
    p_N_V = logp_N_V.exp()
    mean_N = -(p_N_V * logp_N_V).sum(-1)
    return torch.stack([mean_N, (p_N_V * (logp_N_V + mean_N[:, None]) ** 2).sum(-1)], 1)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_entropies_agree_with_peft_alone_packed_and_chunk_by_chunk(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    engine = TrainEngine(base)
    runs = [started(engine, 4, 0), started(engine, 3, 1)]
    data = batch([3, 20, 11])
    model = peft_model(Path(base.source), runs[0].adapter, tmp_path / "adapter")
    expected = [spreads_of(model, own).detach().numpy() for own in data]
    (alone,) = engine.run_passes([training(runs[0], data, "ppo", entropy=1.0)])
    silent = training(runs[1], batch([9, 4], seed=1))
    monkeypatch.setattr(head, "CHUNK_LOGITS", 5 * VOCABULARY)
    packed, other = engine.run_passes(
        [scoring(runs[0], data, "ppo", entropy=1.0), scoring(runs[1], silent.data)]
    )
    chunked, _ = engine.run_passes([training(runs[0], data, "ppo", entropy=1.0), silent])
    for result in (alone, packed, chunked):
        for ours, theirs in zip(result.spreads, expected, strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert other.spreads == []


@pytest.mark.parametrize("chunk", [1 << 24, 5 * VOCABULARY])
def test_asking_for_entropies_changes_no_bit_of_anything_else(
    engine: TrainEngine, chunk: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(head, "CHUNK_LOGITS", chunk)
    asked, silent = started(engine, 4, 0), started(engine, 4, 0)
    (with_them,) = engine.run_passes([training(asked, batch([3, 20]), "ppo", entropy=1.0)])
    (without,) = engine.run_passes([training(silent, batch([3, 20]), "ppo")])
    assert (len(with_them.spreads), len(without.spreads)) == (2, 0)
    assert with_them.metrics == without.metrics
    for ours, theirs in zip(with_them.logprobs, without.logprobs, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert torch.equal(asked.gradient_P, silent.gradient_P)


# ---- Packing ----


def four_works(runs: Sequence[TrainRun]) -> list[PassWork]:
    """Two works of the first run, a different loss for the second, an evaluation of the third."""
    return [
        training(runs[0], batch([5, 30, 9], seed=1)),
        training(runs[1], batch([12, 7], seed=2), "importance_sampling"),
        scoring(runs[2], batch([8, 21], seed=3), "ppo"),
        training(runs[0], batch([16], seed=4), "ppo", clip_high_threshold=1.5),
    ]


def three_runs(engine: TrainEngine) -> list[TrainRun]:
    return [
        started(engine, rank=8, seed=0),
        started(engine, rank=3, seed=1, train_mlp=False),
        started(engine, rank=2, seed=2, train_attn=False, train_unembed=False),
    ]


@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_shared_passes_give_what_each_work_gives_alone_at_any_budget(base: BaseModel, budget: int):
    engine = TrainEngine(base, token_budget=budget)
    shared, solo = three_runs(engine), three_runs(engine)
    together = engine.run_passes(four_works(shared))
    alone = [engine.run_passes([work])[0] for work in four_works(solo)]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-5)
        for left, right in zip(ours.logprobs, theirs.logprobs, strict=True):
            assert left.dtype == np.float32
            np.testing.assert_allclose(left, right, atol=1e-5)
    for ours, theirs in zip(shared, solo, strict=True):
        scale = theirs.gradient_P.abs().max().clamp(min=1).item()
        torch.testing.assert_close(ours.gradient_P, theirs.gradient_P, rtol=1e-5, atol=1e-5 * scale)


def test_chunks_accumulate_to_one_batch(engine: TrainEngine):
    chunked, whole = started(engine, 4, 0), started(engine, 4, 0)
    data = batch([5, 9, 14, 3])
    for own in data:
        engine.run_passes([training(chunked, [own])])
    engine.run_passes([training(whole, data)])
    torch.testing.assert_close(chunked.gradient_P, whole.gradient_P, rtol=1e-5, atol=1e-4)


def test_the_same_call_gives_the_same_bits(engine: TrainEngine):
    first, second = three_runs(engine), three_runs(engine)
    for runs in (first, second):
        engine.run_passes(four_works(runs))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.gradient_P, other.gradient_P)


def test_few_passes_are_made_of_many_datums(engine: TrainEngine, monkeypatch: pytest.MonkeyPatch):
    passes: list[int] = []
    monkeypatch.setattr(engine_module, "compute", counting(passes, limit=10**9))
    run = started(engine, 4, 0)
    engine.run_passes([training(run, batch([10] * 64)), training(started(engine, 2, 1), batch([10] * 64))])
    assert passes == [1280]


def test_forward_only_leaves_no_trace(engine: TrainEngine):
    run = started(engine, 4, 0)
    engine.run_passes([training(run, batch([6]))])
    before = run.copy()
    (result,) = engine.run_passes([scoring(run, batch([9, 4]), "importance_sampling")])
    assert np.isfinite(result.metrics["loss:sum"])
    assert (run.step, run.parameters_P.requires_grad) == (0, False)
    for name in ("parameters_P", "gradient_P", "mean_P", "variance_P"):
        assert torch.equal(getattr(run, name), getattr(before, name)), name


def test_a_fresh_run_is_the_base_model_whatever_its_seed(engine: TrainEngine):
    data = batch([7, 12])
    results = engine.run_passes(
        [scoring(engine.new_run(LoraSpec(rank=rank, seed=seed)), data) for rank, seed in ((2, 0), (5, 1))]
    )
    np.testing.assert_allclose(results[0].logprobs[1], results[1].logprobs[1], atol=1e-5)


def test_one_run_in_trouble_does_not_disturb_its_neighbours(engine: TrainEngine):
    calm, alone = started(engine, 4, 0), started(engine, 4, 0)
    wild = started(engine, 4, 1)
    wild.parameters_P.fill_(float("nan"))
    output = compute(
        engine.base,
        [training(calm, batch([6, 9])), training(wild, batch([7]))],
        [
            Item(0, 0, 0, 6, False),
            Item(0, 1, 0, 9, False),
            Item(1, 0, 1, 7, False),
        ],
    )
    engine.run_passes([training(alone, batch([6, 9]))])
    assert output.gradients[1].isnan().any()
    torch.testing.assert_close(output.gradients[0], alone.gradient_P, rtol=1e-5, atol=1e-5)


# ---- Failures ----


def counting(passes: list[int], limit: int, error: Exception | None = None) -> Callable[..., PassOutput]:
    """`compute` that notes the tokens of each pass and fails above `limit`."""

    def limited(base: BaseModel, work: Sequence[PassWork], items: Pass) -> PassOutput:
        tokens = sum(item.tokens for item in items)
        if tokens > limit:
            raise error or torch.OutOfMemoryError("out of memory")
        passes.append(tokens)
        return compute(base, work, items)

    return limited


def test_a_pass_that_does_not_fit_is_split_and_tried_again(
    engine: TrainEngine, monkeypatch: pytest.MonkeyPatch
):
    split, whole = three_runs(engine), three_runs(engine)
    expected = engine.run_passes(four_works(whole))
    passes: list[int] = []
    monkeypatch.setattr(engine_module, "compute", counting(passes, limit=35))
    results = engine.run_passes(four_works(split))
    assert len(passes) > 3 and max(passes) <= 35
    for ours, theirs in zip(results, expected, strict=True):
        assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-5)
    torch.testing.assert_close(split[0].gradient_P, whole[0].gradient_P, rtol=1e-4, atol=1e-3)


def test_only_a_datum_that_alone_does_not_fit_fails_and_it_is_named(
    engine: TrainEngine, monkeypatch: pytest.MonkeyPatch
):
    runs = three_runs(engine)
    monkeypatch.setattr(engine_module, "compute", counting([], limit=20))
    with pytest.raises(DatumTooLarge, match=r"data\[1\]: its 30 tokens") as failure:
        engine.run_passes(four_works(runs)[::-1])
    assert failure.value.work == 3
    assert not any(run.gradient_P.any() for run in runs)


def test_the_cpu_allocator_is_understood():
    with pytest.raises(RuntimeError) as failure:
        torch.empty(1 << 50)
    assert engine_module._out_of_memory(failure.value)


def test_another_error_is_not_taken_for_a_lack_of_memory_and_changes_nothing(
    engine: TrainEngine, monkeypatch: pytest.MonkeyPatch
):
    run = started(engine, 4, 0)
    engine.run_passes([training(run, batch([6]))])
    before = run.gradient_P.clone()
    small = TrainEngine(engine.base, token_budget=10)  # the first passes succeed, the last fails
    monkeypatch.setattr(engine_module, "compute", counting([], limit=20, error=RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        small.run_passes([training(run, batch([6, 7, 30]))])
    assert torch.equal(run.gradient_P, before)


def test_an_overflow_is_the_fault_of_its_work_and_changes_nothing(engine: TrainEngine):
    runs = [started(engine, 4, 0), started(engine, 4, 1)]
    wild = datum(5, 1)
    wild.inputs["logprobs"][2] = -1e5  # a ratio of exp(1e5)
    with pytest.raises(NonFiniteResult) as failure:
        engine.run_passes([training(runs[0], batch([6])), training(runs[1], [wild], "importance_sampling")])
    assert isinstance(failure.value, WorkError)
    assert failure.value.work == 1
    assert not any(run.gradient_P.any() for run in runs)


def test_a_budget_below_one_is_refused(base: BaseModel):
    with pytest.raises(ValueError, match="token_budget"):
        TrainEngine(base, token_budget=0)


def test_training_lowers_the_loss(engine: TrainEngine):
    run = engine.new_run(LoraSpec(rank=8, seed=0))
    own = datum(24, 0)
    own.inputs["weights"][:] = 1.0
    losses = []
    for _ in range(20):
        losses.append(engine.run_passes([training(run, [own])])[0].metrics["loss:sum"])
        engine.optim_step(run, AdamParams(learning_rate=1e-2))
    assert losses[-1] < losses[0] / 4
