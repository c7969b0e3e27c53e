"""Under `deterministic` a result has the same bits whoever is sampled beside it, on any number of threads, again."""

import asyncio
import hashlib
import os
import shutil
import signal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import tinker
import torch
from safetensors.torch import load_file, save_file
from tinker import types
from transformers import Qwen3Config, Qwen3ForCausalLM

from rekindle.types import encode_sample_response
from services.model.base import load_base
from services.sample.engine import AdapterRef, SampleResult, SampleTask, StopRule
from services.sample.torch_engine import TorchEngine
from tests.e2e.conftest import connected
from tests.e2e.loops import WAIT, client, tokens, train
from tests.sample.conftest import OpenEngine
from tests.stack import running_stack

Asked = tuple[SampleTask, AdapterRef | None]
Answer = tinker.APIFuture[types.SampleResponse]

HOW: list[dict[str, Any]] = [
    {"temperature": 0.0, "topk_prompt": 3},
    {"temperature": 0.7, "topk_sample": 3, "alt_tokens_k": 2},
    {"top_k": 3, "top_p": 0.9, "prompt_logprobs": True},
    {"top_p": 0.5, "topk_sample": 7, "num_samples": 2},
]
"""Ways to ask, each of which goes another way through scores and draws."""


@pytest.fixture(scope="module")
def tied(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that finds two tokens equally likely at every place: which comes first, company may not decide."""
    folder = shutil.copytree(tiny_model_dir, tmp_path_factory.mktemp("tied") / "model")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][1::2] = weights["lm_head.weight"][: len(weights["lm_head.weight"]) - 1 : 2]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def asked(number: int, adapters: list[AdapterRef], **fields: Any) -> Asked:
    """Prompts of many lengths, ways to ask, and adapters or none."""
    tokens = [2 + (7 * number + 3 * i) % 200 for i in range(3 + 11 * number % 40)]
    how = HOW[number % len(HOW)] | {"tokens": tokens, "seed": number, "stop": StopRule(eos=False)}
    return SampleTask(**how | fields), [None, *adapters][number // len(HOW) % (len(adapters) + 1)]


def bits(result: SampleResult) -> bytes:
    """All of a result."""
    return encode_sample_response(
        result.sequences, result.prompt_logprobs, result.topk_prompt, None, result.alt_tokens, 0
    )


async def among(
    engine: TorchEngine, watched: Asked, neighbours: int, adapters: list[AdapterRef]
) -> tuple[SampleResult, int]:
    """The result of `watched` while so many others run beside it, and how many of those came and went."""
    watching = asyncio.create_task(engine.sample(*watched))
    gone = 0

    async def neighbour(place: int) -> None:
        nonlocal gone
        for number in count(place, neighbours):
            await engine.sample(*asked(number, adapters, max_tokens=1 + number % 7))
            gone += 1
            if watching.done():
                return

    async with asyncio.TaskGroup() as group:
        for place in range(neighbours):
            group.create_task(neighbour(place))
    return await watching, gone


@pytest.mark.parametrize("neighbours", [1, 7, pytest.param(63, marks=pytest.mark.slow)])
async def test_a_sequence_has_the_same_bits_alone_and_among_others_that_come_and_go(
    open_engine: OpenEngine, tied: Path, adapters: list[AdapterRef], neighbours: int
) -> None:
    many = [asked(number, adapters, max_tokens=16) for number in (0, 2, 3, 5, 14)]
    async with open_engine(tied, deterministic=True, prefill_tokens=16) as engine:
        alone = [bits(await engine.sample(*watched)) for watched in many]
        for watched, expected in zip(many, alone, strict=True):
            result, gone = await among(engine, watched, neighbours, adapters)
            assert gone > neighbours, "others have left while it ran, and new ones have joined"
            assert bits(result) == expected, watched


async def test_a_sequence_has_the_same_bits_whatever_the_number_of_threads(tmp_path: Path) -> None:
    """With a model whose products are large enough to be divided among threads."""
    source = wide_model(tmp_path / "wide")
    task, _ = asked(2, [], tokens=list(range(2, 302)), max_tokens=8)
    found = set()
    for threads in (None, 1, 3):
        engine = TorchEngine(load_base(str(source)), str(source), threads=threads, deterministic=True)
        try:
            found.add(hashlib.sha256(bits(await engine.sample(task, None))).hexdigest())
        finally:
            await engine.close()
    assert len(found) == 1


def wide_model(folder: Path) -> Path:
    config = Qwen3Config(
        vocab_size=3001,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=512,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).float().save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_running_service_repeats_every_bit_among_others_and_in_another_process(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REKINDLE_THREADS", "2")
    with (
        running_stack(tiny_model_dir, tmp_path / "data", ["--deterministic"]) as stack,
        connected(stack.url) as service,
    ):
        training = client(service, stack.base_model)
        train(training, 3)
        samplers = [
            service.create_sampling_client(base_model=stack.base_model).result(WAIT),
            training.save_weights_and_get_sampling_client().result(WAIT),
        ]
        alone = [[served(ask(sampler, seed)) for seed in range(3)] for sampler in samplers]
        for again in range(2):
            futures = [[ask(sampler, seed) for seed in range(3)] for sampler in samplers]
            others = [ask(samplers[seed % 2], seed, max_tokens=1 + seed) for seed in range(3, 12)]
            assert [[served(future) for future in row] for row in futures] == alone
            assert len({served(future) for future in others}) == len(others)
            os.kill(stack.until("sample", "ready"), signal.SIGKILL)
            assert again or served(ask(samplers[1], 0)) == alone[1][0]
        assert alone[0] != alone[1], "the adapter changes something"


def ask(sampler: tinker.SamplingClient, seed: int, max_tokens: int = 24) -> Answer:
    """Greedy for seed 0."""
    params = types.SamplingParams(max_tokens=max_tokens, seed=seed, temperature=min(seed, 1.0), stop=[])
    return sampler.sample(tokens(*range(5 + seed, 30)), 2, params, include_prompt_logprobs=True)


def served(future: Answer) -> str:
    """All numbers of an answer, written so that each has its every bit."""
    found = future.result(2 * WAIT)
    return repr([found.prompt_logprobs, *((one.tokens, one.logprobs) for one in found.sequences)])
