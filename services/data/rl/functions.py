"""Which version of a user's reward function a run means: the newest when the run begins, all through it."""

from events.failure import NotFound
from events.record_store import Records
from events.records import FunctionRecord
from rekindle.types import InvalidField
from rekindle.types.rewards import Component, Function, FunctionInfo, Grader, Weighted

Columns = tuple[str, ...]


async def pinned(
    records: Records, tenant: str, grader: Grader, place: str = "grader"
) -> tuple[Grader, Columns]:
    """(the grader with the version of each function in it, columns that these take).

    Raises InvalidField that names a field under `place`.
    """
    if isinstance(grader, Function):
        return await _pinned(records, tenant, grader, f"{place}.params")
    if not isinstance(grader, Weighted):
        return grader, ()
    parts: list[Component] = []
    columns: list[str] = []
    for index, part in enumerate(grader.params.graders):
        if isinstance(part.grader, Function):
            field = f"{place}.params.graders[{index}].grader.params"
            found, taken = await _pinned(records, tenant, part.grader, field)
            part = part.model_copy(update={"grader": found})
            columns += taken
        parts.append(part)
    params = grader.params.model_copy(update={"graders": tuple(parts)})
    return grader.model_copy(update={"params": params}), tuple(columns)


async def _pinned(records: Records, tenant: str, grader: Function, field: str) -> tuple[Function, Columns]:
    wanted = grader.params
    try:
        record = await records.get(FunctionRecord, tenant, wanted.name)
    except NotFound as error:
        raise InvalidField(f"{field}.name", str(error)) from error
    info = _info(record, wanted.version)
    if info is None:
        raise InvalidField(f"{field}.version", f"function {wanted.name!r} has no version {wanted.version!r}")
    pure = info.pure if wanted.pure is None else wanted.pure
    params = wanted.model_copy(update={"version": info.version, "pure": pure})
    return grader.model_copy(update={"params": params}), info.columns


def _info(record: FunctionRecord, version: str | None) -> FunctionInfo | None:
    """A version, None: the newest."""
    return next((info for info in reversed(record.versions) if version in (None, info.version)), None)
