"""The command that has a run driven: one for each word of its owner's, under the word's number."""

from pydantic import BaseModel, ConfigDict

from events import catalog
from events.edge import Edge
from events.records import RlRunRecord
from services.data import commands

FIRST = 1
"""Number of the word with which a run begins."""


class DriveCommand(BaseModel):
    """Drive a run, on its owner's word.

    Example: DriveCommand(run_id="rl-9f86d081884c7d65", session="rl-9f86d081884c7d65-0c5e7a11", order=1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    session: str | None = None
    """That of the run which is meant: another one may have got its id. None: the run's id."""
    order: int

    @property
    def session_id(self) -> str:
        return self.session or self.run_id


async def queue_drive(edge: Edge, tenant: str, run: RlRunRecord, order: int) -> None:
    """Queue the command of a word, unless it is queued or in hand."""
    command = DriveCommand(run_id=run.run_id, session=run.session, order=order)
    event = commands.make(catalog.DRIVE, tenant, run.session_id, order, run.run_id, command)
    await commands.submit(edge, tenant, event)
