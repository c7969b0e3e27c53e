"""The HTTP edge of training: create a model, train it, ask about it. Validates, appends, returns the future."""

import secrets
from datetime import UTC, datetime
from typing import Any

import anyio
import anyio.to_thread
import zstandard
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from events import catalog, envelope, ids
from events.commands import (
    Answer,
    admit_run,
    future,
    known_model,
    living_run,
    open_run,
    open_session,
    read_numbered,
)
from events.edge import (
    BodyTooLarge,
    Edge,
    EdgeDep,
    TenantDep,
    number_field,
    parse,
    read,
    read_body,
    read_json,
    text_field,
)
from events.failure import Failure
from events.model_files import known_as
from events.records import LoraShape, ModelRecord, RunRecord
from rekindle.types import InvalidField, check_forward_backward, parse_forward_backward, peek_numbers
from rekindle.types.requests import (
    CreateModelRequest,
    GetInfoRequest,
    GetInfoResponse,
    ModelData,
    OptimStepRequest,
)

router = APIRouter(tags=["train"])
LARGE_BYTES = 8 * 1024 * 1024
one_large = anyio.CapacityLimiter(1)
"""Bodies above `LARGE_BYTES` are parsed one after the other: hostile ones are many times their size in memory."""


@router.post("/create_model")
async def create_model(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Start a training run: command 0 of `{session}:train:{model_seq_id}`."""
    body = await read_json(request)
    session, seq = text_field(body, "session_id"), number_field(body, "model_seq_id", least=0)
    await open_session(edge, tenant, session)
    await admit_run(edge, tenant, ids.model_id(session, seq))
    run = await edge.records.create(
        tenant, ids.model_id(session, seq), await _new_run(edge, body, session, seq)
    )
    if run.rejected is None:
        await edge.log.submit(tenant, run, 0, catalog.CREATE_MODEL, run.model_dump_json().encode())
    return future(run.run_id, 0)


async def _new_run(edge: Edge, body: dict[str, Any], session: str, seq: int) -> RunRecord:
    """The record that fixes the run, seed included; a mistake in the request becomes its rejection."""
    record = RunRecord(
        run_id=ids.model_id(session, seq),
        session_id=session,
        base="",
        lora=LoraShape(rank=1, seed=0),
        created=datetime.now(UTC),
    )
    try:
        wanted = parse(CreateModelRequest, body)
        await known_model(edge, wanted.base_model)
    except InvalidField as error:
        return record.model_copy(update={"rejected": Failure(message=str(error), category="user")})
    lora = wanted.lora_config
    seed = secrets.randbits(31) if lora.seed is None else lora.seed
    shape = LoraShape(
        rank=lora.rank,
        seed=seed,
        train_attn=lora.train_attn,
        train_mlp=lora.train_mlp,
        train_unembed=lora.train_unembed,
    )
    metadata = wanted.user_metadata or {}
    return record.model_copy(update={"base": wanted.base_model, "lora": shape, "user_metadata": metadata})


@router.post("/forward_backward")
async def forward_backward(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Queue a forward and backward pass (protobuf). The number is read before size or content is judged."""
    compressed = request.headers.get("content-encoding", "").lower() == "zstd"
    problem: str | None = None
    try:
        body = await read_body(request, edge.settings.body_limit_bytes)
    except BodyTooLarge as error:
        body, problem = error.head, str(error)
    head = _head(body) if compressed else body[:1024]
    run_id, number = peek_numbers(head)
    if run_id is None or number is None or number < 1:
        if problem is not None:
            raise BodyTooLarge(edge.settings.body_limit_bytes, head)
        field = "model_id" if run_id is None else "seq_id"
        raise InvalidField(field, "missing in the first kilobyte, or not valid")
    run = await open_run(edge, tenant, run_id, number)
    if problem is None:
        try:
            model = await known_model(edge, run.base)
            several = None if len(body) <= LARGE_BYTES else one_large
            body = await anyio.to_thread.run_sync(_checked, body, compressed, edge, model, limiter=several)
        except InvalidField as error:
            problem = str(error)
    if problem is not None:
        await edge.log.reject(tenant, run, number, problem)
    else:
        await edge.log.submit(tenant, run, number, catalog.FORWARD_BACKWARD, body, envelope.PROTOBUF)
    return future(run_id, number)


def _head(compressed: bytes) -> bytes:
    """The first kilobyte of a zstd body, as much of it as is there; never more, whatever it expands to."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(compressed[: 64 * 1024]) as reader:
            return reader.read(1024)
    except zstandard.ZstdError:
        return b""


def _checked(body: bytes, compressed: bool, edge: Edge, model: ModelRecord) -> bytes:
    """The plain body of a request that can be run. Raises InvalidField."""
    if compressed:
        body = _decompress(body, edge.settings.body_limit_bytes)
    request = parse_forward_backward(body)
    check_forward_backward(request, vocab_size=model.vocab_size, context_length=model.context_length)
    return body


def _decompress(body: bytes, limit: int) -> bytes:
    """Decompress up to the limit, never further: a small body may claim to be a large one."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(body) as reader:
            plain = reader.read(limit + 1)
    except zstandard.ZstdError as error:
        raise InvalidField("body", f"not zstd: {error}") from error
    if len(plain) > limit:
        raise InvalidField("body", f"larger than the limit of {limit} bytes once decompressed")
    return plain


@router.post("/optim_step")
async def optim_step(request: Request, edge: EdgeDep, tenant: TenantDep) -> Answer:
    """Queue an optimizer step with the accumulated gradient."""
    run, number, wanted = await read_numbered(request, edge, tenant, OptimStepRequest)
    if wanted is not None:
        data = wanted.model_dump_json().encode()
        await edge.log.submit(tenant, run, number, catalog.OPTIM_STEP, data)
    return future(run.run_id, number)


@router.post("/get_info")
async def get_info(request: Request, edge: EdgeDep, tenant: TenantDep) -> JSONResponse:
    """What a client must know of its model."""
    wanted = await read(request, GetInfoRequest)
    run = await living_run(edge, tenant, wanted.model_id)
    model = await known_model(edge, run.base)
    info = GetInfoResponse(
        model_id=run.run_id,
        model_data=ModelData(
            arch=model.arch, model_name=model.name, tokenizer_id=known_as(model.source, model.name)
        ),
        is_lora=True,
        lora_rank=run.lora.rank,
        model_name=model.name,
    )
    return JSONResponse(info.model_dump(mode="json"))
