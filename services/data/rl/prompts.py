"""Which prompt a command is about: the rows of the run's dataset in the order of its seed, and the held-out rows."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio.to_thread

from events.edge import Edge
from events.records import RlRunRecord, RowsRef
from services.data.rl import text
from services.data.rl.messages import Sample
from services.data.rl.prompts_order import row_of
from services.data.rl.rows import Prompt, Rows
from services.data.rl.text import Text


class Prompts:
    """One run's prompts."""

    def __init__(self, run: RlRunRecord, text: Text, rows: Rows, held_out: Rows | None) -> None:
        self._run = run
        self._rows = rows
        self._held_out = held_out
        self.text = text

    @classmethod
    @asynccontextmanager
    async def open(cls, edge: Edge, run: RlRunRecord, source: str) -> "AsyncIterator[Prompts]":
        """The files stay for the block. source: where the base model's tokenizer lies. Raises NotFound for a dataset
        that was deleted."""
        tokenizer = await anyio.to_thread.run_sync(text.load, source)
        async with AsyncExitStack() as held:

            async def rows(ref: RowsRef) -> Rows:
                folder = await held.enter_async_context(edge.blobs.folder(ref.blob))
                return Rows(folder, run.spec, tokenizer, run.created)

            held_out = None if run.held_out is None else await rows(run.held_out)
            yield cls(run, tokenizer, await rows(run.dataset), held_out)

    async def of(self, command: Sample) -> Prompt:
        """The prompt of a place. Raises InvalidField, UserError."""
        row = row_of(command.prompt, seed=self._run.spec.seed, rows=self._run.dataset.rows)
        return await self._rows.prompt(row)

    async def held_out(self, index: int) -> Prompt:
        """The prompt of a held-out row. Raises InvalidField, UserError."""
        assert self._held_out is not None, "the run is evaluated"
        return await self._held_out.prompt(index)
