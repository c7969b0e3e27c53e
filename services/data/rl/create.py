"""An RL run comes to be: its spec is checked against what there is, all that is open in it is fixed, and it is queued.

Promises: the same id with the same spec is the same run, however often it is asked for; what goes wrong names the field
of the spec. Nothing is looked up later that could mean something else then. Whoever dies over it leaves a run that is
driven, or a record that nobody sees and that the next attempt goes on from.
"""

import hashlib
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio.to_thread

from events.commands import known_model
from events.edge import Edge
from events.failure import Busy, NotFound
from events.grading import check_grader
from events.ids import rl_session_id
from events.records import LoraShape, ModelRecord, RlRunRecord, RowsRef, StoredVersion
from rekindle.types import InvalidField, TinkerPath
from rekindle.types.rewards import Grader
from rekindle.types.rl import NEW_RANK, DatasetRef, Evaluation, Lora, RlRunSpec, template_columns
from services.data.datasets import LATEST, Datasets
from services.data.rl import machine
from services.data.rl.functions import pinned
from services.data.rl.queue import FIRST, queue_drive
from services.data.rl.store import Store, phases

SESSION_DIGITS = 8


@dataclass(frozen=True, slots=True)
class Fixed:
    """What a spec means at this moment."""

    spec: RlRunSpec
    model: ModelRecord
    lora: LoraShape
    dataset: RowsRef
    held_out: RowsRef | None


async def create(
    edge: Edge, tenant: str, run_id: str, spec: RlRunSpec, *, trigger: str | None = None
) -> RlRunRecord:
    """The run of that id, begun now unless it was before. Raises InvalidField, QuotaExceeded, and Busy while another
    run of that id is being deleted."""
    digest = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
    while True:
        try:
            run = await edge.records.get(RlRunRecord, tenant, run_id)
        except NotFound:
            await _admit(edge, tenant)
            run = await edge.records.create(
                tenant, run_id, await _record(edge, tenant, run_id, spec, digest, trigger)
            )
        store = Store(edge.bus, tenant, run.session_id)
        if await store.is_going():
            raise Busy(f"rl_run {run_id!r} is being deleted; once it is gone, its key can be used again")
        if run.digest != digest:
            raise _another(run, spec)
        await queue_drive(edge, tenant, run, FIRST)  # first: a state that is there is driven
        await begin(store, run)
        if await stands(edge, tenant, run):
            return run


async def stands(edge: Edge, tenant: str, run: RlRunRecord) -> bool:
    """Whether the run has not been deleted at this moment."""
    try:
        return await edge.records.get_anew(RlRunRecord, tenant, run.run_id) == run
    except NotFound:
        return False


async def _admit(edge: Edge, tenant: str) -> None:
    async def under_way() -> int:
        return sum(phase not in machine.OVER for phase in await phases(edge.bus, tenant))

    await edge.quotas.admit(tenant, "rl_runs", under_way)


async def begin(store: Store, run: RlRunRecord) -> None:
    """Write the run's first state and word, unless they are there."""
    await store.begin(machine.initial(run.spec, run.dataset.rows))


def _another(run: RlRunRecord, spec: RlRunSpec) -> InvalidField:
    """Why the run of this id is not the one that is asked for."""
    wanted, has = spec.dataset, run.dataset
    if (wanted.name, wanted.version) not in ((has.name, has.version), (has.name, LATEST)):
        return InvalidField(
            "dataset", f"version {wanted.version} of {wanted.name!r}, but {run.run_id} {_began_with(has)}"
        )
    return InvalidField("X-Idempotency-Key", "was used before, for a run with another spec")


def _began_with(rows: RowsRef) -> str:
    return f"began with version {rows.version} of {rows.name!r} and goes on with no other"


async def check_rows_stand(edge: Edge, tenant: str, run: RlRunRecord) -> None:
    """Whether a run can go on with the rows that it began with. Raises InvalidField when they were deleted."""
    for field, rows in (("dataset", run.dataset), ("evaluation.dataset", run.held_out)):
        if rows is None:
            continue
        try:
            await Datasets(edge.records).version(tenant, rows.name, rows.version)
        except NotFound as error:
            raise InvalidField(field, f"{error}, but {run.run_id} {_began_with(rows)}") from error


