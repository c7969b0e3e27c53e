"""Adapters on disk in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

What is written here loads in plain transformers + PEFT and in vLLM. Only safetensors is read, never pickle.
"""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from services.model.lora import Adapter

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
TEXT_PART = "language_model."
"""In the names of a model that has parts for images too, which have projections of the same names."""


def save_adapter(folder: Path, adapter: Adapter, base_source: str) -> None:
    """Write `adapter` into `folder`; float32, one tensor pair for each trained module."""
    from peft import LoraConfig  # a tenth of a trainer's start, and samplers never need it

    folder.mkdir(parents=True, exist_ok=True)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=int(adapter.alpha),
        target_modules=sorted({name.rpartition(".")[2] for name in adapter.a}),
        exclude_modules=_other_parts(adapter),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_source,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    save_file(adapter_tensors(adapter), str(folder / WEIGHTS), metadata={"format": "pt"})


def _other_parts(adapter: Adapter) -> str | None:
    """A pattern of the modules that hold no text layers, None = there are none."""
    if not any(TEXT_PART in name for name in adapter.a):
        return None
    return rf"(?!.*{re.escape(TEXT_PART)}|lm_head).*"


def adapter_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The factors under PEFT's names, on the CPU."""
    tensors: dict[str, Tensor] = {}
    for name in adapter.a:
        tensors[f"{PREFIX}{name}.lora_A.weight"] = adapter.a[name].detach().to("cpu").contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = adapter.b[name].detach().to("cpu").contiguous()
    return tensors


def load_adapter(folder: Path, device: torch.device | str = "cpu") -> Adapter:
    """Read an adapter of PEFT's format.

    Raises ValueError when the folder holds something other than plain LoRA with one rank.
    """
    config = json.loads((folder / CONFIG).read_text())
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("rank_pattern"):
        raise ValueError(f"{folder.name}: only plain LoRA adapters of one rank are supported")
    adapter = Adapter(rank=config["r"], alpha=float(config["lora_alpha"]))
    for key, tensor in load_file(str(folder / WEIGHTS), device=str(device)).items():
        name, _, factor = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
        (adapter.a if factor == "A" else adapter.b)[name] = tensor
    if adapter.a.keys() != adapter.b.keys():
        raise ValueError(f"{folder.name}: lora_A and lora_B tensors do not pair up")
    return adapter
