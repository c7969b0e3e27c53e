"""The state of one training run in memory: what a snapshot must hold to go on as if nothing had happened.

All numbers of a run lie in flat float32 buffers (parameters, accumulated gradient, two moments); the
adapter's factors are views of the parameters. So an optimizer step is a handful of vector operations however
many layers there are, and a copy is four. On disk every tensor has a name of its own, in PEFT's format for
the adapter and beside it for the rest.

Axis: P parameters of the adapter, in the order of the base model's layers, A before B.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from services.model.base import BaseModel
from services.model.lora import Adapter, LoraSpec
from services.model.peft_files import adapter_tensors, load_adapter, save_adapter

OPTIMIZER = "optimizer.safetensors"
GRADIENT = "gradient.safetensors"
STEP = "step"
FLOAT_BYTES = 4


@dataclass(eq=False, slots=True)
class TrainRun:
    """One run: its adapter, what has been accumulated since the last step, and the optimizer's memory."""

    base_source: str
    """The model that the adapter belongs to."""
    adapter: Adapter
    """float32 master weights: views of `parameters_P`, changed in place by every step."""
    parameters_P: Tensor
    gradient_P: Tensor
    """Sum of the gradients of every pass since the last step."""
    mean_P: Tensor
    """First moment of the gradient."""
    variance_P: Tensor
    """Second moment, not centred."""
    step: int = 0
    """Optimizer steps taken."""

    @classmethod
    def of(cls, adapter: Adapter, base: BaseModel) -> "TrainRun":
        """A run at step 0 that starts from a copy of `adapter`.

        Raises ValueError when the adapter does not fit the base model.
        """
        ordered = _in_layer_order(adapter, base)
        parameters_P = torch.cat([tensor.flatten() for tensor in ordered.parameters()])
        parameters_P = parameters_P.to(base.device, torch.float32)
        return cls(
            base.source,
            view(ordered, parameters_P),
            parameters_P,
            gradient_P=torch.zeros_like(parameters_P),
            mean_P=torch.zeros_like(parameters_P),
            variance_P=torch.zeros_like(parameters_P),
        )

    def trainable(self) -> tuple[Tensor, Adapter]:
        """A fresh leaf (P,) of an autograd graph and the adapter as views of it: for one pass."""
        leaf_P = self.parameters_P.detach().requires_grad_()
        return leaf_P, view(self.adapter, leaf_P)

    def copy(self) -> "TrainRun":
        """The same state in memory of its own, to be written while this run goes on."""
        parameters_P = self.parameters_P.clone()
        return replace(
            self,
            adapter=view(self.adapter, parameters_P),
            parameters_P=parameters_P,
            gradient_P=self.gradient_P.clone(),
            mean_P=self.mean_P.clone(),
            variance_P=self.variance_P.clone(),
        )


def state_bytes(spec: LoraSpec, base: BaseModel) -> int:
    """What a run takes in memory: weights, gradient and two moments of its adapter."""
    shapes = [base.layers[name].weight.shape for name in spec.targets(base.layers)]
    return 4 * FLOAT_BYTES * sum(spec.rank * (outputs + inputs) for outputs, inputs in shapes)


def view(like: Adapter, flat_P: Tensor) -> Adapter:
    """An adapter of `like`'s shapes whose factors are views of `flat_P`."""
    shapes = like.parameters()
    pieces = iter(
        piece.view(tensor.shape)
        for piece, tensor in zip(flat_P.split([tensor.numel() for tensor in shapes]), shapes, strict=True)
    )
    adapter = Adapter(like.rank, alpha=like.alpha)
    for name in like.a:
        adapter.a[name], adapter.b[name] = next(pieces), next(pieces)
    return adapter


def save_state(folder: Path, run: TrainRun, *, optimizer: bool, gradients: bool = False) -> None:
    """Write the run: PEFT files always, `optimizer.safetensors` and `gradient.safetensors` if asked."""
    save_adapter(folder, run.adapter, run.base_source)
    if optimizer:
        moments = {**_named(run, "mean", run.mean_P), **_named(run, "variance", run.variance_P)}
        save_file({**moments, STEP: torch.tensor(run.step)}, str(folder / OPTIMIZER))
    if gradients:
        save_file(_named(run, "gradient", run.gradient_P), str(folder / GRADIENT))


def load_state(folder: Path, base: BaseModel, *, optimizer: bool, gradients: bool = False) -> TrainRun:
    """Read a run back, bit for bit; without `optimizer` its moments and step count start fresh.

    Raises ValueError when the adapter does not fit the base model, FileNotFoundError when a part that is
    asked for was not saved.
    """
    run = TrainRun.of(load_adapter(folder), base)
    if optimizer:
        moments = load_file(str(folder / OPTIMIZER))
        run.step = int(moments[STEP])
        _fill(run, "mean", run.mean_P, moments)
        _fill(run, "variance", run.variance_P, moments)
    if gradients:
        _fill(run, "gradient", run.gradient_P, load_file(str(folder / GRADIENT)))
    return run


def _named(run: TrainRun, kind: str, flat_P: Tensor) -> dict[str, Tensor]:
    """The pieces of a buffer under the names of the parameters that they belong to."""
    tensors = adapter_tensors(view(run.adapter, flat_P))
    return {f"{kind}.{name}": tensor for name, tensor in tensors.items()}


def _fill(run: TrainRun, kind: str, flat_P: Tensor, tensors: dict[str, Tensor]) -> None:
    """Read a buffer from its named pieces; the inverse of `_named`."""
    names = adapter_tensors(view(run.adapter, flat_P))
    flat_P.copy_(torch.cat([tensors[f"{kind}.{name}"].flatten() for name in names]))


def _in_layer_order(adapter: Adapter, base: BaseModel) -> Adapter:
    """The adapter with its modules in the base model's order, so that buffers mean the same everywhere."""
    unknown = sorted(adapter.a.keys() - base.layers.keys())
    if unknown:
        raise ValueError(f"adapter trains {unknown[0]}, which {base.source} does not have")
    ordered = Adapter(adapter.rank, alpha=adapter.alpha)
    for name, layer in base.layers.items():
        if name not in adapter.a:
            continue
        outputs, inputs = layer.weight.shape
        a, b = adapter.a[name], adapter.b[name]
        if a.shape != (adapter.rank, inputs) or b.shape != (outputs, adapter.rank):
            raise ValueError(
                f"adapter has shapes {tuple(a.shape)}, {tuple(b.shape)} for {name}, not its layer's"
            )
        ordered.a[name], ordered.b[name] = a, b
    return ordered
