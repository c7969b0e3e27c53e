"""How vLLM is started for this service: its arguments, the platform's needs, the shapes of the base model.

On a CPU four things need care (seen in vLLM 0.32). Tokens without an adapter get that of the last place, so there
is one place more than adapters and it stays empty: vLLM fills the first free one. A prompt that is prefilled in
parts moves the generator of a seeded request back, which a CPU generator cannot do and which ends the engine, so
prompts are prefilled whole. The sampler compiles a helper by a C++ compiler at the first request, twenty seconds
for nothing, so compilation is off. And threads bound to cores take them from the other processes of the machine,
so they are not bound.
"""

import os
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from vllm.config.lora import MaxLoRARanks
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform

CPU_CACHE_GIB = 1.0
"""Key-value cache on a CPU unless a size is set: vLLM itself would take most of the machine's memory."""


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """What may be set. Example: VllmOptions(dtype="bfloat16", max_lora_rank=64)."""

    dtype: str = "float32"
    gpu_memory_utilization: float = 0.9
    """Share of a GPU's memory that weights and cache may take."""
    kv_cache_gib: float | None = None
    """Memory of the key-value cache; None = what that share leaves on a GPU, `CPU_CACHE_GIB` on a CPU."""
    max_lora_rank: int = 64
    """Adapters of higher rank are refused; memory of a place grows with it."""
    max_adapters: int = 32
    """Versions in memory."""
    batch_adapters: int = 8
    """Versions in one pass of a GPU; requests with further ones wait. A CPU has no such bound."""
    threads: int | None = None
    """CPU threads; None = vLLM's choice."""


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What must be known of the base model beside vLLM, which tells little of it."""

    vocab_size: int
    context_length: int
    eos_token_ids: frozenset[int]
    shapes: dict[str, tuple[int, ...]]
    """(output, input) of each linear layer, by module name."""


def base_facts(source: str) -> BaseFacts:
    """Read the configuration of the model in the folder `source`; no weights."""
    config = AutoConfig.from_pretrained(source)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    linear = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    return BaseFacts(
        vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings,
        eos_token_ids=_eos_token_ids(source, text.eos_token_id),
        shapes={name: tuple(part.weight.shape) for name, part in linear.items()},
    )


def _eos_token_ids(source: str, of_model: int | list[int] | None) -> frozenset[int]:
    """End-of-sequence ids of the generation config, else of the model config."""
    try:
        eos = GenerationConfig.from_pretrained(source).eos_token_id
    except OSError:  # a model need not have one
        eos = None
    eos = of_model if eos is None else eos
    return frozenset() if eos is None else frozenset(eos if isinstance(eos, list) else [eos])


def admitted_rank(rank: int) -> int:
    """The smallest `max_lora_rank` of vLLM that holds `rank`. Raises ValueError above its largest."""
    admitted = sorted(get_args(MaxLoRARanks))
    for candidate in admitted:
        if candidate >= rank:
            return int(candidate)
    raise ValueError(f"max_lora_rank: {rank}, vLLM admits at most {admitted[-1]}")


def prepare_environment(threads: int | None) -> None:
    """Set what vLLM and its processes read from the environment, unless it is set."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # This process has threads, which a fork would lose, and a spawned one runs `__mp_main__` of the service.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    if current_platform.is_cpu():
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        # Threads that spin while they wait take the cores from the process that feeds them.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        # The model runs in the engine's process instead of in a third one.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def engine_args(source: str, facts: BaseFacts, options: VllmOptions) -> AsyncEngineArgs:
    """Raises ValueError when vLLM does not admit `max_lora_rank`."""
    cpu = current_platform.is_cpu()
    cache_gib = options.kv_cache_gib
    if cache_gib is None and cpu:
        cache_gib = CPU_CACHE_GIB
    places, held = min(options.batch_adapters, options.max_adapters), options.max_adapters
    platform: dict[str, Any] = {}
    if cpu:
        places = held = options.max_adapters + 1
        platform = {"enable_chunked_prefill": False, "distributed_executor_backend": "uni"}
        # Scores of a prompt compute anew what does not fill a block.
        platform["block_size"] = 32
        platform["max_num_batched_tokens"] = max(2048, facts.context_length)
    return AsyncEngineArgs(
        model=source,
        skip_tokenizer_init=True,
        generation_config="vllm",  # what the model's authors recommend shall not change what was asked for
        dtype=options.dtype,
        max_model_len=-1,
        gpu_memory_utilization=options.gpu_memory_utilization,
        kv_cache_memory_bytes=None if cache_gib is None else int(cache_gib * 2**30),
        enable_prefix_caching=True,
        enable_lora=True,
        max_lora_rank=admitted_rank(options.max_lora_rank),
        max_loras=places,
        max_cpu_loras=held,
        logprobs_mode="raw_logprobs",
        max_logprobs=facts.vocab_size,
        disable_log_stats=True,
        **platform,
    )
