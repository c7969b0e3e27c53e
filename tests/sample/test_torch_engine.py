"""What the torch engine adds to the contract: memory, chunks, adapters in and out, determinism, failure."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

from services.model.base import load_base
from services.model.lora import LoraSpec
from services.model.peft_files import load_adapter, save_adapter
from services.sample.engine import AdapterRef, EngineError, SampleTask, StopRule
from services.sample.torch_engine import TorchEngine
from tests.sample.conftest import OpenEngine, make_adapter

CLOSE = 1e-4


def task(seed: int = 0, length: int = 20, **fields) -> SampleTask:
    tokens = [2 + (7 * seed + 3 * i) % 200 for i in range(length)]
    return SampleTask(
        **{"tokens": tokens, "seed": seed, "max_tokens": 12, "stop": StopRule(eos=False), **fields}
    )


async def until(condition) -> None:
    """Wait for a condition that another thread brings about."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is awaited happens on a thread without events
            await asyncio.sleep(0.005)


async def test_a_prompt_in_chunks_scores_as_in_one_piece(open_engine: OpenEngine):
    asked = [
        task(i, length, prompt_logprobs=True, num_samples=2) for i, length in enumerate((300, 5, 90, 61))
    ]
    results = []
    for prefill_tokens in (4096, 32):
        async with open_engine(prefill_tokens=prefill_tokens) as engine:
            results.append(await asyncio.gather(*(engine.sample(t, None) for t in asked)))
    for whole, chunked in zip(*results, strict=True):
        np.testing.assert_allclose(chunked.prompt_logprobs, whole.prompt_logprobs, atol=CLOSE)
        for a, b in zip(whole.sequences, chunked.sequences, strict=True):
            assert a.tokens.tolist() == b.tokens.tolist()
            np.testing.assert_allclose(b.logprobs, a.logprobs, atol=CLOSE)


async def test_a_long_prompt_does_not_hold_up_decoding(open_engine: OpenEngine):
    async with open_engine(prefill_tokens=8) as engine:
        quick = asyncio.create_task(engine.sample(task(2, 4, max_tokens=40), None))
        slow = asyncio.create_task(engine.sample(task(1, 480, max_tokens=1), None))
        assert len((await quick).sequences[0].tokens) == 40
        assert not slow.done(), "in one piece, the prompt would have been done before the second token"
        await slow


async def test_adapters_beyond_the_limit_are_evicted_and_read_again(open_engine: OpenEngine, adapters):
    async with open_engine(max_adapters=2) as engine:
        first = [await engine.sample(task(i), ref) for i, ref in enumerate(adapters)]
        assert engine.adapter_versions == [adapters[1].version, adapters[2].version]
        again = await asyncio.gather(*(engine.sample(task(i), ref) for i, ref in enumerate(adapters)))
        assert len(engine.adapter_versions) == 2
    for a, b in zip(first, again, strict=True):
        assert a.sequences[0].tokens.tolist() == b.sequences[0].tokens.tolist()
        np.testing.assert_allclose(a.sequences[0].logprobs, b.sequences[0].logprobs, atol=CLOSE)


async def test_a_loaded_version_is_not_read_again(open_engine: OpenEngine, adapters, tmp_path: Path):
    async with open_engine() as engine:
        first = await engine.sample(task(), adapters[0])
        again = await engine.sample(task(), AdapterRef(adapters[0].version, tmp_path / "gone"))
        assert first.sequences[0].tokens.tolist() == again.sequences[0].tokens.tolist()


async def test_an_adapter_of_another_model_is_refused(open_engine: OpenEngine, tmp_path: Path):
    source = gemma(tmp_path / "gemma")
    stranger = make_adapter(source, tmp_path / "stranger", LoraSpec(rank=4, seed=1))
    async with open_engine() as engine:
        with pytest.raises(ValueError, match="stranger"):
            await engine.sample(task(), stranger)
        assert engine.adapter_versions == []


async def test_cancelling_frees_the_rows(open_engine: OpenEngine):
    async with open_engine() as engine:
        asked = task(num_samples=6, max_tokens=450)
        cancelled, kept = (asyncio.create_task(engine.sample(asked, None)) for _ in range(2))
        await until(lambda: engine.decoding == 12)
        cancelled.cancel()
        await until(lambda: engine.decoding == 6)
        alone = await kept
        assert engine.decoding == 0
        again = await engine.sample(asked, None)
    assert [s.tokens.tolist() for s in alone.sequences] == [s.tokens.tolist() for s in again.sequences]


async def test_the_budget_bounds_what_runs_and_all_finish(open_engine: OpenEngine):
    async with open_engine(max_tokens_in_flight=4 * 32) as engine:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, engine.decoding)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        asked = [task(i, num_samples=n) for i, n in enumerate((1, 3, 9, 2, 2, 4))]
        results = await asyncio.gather(*(engine.sample(t, None) for t in asked))
        watching.cancel()
        assert 0 < most <= 4
    async with open_engine() as engine:
        free = [await engine.sample(t, None) for t in asked]
    for a, b in zip(results, free, strict=True):
        assert [s.tokens.tolist() for s in a.sequences] == [s.tokens.tolist() for s in b.sequences]


