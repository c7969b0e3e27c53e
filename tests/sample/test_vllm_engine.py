"""What the vLLM engine adds to the contract: its limits, its cache, tied unembeddings, the ends of its process."""

import asyncio
from pathlib import Path

import numpy as np
import psutil
import pytest
from transformers import AutoModelForCausalLM

from rekindle.types.errors import InvalidField
from services.model.lora import LoraSpec
from services.sample.engine import AdapterRef, EngineError, SampleTask, StopRule
from tests.sample.conftest import Reference, make_adapter, open_vllm

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

CLOSE = 1e-4


def task(length: int = 20, **fields) -> SampleTask:
    tokens = [2 + 3 * i % 200 for i in range(length)]
    return SampleTask(
        **{"tokens": tokens, "seed": 0, "max_tokens": 12, "stop": StopRule(eos=False), **fields}
    )


async def until(condition) -> None:
    """Wait for a condition that another process brings about."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(0.01)


async def test_one_engine_from_its_limits_to_its_end(tiny_model_dir: Path, adapters, tmp_path: Path):
    async with open_vllm(tiny_model_dir) as engine:
        await refuses_what_vllm_cannot_do(engine, tiny_model_dir, tmp_path)
        await reports_what_the_cache_held(engine, adapters)
        await frees_what_a_cancelled_task_held(engine)
        running = asyncio.create_task(engine.sample(task(max_tokens=450, num_samples=8), None))
        await until(lambda: engine.requests == 8)
    with pytest.raises(EngineError, match="closed"):
        await running
    with pytest.raises(EngineError, match="closed"):
        await engine.sample(task(), None)


async def refuses_what_vllm_cannot_do(engine, source: Path, folder: Path) -> None:
    with pytest.raises(InvalidField) as caught:
        await engine.sample(task(temperature=2.5), None)
    assert caught.value.field == "temperature"
    with pytest.raises(ValueError, match="rank 32, max_lora_rank is 16"):
        await engine.sample(task(), make_adapter(source, folder / "wide", LoraSpec(rank=32, seed=1)))
    assert engine.adapter_versions == []


async def reports_what_the_cache_held(engine, adapters: list[AdapterRef]) -> None:
    """A whole number of blocks, and those of the same version and the same tenant alone."""
    for adapter, tenant in ((None, ""), (adapters[0], ""), (adapters[1], ""), (None, "anne"), (None, "bert")):
        asked = task(300, tenant=tenant)
        hits = [(await engine.sample(asked, adapter)).prompt_cache_hit_tokens for _ in range(2)]
        assert hits[0] == 0 and 200 < hits[1] < 300


async def frees_what_a_cancelled_task_held(engine) -> None:
    running = asyncio.create_task(engine.sample(task(max_tokens=450, num_samples=8), None))
    await until(lambda: engine.requests == 8)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert engine.requests == 0


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # PEFT, of merging
async def test_an_unembedding_tied_to_the_embedding_takes_its_adapter(tiny_model_dir: Path, tmp_path: Path):
    tied = tmp_path / "tied"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tied)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tied / file).write_bytes((tiny_model_dir / file).read_bytes())
    adapter = make_adapter(tied, tmp_path / "adapter", LoraSpec(rank=8, seed=1))
    reference = Reference(tied)
    async with open_vllm(tied) as engine:
        together = [engine.sample(task(prompt_logprobs=True), ref) for ref in (adapter, None, adapter)]
        results = await asyncio.gather(*together)
    for ref, result in zip((adapter, None, adapter), results, strict=True):
        tokens = [*task().tokens, *result.sequences[0].tokens.tolist()]
        found = np.concatenate([result.prompt_logprobs[1:], result.sequences[0].logprobs])
        np.testing.assert_allclose(found, reference.of_sampled(tokens[:1], tokens[1:], ref), atol=CLOSE)


async def test_a_dead_engine_process_fails_its_tasks(tiny_model_dir: Path):
    async with open_vllm(tiny_model_dir) as engine:
        running = asyncio.create_task(engine.sample(task(max_tokens=450, num_samples=8), None))
        await until(lambda: engine.requests == 8)
        (core,) = (p for p in psutil.Process().children(recursive=True) if "EngineCore" in p.name())
        core.kill()
        with pytest.raises(EngineError):
            await running
        with pytest.raises(EngineError):
            await engine.sample(task(), None)


@pytest.mark.parametrize(("rank", "admitted"), [(1, 1), (2, 8), (8, 8), (33, 64), (512, 512)])
def test_the_smallest_admitted_rank_is_taken(rank: int, admitted: int):
    from services.sample.vllm_setup import admitted_rank

    assert admitted_rank(rank) == admitted


def test_a_rank_above_all_is_refused():
    from services.sample.vllm_setup import admitted_rank

    with pytest.raises(ValueError, match="max_lora_rank: 513, vLLM admits at most 512"):
        admitted_rank(513)
