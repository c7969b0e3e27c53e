"""Where a run stands, for people: its record and its state in one."""

from events.edge import Edge
from events.failure import NotFound
from events.records import RlRunRecord
from rekindle.types.rl import RlRunInfo
from services.data.rl import ids
from services.data.rl.machine import OVER
from services.data.rl.store import Store
from services.data.rl.turn import planned_steps


async def info_of(edge: Edge, tenant: str, run: RlRunRecord) -> RlRunInfo:
    """Raises NotFound for a run that is being removed."""
    store = Store(edge.bus, tenant, run.session_id)
    standing, stored = await store.read()
    if await store.is_going():
        raise NotFound(f"rl_run {run.run_id!r} does not exist")
    state = standing.state
    return RlRunInfo(
        id=run.run_id,
        name=run.spec.name or run.run_id,
        phase=state.phase,
        reason=state.reason,
        step=state.trained,
        steps=planned_steps(run.spec, state),
        version=state.newest,
        cursor=state.cursor,
        skipped=state.skipped,
        base_model=run.base,
        training_run=run.training_run,
        dataset_version=run.dataset.version,
        checkpoint=str(ids.saved_path(run, state.saved[-1])) if state.saved else None,
        trigger=run.trigger,
        created=run.created,
        updated=stored.time,
        ended=stored.time if state.phase in OVER else None,
        metrics=await store.row(state.rows - 1) if state.rows else None,
        spec=run.spec,
    )
