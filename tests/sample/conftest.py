"""Adapters for the tiny model, plain transformers to compare with, and an engine of each kind."""

import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.model.base import load_base
from services.model.lora import LoraSpec, init_adapter
from services.model.peft_files import save_adapter
from services.sample.engine import AdapterRef, Engine
from services.sample.torch_engine import TorchEngine
from tests.conftest import require
from tests.tiny_model import make_tiny_model

SMALL = {"kv_cache_gib": 0.25, "max_lora_rank": 16, "max_adapters": 2, "batch_adapters": 2, "threads": 1}

OpenEngine = Callable[..., AbstractAsyncContextManager[TorchEngine]]


class Reference:
    """The same model in plain transformers and PEFT."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self.tokenizer: Any = AutoTokenizer.from_pretrained(source)
        self.model = cache(self._load)

    def _load(self, folder: Path | None) -> Any:
        model = AutoModelForCausalLM.from_pretrained(self._source, dtype=torch.float32)
        return model if folder is None else PeftModel.from_pretrained(model, str(folder))

    def logprobs(self, tokens: list[int], adapter: AdapterRef | None = None) -> Tensor:
        """(P, V): row i predicts position i + 1."""
        with torch.no_grad():
            logits = self.model(adapter and adapter.folder)(torch.tensor([tokens])).logits[0]
        return logits.float().log_softmax(-1)

    def of_sampled(self, prompt: list[int], sampled: list[int], adapter: AdapterRef | None = None) -> Tensor:
        """(T,) logprobs of a continuation."""
        rows = self.logprobs([*prompt, *sampled], adapter)[len(prompt) - 1 : -1]
        return rows.gather(1, torch.tensor(sampled)[:, None]).squeeze(1)

    def greedy(self, prompt: list[int], count: int, adapter: AdapterRef | None = None) -> list[int]:
        """What `generate` continues with, end of sequence included."""
        output = self.model(adapter and adapter.folder).generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=count,
            do_sample=False,
        )
        return output[0, len(prompt) :].tolist()


def make_adapter(source: Path, folder: Path, spec: LoraSpec) -> AdapterRef:
    """An adapter that changes the model visibly."""
    base = load_base(str(source))
    adapter = init_adapter(spec, base.layers)
    generator = torch.Generator().manual_seed(spec.seed)
    for b_O_R in adapter.b.values():
        b_O_R.normal_(std=0.08, generator=generator)
    save_adapter(folder, adapter, str(source))
    return AdapterRef(f"run/sampler/{folder.name}", folder)


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with heads wide enough for every engine."""
    return make_tiny_model(tmp_path_factory.mktemp("wide") / "model", head_dim=32)


@pytest.fixture(scope="session")
def reference(tiny_model_dir: Path) -> Reference:
    return Reference(tiny_model_dir)


@pytest.fixture(scope="session")
def adapters(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    """Different ranks and targets."""
    folder = tmp_path_factory.mktemp("adapters")
    specs = [
        LoraSpec(rank=8, seed=1),
        LoraSpec(rank=4, seed=2, train_mlp=False),
        LoraSpec(rank=16, seed=3, train_unembed=False),
    ]
    return [make_adapter(tiny_model_dir, folder / f"step-{i}", spec) for i, spec in enumerate(specs)]


@pytest.fixture
def open_engine(tiny_model_dir: Path) -> OpenEngine:
    """An async context manager for a torch engine of the tiny model; options go to `TorchEngine`."""

    @asynccontextmanager
    async def opened(source: Path = tiny_model_dir, **options: Any) -> AsyncIterator[TorchEngine]:
        engine = TorchEngine(load_base(str(source)), str(tiny_model_dir), threads=1, **options)
        try:
            yield engine
        finally:
            await engine.close()

    return opened


@asynccontextmanager
async def open_vllm(source: Path, **options: Any) -> AsyncIterator[Any]:
    """A vLLM engine; options go to `VllmOptions`."""
    require(find_spec("vllm"), "vLLM (task test:vllm)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that vLLM imports
        from services.sample.vllm_engine import VllmEngine
        from services.sample.vllm_setup import VllmOptions

        engine = await VllmEngine.open(str(source), VllmOptions(**SMALL | options))
    try:
        yield engine
    finally:
        await engine.close()


ENGINES = ["torch", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.timeout(300)])]


@pytest_asyncio.fixture(params=ENGINES, scope="module", loop_scope="session")
async def engine(request: pytest.FixtureRequest, tiny_model_dir: Path) -> AsyncIterator[Engine]:
    """Every engine there is, with room for fewer versions than `adapters` has: the contract holds for each."""
    if request.param == "vllm":
        async with open_vllm(tiny_model_dir) as opened:
            yield opened
        return
    opened = TorchEngine(load_base(str(tiny_model_dir)), str(tiny_model_dir), threads=1, max_adapters=2)
    try:
        yield opened
    finally:
        await opened.close()