async def _record(
    edge: Edge, tenant: str, run_id: str, spec: RlRunSpec, digest: str, trigger: str | None
) -> RlRunRecord:
    fixed = await fix(edge, tenant, spec)
    return RlRunRecord(
        run_id=run_id,
        session=rl_session_id(run_id, uuid.uuid4().hex[:SESSION_DIGITS]),
        spec=fixed.spec,
        digest=digest,
        base=fixed.model.name,
        lora=fixed.lora,
        dataset=fixed.dataset,
        held_out=fixed.held_out,
        trigger=trigger,
        created=datetime.now(UTC),
    )


async def fix(edge: Edge, tenant: str, spec: RlRunSpec) -> Fixed:
    """What the spec means now. Raises InvalidField."""
    await anyio.to_thread.run_sync(_check_graders, spec)
    model, lora = await _weights(edge, tenant, spec)
    if spec.sampling.max_tokens >= model.context_length:
        raise InvalidField(
            "sampling.max_tokens",
            f"{spec.sampling.max_tokens}, but the context of {model.name!r} has {model.context_length} tokens",
        )
    version = await _version(edge, tenant, spec.dataset, "dataset")
    _check_rows(version, "dataset")
    grader, columns = await pinned(edge.records, tenant, spec.grader)
    _check_columns(spec, grader, columns, version)
    changes: dict[str, object] = {
        "dataset": spec.dataset.model_copy(update={"version": version.about.version}),
        "grader": grader,
        "sampling": spec.sampling.model_copy(update={"seed": _or(spec.sampling.seed, spec.seed)}),
        "lora": Lora(**lora.model_dump()),
    }
    held_out = None
    if spec.evaluation is not None:
        changes["evaluation"], held_out = await _measured(edge, tenant, spec, grader, columns)
    return Fixed(spec.model_copy(update=changes), model, lora, _rows(version), held_out)


def _check_graders(spec: RlRunSpec) -> None:
    check_grader(spec.grader)
    if spec.evaluation is not None and spec.evaluation.grader is not None:
        check_grader(spec.evaluation.grader, "evaluation.grader")


async def _measured(
    edge: Edge, tenant: str, spec: RlRunSpec, grader: Grader, columns: tuple[str, ...]
) -> tuple[Evaluation, RowsRef]:
    """The evaluation with all that was open in it fixed, and its rows; the run's own grader unless it has one."""
    assert spec.evaluation is not None, "it is evaluated"
    place, own = "grader", spec.evaluation.grader
    if own is not None:
        place = "evaluation.grader"
        own, columns = await pinned(edge.records, tenant, own, place)
    ref, found = await _held_out(edge, tenant, spec)
    _check_columns(spec, own or grader, columns, found, place)
    fixed = {"split": None, "dataset": ref, "grader": own}
    return spec.evaluation.model_copy(update=fixed), _rows(found, spec.evaluation.rows)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


async def _weights(edge: Edge, tenant: str, spec: RlRunSpec) -> tuple[ModelRecord, LoraShape]:
    """The base model and the adapter's shape."""
    if spec.checkpoint is not None:
        path = TinkerPath.parse(spec.checkpoint, "checkpoint")
        if path.kind == "external_weights":
            raise InvalidField("checkpoint", f"{spec.checkpoint}: exported weights cannot be trained")
        try:
            entry = await edge.checkpoints.readable(tenant, path)
        except NotFound as error:
            raise InvalidField("checkpoint", str(error)) from error
        if spec.lora.rank not in (None, entry.lora.rank):
            raise InvalidField(
                "lora.rank",
                f"{spec.lora.rank}, but the adapter of {spec.checkpoint} has rank {entry.lora.rank}",
            )
        return await _trainable(edge, entry.base, "checkpoint"), entry.lora
    model = await _trainable(edge, spec.base_model or "", "base_model")
    wanted = spec.lora
    lora = LoraShape(
        seed=_or(wanted.seed, spec.seed),
        rank=_or(wanted.rank, NEW_RANK),
        **wanted.model_dump(exclude={"seed", "rank"}),
    )
    return model, lora


