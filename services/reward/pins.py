"""Which version of a function a request means: the newest when the request came first, however often it comes again.

What the names meant is written down once, beside the results, before anything is queued.
"""

from collections.abc import Container, Iterable, Iterator

from pydantic import BaseModel, ConfigDict

from events import catalog, envelope, names
from events.edge import Edge
from events.failure import NotFound, StreamFull
from events.streams import SCORES
from rekindle.types import InvalidField
from rekindle.types.rewards import Function, Grader, ScoreItem, ScoreRequest, Weighted
from services.reward.functions import Functions

QUEUE = "reward"


class Pin(BaseModel):
    """What one name means. Example: Pin(version="9f86d081884c7d65", pure=True)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    pure: bool


class Pins(BaseModel):
    """What a request's names mean, in the order in which its grader holds them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    """Of the request as it was sent."""
    functions: tuple[Pin, ...]


async def pin(
    edge: Edge, functions: Functions, tenant: str, request_id: str, wanted: ScoreRequest, digest: str
) -> ScoreRequest:
    """The request with each function's version and purity in it.

    Raises InvalidField for a function that does not exist, a column that it lacks, and for another request with
    the same key.
    """
    listed = list(_functions(wanted.grader))
    if not listed:
        return wanted
    pins = await _read(edge, tenant, request_id)
    if pins is None:
        found = [await _resolve(functions, tenant, wanted, field, spec) for field, spec in listed]
        pins = await _write(edge, tenant, request_id, Pins(digest=digest, functions=tuple(found)))
    if pins.digest != digest:
        raise InvalidField("idempotency_key", "was used before, for a request with other content")
    return wanted.model_copy(update={"grader": _pinned(wanted.grader, iter(pins.functions))})


def _functions(grader: Grader) -> Iterator[tuple[str, Function]]:
    """(field, description) of each function in a grader."""
    if isinstance(grader, Function):
        yield "grader.params", grader
    elif isinstance(grader, Weighted):
        for index, part in enumerate(grader.params.graders):
            if isinstance(part.grader, Function):
                yield f"grader.params.graders[{index}].grader.params", part.grader


def _pinned(grader: Grader, pins: Iterator[Pin]) -> Grader:
    if isinstance(grader, Function):
        found = next(pins)
        params = grader.params.model_copy(update={"version": found.version, "pure": found.pure})
        return grader.model_copy(update={"params": params})
    if isinstance(grader, Weighted):
        parts = tuple(
            part.model_copy(update={"grader": _pinned(part.grader, pins)}) for part in grader.params.graders
        )
        return grader.model_copy(update={"params": grader.params.model_copy(update={"graders": parts})})
    return grader


async def _resolve(
    functions: Functions, tenant: str, wanted: ScoreRequest, field: str, spec: Function
) -> Pin:
    try:
        info = await functions.version(tenant, spec.params.name, spec.params.version)
    except NotFound as error:
        raise InvalidField(f"{field}.name", str(error)) from error
    check_columns(info.columns, info.name, wanted.items, wanted.columns, "items")
    return Pin(version=info.version, pure=info.pure if spec.params.pure is None else spec.params.pure)


def check_columns(
    needed: Iterable[str], function: str, items: Iterable[ScoreItem], shared: Container[str], field: str
) -> None:
    """Raises InvalidField for the first item that lacks a column."""
    own = [name for name in needed if name not in shared]
    for index, item in enumerate(items):
        for name in own:
            if name not in item.columns:
                reason = f"column {name!r} is missing, which function {function!r} takes"
                raise InvalidField(f"{field}[{index}].columns", reason)


async def _read(edge: Edge, tenant: str, request_id: str) -> Pins | None:
    stored = await edge.bus.first(SCORES, names.pins_subject(QUEUE, tenant, request_id))
    return None if stored is None else Pins.model_validate_json(envelope.data_of(stored.event))


async def _write(edge: Edge, tenant: str, request_id: str, pins: Pins) -> Pins:
    """What stands then: another edge may have been first."""
    event = envelope.make_event(
        catalog.PINNED,
        id=request_id,
        tenant=tenant,
        service=QUEUE,
        subject=request_id,
        data=pins.model_dump_json().encode(),
    )
    try:
        await edge.bus.append(names.pins_subject(QUEUE, tenant, request_id), event)
    except StreamFull:
        stands = await _read(edge, tenant, request_id)
        if stands is None:
            raise
        return stands
    return pins
