"""The command that has a run driven: one for each word of its owner's, under the word's number."""

from pydantic import BaseModel, ConfigDict

from events import catalog
from events.edge import Edge
from services.data import commands

FIRST = 1
"""Number of the word with which a run begins."""


class DriveCommand(BaseModel):
    """Drive a run, on its owner's word. Example: DriveCommand(run_id="rl-9f86d081884c7d65", order=1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    order: int


async def queue_drive(edge: Edge, tenant: str, run_id: str, order: int) -> None:
    """Queue the command of a word, unless it is queued or in hand."""
    command = DriveCommand(run_id=run_id, order=order)
    event = commands.make(catalog.DRIVE, tenant, run_id, order, run_id, command)
    await commands.submit(edge, tenant, event)
