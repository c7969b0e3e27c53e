"""Commands that have samples drawn: what they carry, and how they are queued.

A command holds everything that decides its tokens, adapter version and seed included: delivered again, it gives the
same ones. Knows nothing of models, and nothing of who asks.
"""

from pydantic import BaseModel, ConfigDict

from events import catalog, claims, envelope, ids, names
from events.blobs import Blobs
from events.bus import Bus
from events.checkpoints import Checkpoints
from events.failure import Conflict, NotFound
from events.records import SamplerRecord
from events.streams import RESULTS
from rekindle.types import TinkerPath
from rekindle.types.requests import SampleRequest


class SampleCommand(BaseModel):
    """One `asample`, fixed when it was appended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str
    sampler_id: str
    base: str
    run_id: str
    """Training run of the adapter, or the session of a bare base model."""
    number: int
    version: str | None
    """Identity of the adapter version, None = the bare base model."""
    blob: str | None
    """Where its files lie."""
    seed: int
    """The client's, or one drawn when it was asked for."""
    request: SampleRequest


def sequence_ids(version: str | None, sampler_id: str, number: int, count: int) -> list[str]:
    """Ids of the sequences of one request; each says which version made it."""
    return [f"{sampler_id}:{number}:{index}@{version or 'base'}" for index in range(count)]


async def adapter_of(
    checkpoints: Checkpoints, tenant: str, sampler: SamplerRecord
) -> tuple[str | None, str | None]:
    """(version, blob) of the sampler's adapter as it is now; Nones of a bare base model. Raises NotFound."""
    if sampler.path is None:
        return None, None
    path = TinkerPath.parse(sampler.path)
    try:
        entry = await checkpoints.readable(tenant, path)
    except NotFound:
        raise NotFound(f"sampling_session_id: its weights {path} no longer exist") from None
    return f"{entry.path}@{entry.number}", entry.blob


async def submit(bus: Bus, blobs: Blobs, command: SampleCommand) -> None:
    """Queue the command once: one that is queued, or has its result, is queued no more."""
    tenant, sampler_id, number = command.tenant, command.sampler_id, command.number
    if await bus.first(RESULTS, names.result_subject("sample", tenant, sampler_id, number)) is not None:
        return
    event = envelope.make_event(
        catalog.SAMPLE,
        id=ids.future_id(sampler_id, number),
        tenant=tenant,
        service="gateway",
        subject=sampler_id,
        data=command.model_dump_json().encode(),
        **_tokens(command.request),
    )
    subject = names.sample_subject(command.base, tenant, command.run_id, sampler_id, number)
    event = await claims.lend(bus, blobs, tenant, event, claims.COMMAND_DAYS, on=subject)
    try:
        await bus.append(subject, event, expect_last=0)
    except Conflict:
        return


def _tokens(request: SampleRequest) -> dict[str, str]:
    """The most that the command may take, if it says so: replicas are counted by it."""
    most = request.sampling_params.max_tokens
    return {} if most is None else {"tokens": str(len(request.prompt.tokens) + request.num_samples * most)}