async def _trainable(edge: Edge, base: str, field: str) -> ModelRecord:
    model = await known_model(edge, base)
    for able, what in ((model.trainable, "trained"), (model.sampleable, "sampled")):
        if not able:
            raise InvalidField(field, f"{base!r} is served, but cannot be {what}")
    return model


# Rows


async def _held_out(edge: Edge, tenant: str, spec: RlRunSpec) -> tuple[DatasetRef, StoredVersion]:
    """What the run is evaluated on."""
    assert spec.evaluation is not None, "it is evaluated"
    ref, field = spec.evaluation.dataset, "evaluation.dataset"
    if ref is None:
        ref, field = DatasetRef(name=spec.dataset.name, split=spec.evaluation.split), "evaluation"
    version = await _version(edge, tenant, ref, field)
    _check_rows(version, field)
    return ref.model_copy(update={"version": version.about.version}), version


async def _version(edge: Edge, tenant: str, ref: DatasetRef, field: str) -> StoredVersion:
    """The version that is meant. Raises InvalidField that names a field under `field`."""
    datasets = Datasets(edge.records)
    try:
        versions = (await datasets.find(tenant, ref.name)).versions
    except NotFound as error:
        raise InvalidField(f"{field}.name", str(error)) from error
    if ref.version == LATEST:
        parts = [one for one in versions if ref.split is None or one.about.split == ref.split]
        if not parts:
            known = sorted({one.about.split for one in versions if one.about.split is not None})
            there = f"there are {', '.join(known)}" if known else "it has none"
            raise InvalidField(f"{field}.split", f"no version of {ref.name!r} is part {ref.split!r}; {there}")
        return parts[-1]
    found = next((one for one in versions if one.about.version == ref.version), None)
    if found is None:
        raise InvalidField(f"{field}.version", f"dataset {ref.name!r} has no version {ref.version}")
    if ref.split not in (None, found.about.split):
        raise InvalidField(
            f"{field}.split", f"version {ref.version} of {ref.name!r} is part {found.about.split!r}"
        )
    return found


def _check_rows(version: StoredVersion, field: str) -> None:
    if not version.about.rows:
        raise InvalidField(field, f"version {version.about.version} of {version.about.name!r} has no rows")


def _rows(version: StoredVersion, most: int | None = None) -> RowsRef:
    about = version.about
    rows = about.rows if most is None else min(most, about.rows)
    return RowsRef(name=about.name, version=about.version, sha256=about.sha256, blob=version.blob, rows=rows)


def _check_columns(
    spec: RlRunSpec,
    grader: Grader,
    function_columns: tuple[str, ...],
    version: StoredVersion,
    place: str = "grader",
) -> None:
    """Raises InvalidField for a column that a row lacks, or that is null where a prompt needs it."""
    known = {column.name: column for column in version.about.columns}
    rows = f"version {version.about.version} of dataset {version.about.name!r}"
    wanted = [(field, name) for field, text in _templates(spec) for name in template_columns(text)]
    wanted += [(place, name) for name in (*grader.params.needs(), *function_columns)]
    for field, name in wanted:
        if name not in known:
            raise InvalidField(field, f"{rows} has no column {name!r}; it has {', '.join(known)}")
        if field != place and known[name].nulls:
            raise InvalidField(field, f"column {name!r} of {rows} is null in {known[name].nulls} rows")


def _templates(spec: RlRunSpec) -> list[tuple[str, str]]:
    """(field, template) of each text of the prompt."""
    if spec.prompt is not None:
        return [("prompt", spec.prompt)]
    return [(f"messages[{index}].content", one.content) for index, one in enumerate(spec.messages or ())]
