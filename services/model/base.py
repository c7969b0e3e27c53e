"""Load a base model: any transformers causal language model, frozen, with packed attention and LoRA in it.

A model is a folder (`events.model_files` brings it there); only safetensors weights are read. Which of its linear
layers can carry LoRA is found by the usual names of projections (Llama, Qwen, Gemma, Mistral and kin). Of a
model for text and images (Gemma 3 from 4B on) only the text part is kept, under the names that it has there.

What would give wrong numbers in a packed row is refused, by what the configuration says and by a short pass.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from services.model import attention
from services.model.attention import Attend, CausalSequences
from services.model.lora import Groups, LoraLinear, LoraSwitch, install


@dataclass(slots=True)
class BaseModel:
    """A frozen model and what a caller must know of it."""

    source: str
    """Folder or hub id by which others load the same model."""
    model: Any
    """The transformers `…ForCausalLM`; its linear layers are wrapped by `LoraLinear`."""
    switch: LoraSwitch
    """Tells every wrapped layer which tokens belong to which adapter."""
    layers: dict[str, LoraLinear]
    """Layers that can carry LoRA, by module name in the model."""
    vocab_size: int
    context_length: int
    eos_token_ids: frozenset[int]
    softcap: float | None = field(default=None)
    """Final logit soft-capping, None = off."""

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def trunk(self) -> Any:
        """The layers without the unembedding: tokens to hidden states."""
        return self.model.get_decoder()

    @property
    def head(self) -> LoraLinear | nn.Linear:
        """The unembedding: hidden states to logits."""
        return self.model.get_output_embeddings()  # type: ignore[no-any-return]

    def hidden(self, tokens_T: Tensor, position_T: Tensor, attend: Attend, groups: Groups) -> Tensor:
        """Final hidden states (T, E) of one packed row; `groups` stay in force until the next call."""
        self.switch.groups = groups
        row = {"input_ids": tokens_T[None], "position_ids": position_T[None]}
        out = self.trunk(**row, use_cache=False, attend=attend)
        return out.last_hidden_state[0]  # type: ignore[no-any-return]

    def logits(self, hidden_T_E: Tensor, groups: Groups) -> Tensor:
        """Raw logits (T, V) in float32 of the given hidden states."""
        head = self.head
        logits_T_V = (
            head.apply_groups(hidden_T_E, groups) if isinstance(head, LoraLinear) else head(hidden_T_E)
        )
        logits_T_V = logits_T_V.float()
        return logits_T_V if self.softcap is None else self.softcap * torch.tanh(logits_T_V / self.softcap)


def load_base(
    folder: str, *, known_as: str | None = None, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> BaseModel:
    """Load the model in `folder` and wrap its projections for LoRA.

    known_as: by what others load the same model; None = by this folder.
    Raises ValueError when the architecture cannot run with packed attention.
    """
    source = known_as or folder
    attention.register()
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention.ATTENTION_NAME, use_safetensors=True
    )
    _check_architecture(source, model)
    _keep_text(model)
    model.to(torch.device(device)).eval().requires_grad_(False)
    text = model.config.get_text_config()
    switch = LoraSwitch()
    base = BaseModel(
        source=source,
        model=model,
        switch=switch,
        layers=install(model, switch),
        vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings,
        eos_token_ids=_eos_token_ids(model),
        softcap=getattr(text, "final_logit_softcapping", None),
    )
    _try_out(base)
    return base


def _check_architecture(source: str, model: Any) -> None:
    """Raise ValueError for what the configuration tells and a short pass would not show."""
    if not getattr(model, "_supports_attention_backend", False):
        raise ValueError(f"{source}: {type(model).__name__} does not take a custom attention function")
    text = model.config.get_text_config()
    scaled = [n for n in ("logits_scaling", "logit_scale") if getattr(text, n, None) not in (None, 1)]
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    rope = getattr(text, "rope_parameters", None) or {}
    ropes = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    # These rotate by the longest sequence seen, so that one run's numbers would depend on its company's.
    elastic = {r["rope_type"] for r in ropes if "rope_type" in r} & {"dynamic", "longrope"}
    if unsupported := [*scaled, *(f"{x} layers" for x in kinds), *(f"{x} rotation" for x in elastic)]:
        raise ValueError(f"{source}: models with {', '.join(sorted(unsupported))} are not supported")


def _keep_text(model: Any) -> None:
    """Drop the parts for images and sound, which text does not need; the others keep their names."""
    trunk, outer = model.get_decoder(), getattr(model, model.base_model_prefix)
    for name, child in list(outer.named_children()):
        if trunk is not outer and child is not trunk:
            delattr(outer, name)


def _try_out(base: BaseModel) -> None:
    """Raise ValueError when attention asks for what ours does not do."""
    pair = CausalSequences([2], base.device)
    try:
        with torch.no_grad():
            base.hidden(torch.zeros_like(pair.position_T), pair.position_T, pair, [])
    except NotImplementedError as error:
        raise ValueError(f"{base.source}: {error}") from error


def describe(folder: str) -> dict[str, Any]:
    """What edges check requests against, from the configuration alone: vocabulary, context, architecture."""
    config = AutoConfig.from_pretrained(folder)
    text = config.get_text_config()
    return {
        "vocab_size": text.vocab_size,
        "context_length": text.max_position_embeddings,
        "arch": (config.architectures or [config.model_type])[0],
    }


def _eos_token_ids(model: Any) -> frozenset[int]:
    """End-of-sequence ids of the generation config, else of the model config."""
    eos = getattr(model.generation_config, "eos_token_id", None)
    if eos is None:
        eos = model.config.get_text_config().eos_token_id
    if eos is None:
        return frozenset()
    return frozenset(eos if isinstance(eos, list) else [eos])
