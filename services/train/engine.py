"""The trainer's core: forward, backward and optimizer step for many runs on one base model.

A call brings the work of any number of runs; one run is the simple case. It is packed into few passes
(`packing.py`), each a pure function (`passes.py`). What they found is added to the runs' accumulated
gradients at the very end, so a call that fails has changed nothing.

Errors name the work that is at fault, so that the others can be tried again without it:

    WorkError
    ├── DatumTooLarge      one datum alone does not fit into memory
    └── NonFiniteResult    the loss or its gradient overflowed or is not a number

It knows nothing of commands, logs or files; one thread calls it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rekindle.types.requests import AdamParams
from services.model.base import BaseModel
from services.model.lora import LoraSpec, init_adapter
from services.train.optimizer import adamw_step
from services.train.packing import Item, Pass, halve, plan
from services.train.passes import PassOutput, PassWork, compute
from services.train.run import TrainRun

__all__ = ["DatumTooLarge", "NonFiniteResult", "PassResult", "PassWork", "TrainEngine", "WorkError"]


TOKEN_BUDGETS = {"cpu": 2048}
"""A CPU is fastest while activations stay in its cache; an accelerator wants large products."""


class WorkError(Exception):
    """A call failed because of `work`, an index into the call's list; no run has changed."""

    def __init__(self, work: int, reason: str) -> None:
        super().__init__(work, reason)
        self.work = work
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class DatumTooLarge(WorkError):
    """A pass of this one datum ran out of memory."""


class NonFiniteResult(WorkError):
    """The loss or gradient of this work is infinite or not a number."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a work gets back."""

    logprobs: list[np.ndarray]
    """Per datum, in the shape of its `target_tokens`, float32: raw model, temperature 1."""
    metrics: dict[str, float]
    """`loss:sum` and what the loss adds; keys are `name:reduction`."""
    spreads: list[np.ndarray] = field(default_factory=list)
    """Per datum entropy and its variance (tokens, 2), float32, in nats; empty unless the work asks for them."""


class TrainEngine:
    """Trains LoRA adapters on one frozen base model.

    `token_budget` bounds the tokens of a pass and with it the memory for activations; None takes what suits
    the device. `threads`, where given, sets the number of CPU threads of the process.
    """

    def __init__(
        self, base: BaseModel, *, token_budget: int | None = None, threads: int | None = None
    ) -> None:
        if token_budget is None:
            token_budget = TOKEN_BUDGETS.get(base.device.type, 16384)
        if token_budget < 1:
            raise ValueError(f"token_budget: {token_budget}, expected 1 or more")
        if threads is not None:
            torch.set_num_threads(threads)
        self.base = base
        self._token_budget = token_budget

    def new_run(self, spec: LoraSpec) -> TrainRun:
        """A run at step 0, a pure function of `spec`. Raises ValueError when it would train no layer."""
        return TrainRun.of(init_adapter(spec, self.base.layers), self.base)

    def run_passes(self, work: Sequence[PassWork]) -> list[PassResult]:
        """Compute every work, and add the gradients of those not `forward_only` to their runs.

        Raises WorkError, with all runs as they were.
        """
        runs = list(dict.fromkeys(job.run for job in work))
        items = _items(work, runs)
        outputs: list[PassOutput] = []
        gradients: dict[int, Tensor] = {}
        for part in plan(items, self._token_budget):
            for output in self._compute(work, part):
                _move_gradients(output, gradients)
                outputs.append(output)
        _check_finite(work, runs, outputs, gradients)
        for index in sorted(gradients):
            runs[index].gradient_P.add_(gradients[index])
        return _results(work, items, outputs)

    def optim_step(self, run: TrainRun, params: AdamParams) -> dict[str, float]:
        """One AdamW step with the accumulated gradient, which is zero afterwards. Returns metrics."""
        return adamw_step(run, params)

    def _compute(self, work: Sequence[PassWork], items: Pass) -> list[PassOutput]:
        """One pass; several when memory does not suffice for one."""
        try:
            return [compute(self.base, work, items)]
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
        # Only here, outside the handler, does nothing hold the failed pass's tensors any more.
        if len(items) == 1:
            item = items[0]
            reason = f"data[{item.datum}]: its {item.tokens} tokens do not fit into the trainer's memory"
            raise DatumTooLarge(item.work, reason)
        return [output for half in halve(items) for output in self._compute(work, half)]


def _items(work: Sequence[PassWork], runs: list[TrainRun]) -> list[Item]:
    return [
        Item(index, position, runs.index(job.run), len(datum.tokens), job.forward_only)
        for index, job in enumerate(work)
        for position, datum in enumerate(job.data)
    ]


def _move_gradients(output: PassOutput, total: dict[int, Tensor]) -> None:
    """Add the gradients of a pass to the call's, so that no more than one of each run is kept."""
    for run, gradient_P in output.gradients.items():
        total[run] = total[run].add_(gradient_P) if run in total else gradient_P
    output.gradients.clear()


def _check_finite(
    work: Sequence[PassWork], runs: list[TrainRun], outputs: list[PassOutput], gradients: dict[int, Tensor]
) -> None:
    for output in outputs:
        for index, metrics in output.metrics.items():
            if not np.isfinite(metrics["loss:sum"]):
                raise NonFiniteResult(index, f"the loss is {metrics['loss:sum']}, expected a finite number")
    for run, gradient_P in gradients.items():
        if not gradient_P.isfinite().all():
            first = next(i for i, job in enumerate(work) if job.run is runs[run] and not job.forward_only)
            raise NonFiniteResult(first, "the gradient is not finite")


def _results(work: Sequence[PassWork], items: list[Item], outputs: list[PassOutput]) -> list[PassResult]:
    """Put the outputs of all passes back into the order of the call."""
    logprobs = {item: array for output in outputs for item, array in output.logprobs.items()}
    spreads = {item: array for output in outputs for item, array in output.spreads.items()}
    results = [PassResult([], {"loss:sum": 0.0}) for _ in work]
    for item in items:
        results[item.work].logprobs.append(logprobs[item])
        if item in spreads:
            results[item.work].spreads.append(spreads[item])
    for output in outputs:
        for index, metrics in output.metrics.items():
            _merge(results[index].metrics, metrics)
    return results


def _merge(into: dict[str, float], metrics: dict[str, float]) -> None:
    for key, value in metrics.items():
        assert key.endswith(":sum"), f"no rule to combine the metric {key} over passes"
        into[key] = into.get(key, 0.0) + value


def _out_of_memory(error: BaseException) -> bool:
    """Accelerators have a class for it; the CPU allocator only a message."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
