"""The HTTP edge of sampling: open a sampler, ask for samples. Validates, appends, returns the future."""

import secrets
from datetime import UTC, datetime
from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Request

from events import catalog, envelope, ids, names
from events.commands import Answer, admit_queued, known_model, open_session
from events.edge import Edge, EdgeDep, TenantDep, number_field, parse, read, read_json, text_field
from events.failure import Failure, NotFound
from events.records import ModelRecord, SamplerRecord
from events.sampling import SampleCommand, adapter_of, sequence_ids, submit
from events.streams import RESULTS, SAMPLE
from rekindle.types import InvalidField, TinkerPath
from rekindle.types.requests import (
    CreateSamplingSessionRequest,
    CreateSamplingSessionResponse,
    GetSamplerResponse,
    SampleRequest,
    UntypedFuture,
    check_sample,
)

router = APIRouter(tags=["sample"])


@router.post("/create_sampling_session")
async def create_sampling_session(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Fix what a sampling client samples from: a base model or a checkpoint."""
    wanted = await read(request, CreateSamplingSessionRequest)
    await open_session(edge, tenant, wanted.session_id)
    base = wanted.base_model
    if wanted.model_path is not None:
        entry = await edge.checkpoints.readable(tenant, TinkerPath.parse(wanted.model_path, "model_path"))
        if base is not None and base != entry.base:
            raise InvalidField("base_model", f"{base!r}, but the checkpoint is of {entry.base!r}")
        base = entry.base
    model = await known_model(edge, base or "")
    sampler_id = ids.sampler_id(wanted.session_id, wanted.sampling_session_seq_id)
    record = SamplerRecord(
        sampler_id=sampler_id,
        session_id=wanted.session_id,
        base=model.name,
        path=wanted.model_path,
        created=datetime.now(UTC),
    )
    await edge.records.create(tenant, sampler_id, record)
    return CreateSamplingSessionResponse(sampling_session_id=sampler_id).model_dump()


@router.get("/samplers/{sampler_id}")
async def get_sampler(sampler_id: str, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """What a sampler samples from; clients look up their tokenizer by it."""
    sampler = await edge.records.get(SamplerRecord, tenant, sampler_id)
    path = None if sampler.ephemeral else sampler.path
    found = GetSamplerResponse(sampler_id=sampler.sampler_id, base_model=sampler.base, model_path=path)
    return found.model_dump(mode="json")


@router.post("/asample")
async def asample(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Queue samples of one prompt."""
    value = await read_json(request)
    sampler_id = text_field(value, "sampling_session_id")
    number = number_field(value, "seq_id", least=0)
    sampler = await edge.records.get(SamplerRecord, tenant, sampler_id)
    subject = names.sample_subject(sampler.base, tenant, sampler.owner, sampler_id, number)
    await admit_queued(edge, tenant, SAMPLE, names.sample_filter(sampler.base), subject)
    samples, version = value.get("num_samples", 1), None
    try:
        command = await _command(edge, tenant, sampler, number, value)
    except (InvalidField, NotFound) as error:
        await _reject(edge, tenant, sampler_id, number, str(error))
    else:
        samples, version = command.request.num_samples, command.version
        await submit(edge.bus, edge.blobs, command)
    count = samples if isinstance(samples, int) and 0 < samples <= 1024 else 1
    return UntypedFuture(
        request_id=ids.future_id(sampler_id, number),
        sample_sequence_ids=tuple(sequence_ids(version, sampler_id, number, count)),
    ).model_dump(exclude_none=True)


async def _command(
    edge: Edge, tenant: str, sampler: SamplerRecord, number: int, value: dict[str, Any]
) -> SampleCommand:
    """The checked command with its adapter version and seed fixed. Raises InvalidField or NotFound."""
    model = await known_model(edge, sampler.base)
    request = await anyio.to_thread.run_sync(_checked, value, model)
    version, blob = await adapter_of(edge.checkpoints, tenant, sampler)
    seed = request.sampling_params.seed
    return SampleCommand(
        tenant=tenant,
        sampler_id=sampler.sampler_id,
        base=sampler.base,
        run_id=sampler.owner,
        number=number,
        version=version,
        blob=blob,
        seed=secrets.randbits(62) if seed is None else seed,
        request=request,
    )


def _checked(value: dict[str, Any], model: ModelRecord) -> SampleRequest:
    request = parse(SampleRequest, value)
    check_sample(request, vocab_size=model.vocab_size, context_length=model.context_length)
    return request


async def _reject(edge: Edge, tenant: str, sampler_id: str, number: int, message: str) -> None:
    """The caller's mistake is the result; whatever stands already stays."""
    failure = Failure(message=message, category="user")
    event = envelope.make_event(
        catalog.FAILED,
        id=ids.future_id(sampler_id, number),
        tenant=tenant,
        service="gateway",
        subject=sampler_id,
        data=failure.model_dump_json().encode(),
    )
    subject = names.result_subject("sample", tenant, sampler_id, number)
    await edge.bus.append_once(RESULTS, subject, event)
