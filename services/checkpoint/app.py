"""The checkpoint service's composition root: its HTTP edges, and the worker that removes what is no longer wanted."""

from datetime import timedelta

from cloudevents.core.v1.event import CloudEvent
from fastapi import FastAPI

from events import catalog, claims, idle, names
from events.app import make_app
from events.checkpoints import CheckpointEntry
from events.commands import ReleaseCommand
from events.edge import Edge
from events.idle import LookCommand
from events.queues import Answer, Queue
from events.serve import serve
from events.settings import EdgeSettings
from events.streams import CHECKPOINT
from events.worker import QueueWorker
from services.checkpoint import api, catalogue
from services.checkpoint.release import Release
from services.checkpoint.sessions import Sessions


async def collect(edge: Edge) -> None:
    """Remove the files of deleted and expired checkpoints, what sessions leave, and expired payloads; look after
    sessions whose clients say nothing.

    Doing it twice does no harm.
    """
    release = Release(edge.bus, edge.blobs, edge.records, edge.checkpoints)
    sessions = Sessions(release, timedelta(days=edge.settings.session_days))

    async def handle(event: CloudEvent, data: bytes) -> Answer | None:
        tenant = names.tenant_of(event.get_source())
        if event.get_type() == catalog.RELEASE:
            await release(tenant, ReleaseCommand.model_validate_json(data))
        elif event.get_type() == catalog.LOOK:
            look = LookCommand.model_validate_json(data)
            if (said := await idle.said_at(edge.bus, tenant, look.session_id)) is not None:
                await sessions.look(tenant, look, said)
        elif event.get_type() == catalog.EXPIRE_CLAIMS:
            await claims.expire(edge.bus, edge.blobs, tenant, claims.ExpireCommand.model_validate_json(data))
        else:
            entry = CheckpointEntry.model_validate_json(data)
            expiring = event.get_type() == catalog.EXPIRE_CHECKPOINT
            blob = await edge.checkpoints.expire(tenant, entry) if expiring else entry.blob
            if blob is not None:
                await edge.blobs.delete(blob)
        return None

    queue = Queue(
        stream=CHECKPOINT,
        consumer="checkpoint",
        filter="checkpoint.>",
        result_subject=None,
        tenant=lambda event: names.tenant_of(event.get_source()),
    )
    edge.ready.set()
    await QueueWorker(edge.bus, edge.blobs, queue, handle, budget=8, activity=edge.activity).run()


def build(settings: EdgeSettings) -> FastAPI:
    return make_app("checkpoint", settings, [api.router, catalogue.router], collect)


def main() -> None:
    settings = EdgeSettings()  # type: ignore[call-arg]
    serve(build(settings), settings, "checkpoint")


if __name__ == "__main__":
    main()
