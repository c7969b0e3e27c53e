"""One pass of the model over decoding rows and prompt chunks of many jobs, packed into one row of tokens.

Axes: N decoding rows, T tokens of the pass, F prompts that the pass finishes, E hidden, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.model.attention import Attend
from services.model.base import BaseModel
from services.model.lora import Adapter, Group, Groups
from services.sample.attend import PassAttend
from services.sample.cache import SlotCache
from services.sample.decoder import Decoder
from services.sample.jobs import Chunk


class Model:
    """A base model with the faster way through its layers, where it has one."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self._decoder = Decoder.of(base)

    def hidden(self, tokens_T: Tensor, position_T: Tensor, attend: Attend, groups: Groups) -> Tensor:
        """As `BaseModel.hidden`."""
        row = (tokens_T, position_T, attend, groups)
        hidden_T_E = None if self._decoder is None else self._decoder.hidden(*row)
        return self.base.hidden(*row) if hidden_T_E is None else hidden_T_E


def row_groups(adapters: Sequence[Adapter | None], device: torch.device) -> Groups:
    """Groups of the rows that carry these adapters, in any order."""
    rows: dict[Adapter | None, list[int]] = {}
    for row, adapter in enumerate(adapters):
        rows.setdefault(adapter, []).append(row)
    if len(rows) == 1:
        return [Group(adapters[0], slice(0, len(adapters)))]
    return [Group(adapter, torch.tensor(members, device=device)) for adapter, members in rows.items()]


def forward(
    model: Model,
    cache: SlotCache,
    rows: slice,
    token_N: NDArray[np.int64],
    length_N: NDArray[np.int64],
    groups: Groups,
    chunks: Sequence[Chunk],
) -> Tensor:
    """Logits (N, V) of the next token of each decoding row of `rows`.

    token_N: the last token of each row; length_N: the tokens before it, all in `cache`; groups: of the rows.
    Chunks leave their keys, their scores and, where a prompt ends, its logits with their jobs.
    """
    base = model.base
    whole = [chunk for chunk in chunks if chunk.whole]
    parts = [chunk for chunk in chunks if not chunk.whole]
    chunks = whole + parts
    tokens = [token_N, *(chunk.job.prompt[chunk.start : chunk.stop] for chunk in chunks)]
    positions = [length_N, *(np.arange(chunk.start, chunk.stop) for chunk in chunks)]
    attend = PassAttend(cache, rows, length_N, whole, parts)
    hidden_T_E = model.hidden(
        torch.from_numpy(np.concatenate(tokens)).to(base.device),
        torch.from_numpy(np.concatenate(positions)).to(base.device),
        attend,
        _extend(groups, len(token_N), ((chunk.job.adapter, chunk.size) for chunk in chunks)),
    )
    ends = list(accumulate((chunk.size for chunk in chunks), initial=len(token_N)))[1:]
    for chunk, end in zip(chunks, ends, strict=True):
        chunk.job.prefilled = chunk.stop
        if chunk.job.scores is not None:
            hidden_R_E = hidden_T_E[end - chunk.size : end]
            chunk.job.scores.feed(base, hidden_R_E, chunk.start, [Group(chunk.job.adapter)])
    return _logits(base, hidden_T_E, len(token_N), groups, list(zip(chunks, ends, strict=True)))


def _logits(
    base: BaseModel, hidden_T_E: Tensor, rows: int, groups: Groups, ends: list[tuple[Chunk, int]]
) -> Tensor:
    """Logits of the rows; those of finished prompts go to their jobs."""
    finished = [(chunk.job, end - 1) for chunk, end in ends if chunk.last]
    last_F = torch.tensor([place for _, place in finished], dtype=torch.int64, device=hidden_T_E.device)
    hidden = torch.cat([hidden_T_E[:rows], hidden_T_E[last_F]]) if finished else hidden_T_E[:rows]
    logits = base.logits(hidden, _extend(groups, rows, ((job.adapter, 1) for job, _ in finished)))
    for (job, _), logits_V in zip(finished, logits[rows:], strict=True):
        job.logits_V = logits_V
    return logits[:rows]


def _extend(groups: Groups, rows: int, spans: Iterable[tuple[Adapter | None, int]]) -> Groups:
    """`groups` of the first `rows` tokens, then spans of tokens; one adapter for all is the fast case."""
    extended = list(groups)
    start = rows
    for adapter, members in groupby(spans, key=lambda span: span[0]):
        stop = start + sum(size for _, size in members)
        extended.append(Group(adapter, slice(start, stop)))
        start = stop
    adapters = {group.adapter for group in extended}
    if len(adapters) == 1:
        return [Group(adapters.pop())]
    return groups if len(extended) == len(groups) else extended
