"""Sessions: one client process and everything that it creates; and what the server offers. A silent session is idle,
not dead.
"""

import contextlib
import uuid
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from events import idle
from events.commands import Answer, release
from events.edge import EdgeDep, TenantDep, failed, read
from events.failure import NotFound
from events.records import ModelRecord, RunRecord, SamplerRecord, ServiceRecord, SessionRecord
from rekindle.types.keys import EVERYONE
from rekindle.types.requests import (
    ClientConfigRequest,
    ClientConfigResponse,
    ClientDynamicConfigResponse,
    CreateSessionRequest,
    CreateSessionResponse,
    FinishSessionRequest,
    GetServerCapabilitiesResponse,
    GetSessionResponse,
    ListSessionsResponse,
    PageQuery,
    ServicesResponse,
    SessionHeartbeatRequest,
    SessionHeartbeatResponse,
    SupportedModel,
    TelemetryResponse,
    TelemetrySendRequest,
)

router = APIRouter(tags=["sessions"])


@router.post("/client/config")
async def client_config(request: Request) -> Answer:
    """Switches that a client reads once."""
    await read(request, ClientConfigRequest)
    return ClientConfigResponse().model_dump()


@router.post("/client/dynamic_config")
async def client_dynamic_config(request: Request) -> Answer:
    """Switches that a client reads again and again."""
    await read(request, ClientConfigRequest)
    return ClientDynamicConfigResponse().model_dump()


@router.post("/create_session")
async def create_session(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Open a session."""
    wanted = await read(request, CreateSessionRequest)

    async def opened() -> int:
        return sum(session.ended is None for session in await edge.records.all(SessionRecord, tenant))

    await edge.quotas.admit(tenant, "sessions", opened)
    session = SessionRecord(
        session_id=str(uuid.uuid4()),
        created=datetime.now(UTC),
        tags=list(wanted.tags),
        user_metadata=wanted.user_metadata or {},
        project_id=wanted.project_id,
        display_name=wanted.display_name,
    )
    await idle.plan_look(edge.bus, tenant, session.session_id, session.created)  # first: none is forgotten
    await edge.records.create(tenant, session.session_id, session)
    return CreateSessionResponse(session_id=session.session_id).model_dump(exclude_none=True)


@router.post("/session_heartbeat")
async def session_heartbeat(request: Request, edge: EdgeDep, tenant: TenantDep) -> JSONResponse:
    """The client lives; 410 tells it that the session is over."""
    wanted = await read(request, SessionHeartbeatRequest)
    ended: str | None = "or never was"  # nothing is kept of a session that left nothing
    with contextlib.suppress(NotFound):
        session = await edge.records.get(SessionRecord, tenant, wanted.session_id)
        await idle.notice(edge.records, tenant, session, datetime.now(UTC))
        ended = session.ended
    if ended is not None:
        return failed(410, f"session_id: the session has ended ({ended})")
    return JSONResponse(SessionHeartbeatResponse().model_dump())


@router.post("/sessions/{session_id}/finish")
async def finish_session(session_id: str, request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """The client is done; the first reason stands. What the session holds is released, but for named checkpoints."""
    wanted = await read(request, FinishSessionRequest)

    def end(session: SessionRecord | None) -> SessionRecord:
        if session is None:
            raise NotFound(session_id)
        return session if session.ended else session.model_copy(update={"ended": wanted.reason.type})

    with contextlib.suppress(NotFound):  # said before, and released since
        await edge.records.change(SessionRecord, tenant, session_id, end)
        await release(edge, tenant, session_id)
    return {}


@router.get("/sessions")
async def list_sessions(query: Annotated[PageQuery, Query()], edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Ids of sessions, newest first."""
    sessions = await edge.records.all(SessionRecord, tenant)
    sessions.sort(key=lambda session: session.created, reverse=True)
    page = sessions[query.offset : query.offset + query.limit]
    return ListSessionsResponse(sessions=tuple(session.session_id for session in page)).model_dump()


@router.get("/sessions/{session_id}")
async def get_session(session_id: str, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """What a session has created."""
    session = await edge.records.get(SessionRecord, tenant, session_id)
    runs = [run for run in await edge.records.all(RunRecord, tenant) if run.rejected is None]
    samplers = await edge.records.all(SamplerRecord, tenant)
    return GetSessionResponse(
        training_run_ids=tuple(sorted(r.run_id for r in runs if r.session_id == session_id)),
        sampler_ids=tuple(sorted(s.sampler_id for s in samplers if s.session_id == session_id)),
        user_metadata=session.user_metadata or None,
        display_name=session.display_name,
    ).model_dump(mode="json")


@router.get("/get_server_capabilities")
async def get_server_capabilities(edge: EdgeDep) -> Answer:
    """Base models that are served."""
    models = sorted(await edge.records.all(ModelRecord, EVERYONE), key=lambda model: model.name)
    return GetServerCapabilitiesResponse(
        supported_models=tuple(
            SupportedModel(
                model_name=model.name,
                max_context_length=model.context_length,
                trainable=model.trainable,
                sampleable=model.sampleable,
            )
            for model in models
        )
    ).model_dump()


@router.get("/services")
async def list_services(edge: EdgeDep) -> Answer:
    """How the services fare that are started on demand, by name."""
    records = await edge.records.all(ServiceRecord, EVERYONE)
    found = sorted((record.about for record in records), key=lambda about: about.name)
    return ServicesResponse(services=tuple(found)).model_dump(mode="json")


@router.post("/telemetry")
async def telemetry(request: Request) -> Answer:
    """The client's own diagnostics: accepted and dropped."""
    await read(request, TelemetrySendRequest)
    return TelemetryResponse().model_dump()
