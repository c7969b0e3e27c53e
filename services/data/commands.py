"""Commands about datasets: what they carry, and how they are queued.

The owner of a request is `data:<hex>`: an upload's id, or digits of its own. An upload's number 0 is its
expiry, 1, 2, … are the attempts to make a version of it.
"""

import contextlib
import hashlib
import uuid

from cloudevents.core.v1.event import CloudEvent
from pydantic import BaseModel, ConfigDict

from events import claims, envelope, ids, names
from events.edge import Edge
from events.failure import Conflict
from events.streams import RESULTS
from rekindle.types import UntypedFuture
from rekindle.types.datasets import CreateDatasetRequest, Derivation

EXPIRY = 0


class Command(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DeriveCommand(Command):
    """Make versions from one."""

    name: str
    version: int
    derivation: Derivation


class GatherCommand(Command):
    """Make a version of a run's rollouts and their scores."""

    name: str
    run_id: str


class CollectCommand(Command):
    """Remove the files of a deleted version."""

    name: str
    blob: str


def upload_id(tenant: str, wanted: CreateDatasetRequest) -> str:
    """Derives from what is announced, so that the same file goes on where it was."""
    fields = (tenant, wanted.name, wanted.format, wanted.compression, wanted.size_bytes, wanted.sha256)
    return hashlib.sha256("\0".join(map(str, fields)).encode()).hexdigest()[:32]


def new_owner(tenant: str, key: str | None) -> str:
    """Of a request with an idempotency key the tenant's same every time; without one, of its own."""
    if key is None:
        return ids.data_id(uuid.uuid4().hex)
    return ids.data_id(hashlib.sha256(f"request\0{tenant}\0{key}".encode()).hexdigest()[:32])


def blob_owner(blob: str) -> str:
    """Owner of the command that removes a blob: the same again is the same command."""
    return ids.data_id(hashlib.sha256(blob.encode()).hexdigest()[:32])


def make(type_: str, tenant: str, owner: str, number: int, name: str, payload: BaseModel) -> CloudEvent:
    return envelope.make_event(
        type_,
        id=ids.future_id(owner, number),
        tenant=tenant,
        service="data",
        subject=name,
        data=payload.model_dump_json().encode(),
    )


async def submit(edge: Edge, tenant: str, event: CloudEvent) -> dict[str, object]:
    """Queue a command unless it is queued or has ended; the answer that names its future."""
    owner, number = ids.split_future_id(event.get_id())
    if await edge.bus.first(RESULTS, names.result_subject("data", tenant, owner, number)) is not None:
        return future(event.get_id())
    subject = names.data_subject(tenant, owner, number)
    event = await claims.lend(edge.bus, edge.blobs, tenant, event, claims.COMMAND_DAYS, on=subject)
    with contextlib.suppress(Conflict):
        await edge.bus.append(subject, event, expect_last=0)
    return future(event.get_id())


def future(request_id: str) -> dict[str, object]:
    return UntypedFuture(request_id=request_id).model_dump(exclude_none=True)
