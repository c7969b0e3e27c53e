"""One pass: the datums of any number of runs through the model in one packed row, forward and backward.

A pass is a function: it returns what it computed and changes no run, so it may fail or be repeated at will.
The row is laid out run by run and within a run work by work, which makes each adapter's tokens and each
loss's cells one slice.

Axes: T tokens of the row, K target columns (padded to the most that any datum has), C cells that hold a
target, P parameters of an adapter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from rekindle.types.datums import Datum
from rekindle.types.losses import TARGETS, find_loss
from services.model.attention import CausalSequences
from services.model.base import BaseModel
from services.model.head import token_logprobs
from services.model.lora import Adapter, Group, Groups
from services.train.losses import LOSSES
from services.train.packing import Item, Pass
from services.train.run import TrainRun


@dataclass(frozen=True, slots=True)
class PassWork:
    """Datums of one run under one loss: what one command brings, or a chunk of it. Taken as validated."""

    run: TrainRun
    data: Sequence[Datum]
    loss_fn: str
    loss_fn_config: Mapping[str, float | str]
    forward_only: bool

    @property
    def asks_entropy(self) -> bool:
        return find_loss(self.loss_fn).asks_entropy(self.loss_fn_config)


@dataclass(slots=True)
class PassOutput:
    """What a pass computed."""

    logprobs: dict[Item, np.ndarray] = field(default_factory=dict)
    """float32, in the shape of the datum's `target_tokens`."""
    spreads: dict[Item, np.ndarray] = field(default_factory=dict)
    """Entropy and its variance (tokens, 2), float32, of the datums whose work asks for it."""
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    """By index of the work: `loss:sum` and the loss's own, of the work's datums in this pass."""
    gradients: dict[int, Tensor] = field(default_factory=dict)
    """By index of the run: the gradient (P,) of the pass's loss."""


@dataclass(frozen=True, slots=True)
class _Row:
    """The datums of a pass laid out as one row."""

    tokens_T: Tensor
    target_T_K: Tensor
    cells: Tensor | None
    """Which of the (T, K) targets are there; None = all."""
    attend: CausalSequences


def compute(base: BaseModel, work: Sequence[PassWork], items: Pass) -> PassOutput:
    """Run `items`, which are all training or all `forward_only`."""
    items = sorted(items, key=lambda item: (item.run, item.work, item.tokens))
    output = PassOutput()
    with torch.set_grad_enabled(not items[0].forward_only):
        leaves, groups = _adapters(work, items)
        spread = any(work[item.work].asks_entropy for item in items)
        logprobs_C, spread_T_2 = _logprobs(base, _row(work, items, base.device), groups, spread)
        loss = _losses(logprobs_C, work, items, output)
        if leaves:
            gradients = torch.autograd.grad(loss, list(leaves.values()))
            output.gradients = dict(zip(leaves, gradients, strict=True))
    _split_logprobs(logprobs_C, work, items, output)
    if spread_T_2 is not None:
        _split_spreads(spread_T_2, work, items, output)
    return output


def _adapters(work: Sequence[PassWork], items: Pass) -> tuple[dict[int, Tensor], Groups]:
    """The leaves to differentiate by, one for each run of a training pass, and the slice of each adapter."""
    leaves: dict[int, Tensor] = {}
    groups: Groups = []
    end = 0
    for run, members in groupby(items, key=lambda item: item.run):
        own = list(members)
        state = work[own[0].work].run
        adapter: Adapter = state.adapter
        if not own[0].forward_only:
            leaves[run], adapter = state.trainable()
        start, end = end, end + sum(item.tokens for item in own)
        groups.append(Group(adapter, slice(start, end)))
    return leaves, groups if len(groups) > 1 else [Group(groups[0].adapter)]


def _row(work: Sequence[PassWork], items: Pass, device: torch.device) -> _Row:
    data = [work[item.work].data[item.datum] for item in items]
    targets = [
        datum.inputs[TARGETS].reshape(item.tokens, -1) for item, datum in zip(items, data, strict=True)
    ]
    width = max(target.shape[1] for target in targets)
    ragged = any(target.shape[1] != width for target in targets)
    if ragged:
        columns = np.concatenate([np.full(len(target), target.shape[1]) for target in targets])
        cells = torch.from_numpy(np.arange(width) < columns[:, None]).to(device)
        targets = [np.pad(target, ((0, 0), (0, width - target.shape[1]))) for target in targets]
    return _Row(
        tokens_T=torch.from_numpy(np.concatenate([datum.tokens for datum in data])).to(device),
        target_T_K=torch.from_numpy(np.concatenate(targets)).to(device),
        cells=cells if ragged else None,
        attend=CausalSequences([item.tokens for item in items], device),
    )


def _logprobs(base: BaseModel, row: _Row, groups: Groups, spread: bool) -> tuple[Tensor, Tensor | None]:
    """Logprobs (C,) of all targets of the row; entropies and their variances (T, 2) if `spread`."""
    hidden_T_E = base.hidden(row.tokens_T, row.attend.position_T, row.attend, groups)
    logprobs_T_K, spread_T_2 = token_logprobs(base, hidden_T_E, row.target_T_K, groups, spread=spread)
    return logprobs_T_K.flatten() if row.cells is None else logprobs_T_K[row.cells], spread_T_2


def _losses(logprobs_C: Tensor, work: Sequence[PassWork], items: Pass, output: PassOutput) -> Tensor:
    """The sum of the losses of all works; notes each work's metrics."""
    parts = [list(members) for _, members in groupby(items, key=lambda item: item.work)]
    sizes = [sum(_datum(work, item).inputs[TARGETS].size for item in part) for part in parts]
    losses: list[Tensor] = []
    for part, part_C in zip(parts, logprobs_C.split(sizes), strict=True):
        index = part[0].work
        loss, metrics = LOSSES[work[index].loss_fn](part_C, _inputs(work[index], part, part_C.device))
        losses.append(loss)
        output.metrics[index] = {
            "loss:sum": loss.item(),
            **{name: value.item() for name, value in metrics.items()},
        }
    return torch.stack(losses).sum()


def _inputs(work: PassWork, items: Pass, device: torch.device) -> dict[str, Tensor]:
    """Each input of the loss for the cells of `items`, one after the other: (C,) float32."""
    spec = find_loss(work.loss_fn)
    filled = [spec.fill_inputs(work.data[item.datum].inputs, work.loss_fn_config) for item in items]
    return {
        name: torch.from_numpy(np.concatenate([inputs[name].reshape(-1) for inputs in filled])).to(device)
        for name in spec.all_inputs
        if name != TARGETS
    }


def _split_logprobs(logprobs_C: Tensor, work: Sequence[PassWork], items: Pass, output: PassOutput) -> None:
    values_C = logprobs_C.detach().float().cpu().numpy()
    targets = [_datum(work, item).inputs[TARGETS] for item in items]
    pieces = np.split(values_C, np.cumsum([target.size for target in targets])[:-1])
    for item, target, piece in zip(items, targets, pieces, strict=True):
        output.logprobs[item] = piece.reshape(target.shape)


def _split_spreads(spread_T_2: Tensor, work: Sequence[PassWork], items: Pass, output: PassOutput) -> None:
    pieces = spread_T_2.cpu().numpy()
    ends = np.cumsum([item.tokens for item in items])
    for item, end in zip(items, ends, strict=True):
        if work[item.work].asks_entropy:
            output.spreads[item] = pieces[end - item.tokens : end]


def _datum(work: Sequence[PassWork], item: Item) -> Datum:
    return work[item.work].data[item.datum]
