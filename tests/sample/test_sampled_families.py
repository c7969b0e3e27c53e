"""Every family samples what plain transformers and PEFT would say, and what the trainer says of it."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rekindle.types.datums import Datum
from services.model.base import BaseModel, load_base
from services.model.lora import Adapter, LoraSpec, init_adapter
from services.sample.decoder import Decoder
from services.sample.engine import AdapterRef, SampleResult, SampleTask, StopRule
from services.sample.torch_engine import TorchEngine
from services.train.engine import PassWork, TrainEngine
from services.train.run import TrainRun
from tests.model.random_models import (
    FAMILIES,
    VOCABULARY,
    peft_model,
    plain_logprobs,
    randomize,
    save_random_model,
)

pytestmark = pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")

PROMPTS = (3, 20, 61)
"""Tokens: shorter than the window of 8, and several windows long."""
SAMPLED = 40
CLOSE = 1e-4


@pytest.fixture(scope="module", params=FAMILIES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(request.param, tmp_path_factory.mktemp("families") / request.param)


def random_adapter(source: Path) -> Adapter:
    return randomize(init_adapter(LoraSpec(rank=5, seed=1), load_base(str(source)).layers), 1)


def task(length: int, **fields) -> SampleTask:
    tokens = [2 + (7 * length + 3 * i) % (VOCABULARY - 3) for i in range(length)]
    asked = {"seed": length, "max_tokens": SAMPLED, "stop": StopRule(eos=False), **fields}
    return SampleTask(tokens, num_samples=2, prompt_logprobs=True, **asked)


def sample(
    source: Path, asked: list[SampleTask], adapters: list[AdapterRef | None], **options
) -> list[SampleResult]:
    """All tasks with each of the adapters, together in one engine."""

    async def run() -> list[SampleResult]:
        engine = TorchEngine(load_base(str(source)), str(source), threads=1, **options)
        try:
            pairs = [(each, adapter) for adapter in adapters for each in asked]
            return await asyncio.gather(*(engine.sample(*pair) for pair in pairs))
        finally:
            await engine.close()

    return asyncio.run(run())


def sequences(asked: SampleTask, result: SampleResult) -> list[tuple[torch.Tensor, np.ndarray]]:
    """Tokens of prompt and sample, and the logprobs that came with all but the first."""
    assert result.prompt_logprobs is not None
    return [
        (
            torch.tensor([*asked.tokens, *sequence.tokens.tolist()]),
            np.concatenate([result.prompt_logprobs[1:], sequence.logprobs]),
        )
        for sequence in result.sequences
    ]


@pytest.mark.parametrize("prefill_tokens", [512, 13])
def test_sampled_and_prompt_logprobs_agree_with_peft(source: Path, tmp_path: Path, prefill_tokens: int):
    adapter = random_adapter(source)
    plain = [
        peft_model(source, None, tmp_path),
        peft_model(source, adapter, tmp_path / "adapter"),  # writes the files that the sampler reads
    ]
    asked = [task(length) for length in PROMPTS]
    refs = [None, AdapterRef("run/sampler/step-1", tmp_path / "adapter")]
    results = sample(source, asked, refs, prefill_tokens=prefill_tokens)
    models = [model for model in plain for _ in asked]
    with torch.no_grad():
        for each, model, result in zip([*asked, *asked], models, results, strict=True):
            for tokens, logprobs in sequences(each, result):
                assert len(tokens) == len(each.tokens) + SAMPLED
                np.testing.assert_allclose(
                    logprobs, plain_logprobs(model, tokens[:-1], tokens[1:]), atol=CLOSE
                )


def test_the_trainer_agrees_with_the_sampler(source: Path, tmp_path: Path):
    base = load_base(str(source))
    adapter = random_adapter(source)
    peft_model(source, adapter, tmp_path / "adapter")
    asked = [task(length) for length in PROMPTS]
    results = sample(source, asked, [AdapterRef("run/sampler/step-1", tmp_path / "adapter")])
    found = [pair for each, result in zip(asked, results, strict=True) for pair in sequences(each, result)]
    data = [Datum(t[:-1].numpy(), {"target_tokens": t[1:].numpy()}) for t, _ in found]
    work = PassWork(TrainRun.of(adapter, base), data, "cross_entropy", {}, forward_only=True)
    (scored,) = TrainEngine(base).run_passes([work])
    for (_, logprobs), trained in zip(found, scored.logprobs, strict=True):
        np.testing.assert_allclose(logprobs, trained, atol=CLOSE)


def test_every_end_of_sequence_token_of_the_generation_config_ends_a_sequence(source: Path):
    asked = [task(length, max_tokens=60) for length in PROMPTS]
    endless = [s.tokens.tolist() for result in sample(source, asked, [None]) for s in result.sequences]
    ends = [tokens[5] for tokens in endless[:3]]
    assert len(set(ends)) > 1
    path = source / "generation_config.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"eos_token_id": ends}))
    try:
        asked = [task(length, max_tokens=60, stop=StopRule()) for length in PROMPTS]
        ended = [s for result in sample(source, asked, [None]) for s in result.sequences]
    finally:
        path.write_text(before)
    for whole, sequence in zip(endless, ended, strict=True):
        first = min((whole.index(end) + 1 for end in ends if end in whole), default=60)
        assert sequence.tokens.tolist() == whole[:first]
        assert sequence.stop_reason == ("stop" if first < 60 else "length")


def test_llama_and_qwen_take_the_fast_way_and_gemma_that_of_transformers(source: Path):
    base: BaseModel = load_base(str(source))
    assert (Decoder.of(base) is None) == source.name.startswith("gemma3")
