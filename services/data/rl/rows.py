"""The rows of a version as prompts: any row by its place, filled into the spec's template, in tokens.

A row group is read whole and some are kept, so that rows in any order cost little. Knows nothing of runs. pyarrow is
imported where rows are read and not before: it starts threads, and a process that has some cannot be forked from.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from rekindle.types.rl import RlRunSpec, fill_row
from services.data.rl.text import Text

if TYPE_CHECKING:
    import pyarrow as pa

KEPT_GROUPS = 16
"""Of at most 4 MiB each, as they lie in memory."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row, ready to be sampled."""

    row: dict[str, Any]
    text: str
    """For graders: the filled template, of a conversation the contents of its messages."""
    tokens: tuple[int, ...]


class Rows:
    """Prompts from one version's file."""

    def __init__(self, folder: Path, spec: RlRunSpec, text: Text, now: datetime) -> None:
        """now: what chat templates take for the time."""
        self._folder = folder
        self._spec = spec
        self._text = text
        self._now = now
        self._groups: OrderedDict[int, pa.StructArray] = OrderedDict()
        self._reading = threading.Lock()

    async def prompt(self, index: int) -> Prompt:
        """The row at a place, from 0. Raises InvalidField for a row that lacks a column, UserError for a template."""
        return await anyio.to_thread.run_sync(self._prompt, index)

    def _prompt(self, index: int) -> Prompt:
        with self._reading:
            row = self._row(index)
        if self._spec.prompt is not None:
            text = fill_row(self._spec.prompt, row)
            return Prompt(row, text, tuple(self._text.encode(text)))
        messages = [
            {"role": message.role, "content": fill_row(message.content, row)}
            for message in self._spec.messages or ()
        ]
        text = "\n\n".join(message["content"] for message in messages)
        return Prompt(row, text, tuple(self._text.chat(messages, self._now)))

    def _row(self, index: int) -> dict[str, Any]:
        for start, group in self._groups.items():
            if start <= index < start + len(group):
                return _as_dict(group, index - start)
        from services.data.version import VersionFile

        file = VersionFile(self._folder)
        try:
            start, group = file.group_at(index)
        finally:
            file.close()
        self._groups[start] = group
        while len(self._groups) > KEPT_GROUPS:
            self._groups.popitem(last=False)
        return _as_dict(group, index - start)


def _as_dict(group: "pa.StructArray", index: int) -> dict[str, Any]:
    row: dict[str, Any] = group[index].as_py()
    return row