async def test_deterministic_numbers_do_not_depend_on_company(open_engine: OpenEngine, adapters):
    asked = [task(i, 3 + 9 * i, num_samples=2, max_tokens=8 + i, prompt_logprobs=True) for i in range(6)]
    refs = [None, *adapters, *adapters][:6]
    async with open_engine(deterministic=True, prefill_tokens=16) as engine:
        alone = [await engine.sample(t, ref) for t, ref in zip(asked, refs, strict=True)]
        company = await asyncio.gather(*(engine.sample(t, ref) for t, ref in zip(asked, refs, strict=True)))
    for a, b in zip(alone, company, strict=True):
        np.testing.assert_array_equal(a.prompt_logprobs, b.prompt_logprobs)
        for x, y in zip(a.sequences, b.sequences, strict=True):
            assert (x.tokens.tobytes(), x.logprobs.tobytes()) == (y.tokens.tobytes(), y.logprobs.tobytes())


def broken_adapter(like: AdapterRef, folder: Path, value: float) -> AdapterRef:
    broken = load_adapter(like.folder)
    for b_O_R in broken.b.values():
        b_O_R.fill_(value)
    save_adapter(folder, broken, "tiny")
    return AdapterRef("broken", folder)


async def test_an_adapter_that_is_not_finite_is_refused(open_engine: OpenEngine, adapters, tmp_path: Path):
    async with open_engine() as engine:
        with pytest.raises(ValueError, match="broken: not all of its weights are finite"):
            await engine.sample(task(), broken_adapter(adapters[0], tmp_path / "broken", float("nan")))


async def test_logits_that_are_not_finite_fail_alone_and_leave_no_trace(
    open_engine: OpenEngine, adapters, tmp_path: Path
):
    broken = broken_adapter(adapters[0], tmp_path / "broken", 1e30)
    asked = task(num_samples=2, max_tokens=30)
    async with open_engine() as engine:
        good, bad = await asyncio.gather(
            engine.sample(asked, adapters[0]),
            engine.sample(task(1, num_samples=8), broken),
            return_exceptions=True,
        )
        assert isinstance(bad, ValueError) and "logits are not finite" in str(bad)
        assert engine.decoding == 0
        # These take the rows that held NaN, and are shorter than those were.
        after = await asyncio.gather(*(engine.sample(asked, adapters[0]) for _ in range(6)))
    for result in after:
        for a, b in zip(result.sequences, good.sequences, strict=True):
            assert a.tokens.tolist() == b.tokens.tolist() and np.isfinite(a.logprobs).all()


async def test_a_failing_model_fails_all_who_wait_and_all_who_come(tiny_model_dir: Path):
    base = load_base(str(tiny_model_dir))
    engine = TorchEngine(base, str(tiny_model_dir), threads=1)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    base.model.get_input_embeddings().register_forward_pre_hook(fail)
    outcomes = await asyncio.gather(*(engine.sample(task(i), None) for i in range(3)), return_exceptions=True)
    assert all(isinstance(o, EngineError) and "out of memory" in str(o) for o in outcomes)
    with pytest.raises(EngineError):
        await engine.sample(task(), None)
    await engine.close()


async def test_closing_fails_what_still_runs(tiny_model_dir: Path):
    engine = TorchEngine(load_base(str(tiny_model_dir)), str(tiny_model_dir), threads=1)
    running = asyncio.create_task(engine.sample(task(max_tokens=490), None))
    await until(lambda: engine.decoding == 1)
    await engine.close()
    with pytest.raises(EngineError, match="closed"):
        await running


def gemma(folder: Path) -> Path:
    """A tiny Gemma 3: window of 8 tokens in two layers of three."""
    config = Gemma3TextConfig(
        vocab_size=300,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        query_pre_attn_scalar=16,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Gemma3ForCausalLM(config).float().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("prefill_tokens", [512, 7])
async def test_a_sliding_window_hides_what_is_out_of_it(open_engine: OpenEngine, tmp_path, prefill_tokens):
    source = gemma(tmp_path / "gemma")
    model = AutoModelForCausalLM.from_pretrained(source, attn_implementation="eager")
    async with open_engine(source, prefill_tokens=prefill_tokens) as engine:
        asked = [task(i, length, max_tokens=20, prompt_logprobs=True) for i, length in enumerate((30, 3, 12))]
        results = await asyncio.gather(*(engine.sample(t, None) for t in asked))
    for asked_one, result in zip(asked, results, strict=True):
        tokens = torch.tensor([[*asked_one.tokens, *result.sequences[0].tokens.tolist()]])
        with torch.no_grad():
            rows = model(tokens).logits[0].float().log_softmax(-1)[:-1]
        expected = rows.gather(1, tokens[0, 1:, None]).squeeze(1)
        found = np.concatenate([result.prompt_logprobs[1:], result.sequences[0].logprobs])
        np.testing.assert_allclose(found, expected, atol=CLOSE)
