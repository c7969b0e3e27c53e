"""Data out: the rollouts of a training run and their scores, as rows, from the facts of the last days.

Facts come at least once: of a repeated rollout the first counts, of several scores the last.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from events import catalog, claims, names
from events.blobs import Blobs
from events.bus import Bus
from events.failure import NotFound
from events.streams import FACTS

SCORE = ("outcome", "value", "reason", "grader_version")
Row = dict[str, Any]


async def gather(bus: Bus, blobs: Blobs, tenant: str, run_id: str, path: Path) -> int:
    """Write one JSON line a rollout to `path`, in the order in which they were sampled; returns how many."""
    spool = path.with_suffix(".spool")
    ids: set[str] = set()
    with spool.open("w", encoding="utf-8") as file:
        async for row in _rollouts(bus, blobs, tenant, run_id):
            if row["sequence_id"] not in ids:
                ids.add(row["sequence_id"])
                file.write(json.dumps(row) + "\n")
    scores = await _scores(bus, blobs, tenant, ids)
    with spool.open(encoding="utf-8") as rows, path.open("w", encoding="utf-8") as file:
        for line in rows:
            row = json.loads(line)
            file.write(json.dumps(row | scores.get(row["sequence_id"], dict.fromkeys(SCORE))) + "\n")
    spool.unlink()
    return len(ids)


async def _rollouts(bus: Bus, blobs: Blobs, tenant: str, run_id: str) -> AsyncIterator[Row]:
    async for subject, said in _facts(bus, blobs, tenant, catalog.ROLLOUT_COMPLETED):
        if subject != run_id:
            continue
        common = {field: said[field] for field in ("run", "sampler", "version", "prompt_tokens")}
        for sequence in said["sequences"]:
            yield common | {
                field: sequence[field] for field in ("sequence_id", "tokens", "logprobs", "stop_reason")
            }


async def _scores(bus: Bus, blobs: Blobs, tenant: str, ids: set[str]) -> dict[str, Row]:
    """The score of each rollout that has one."""
    found: dict[str, Row] = {}
    async for _, said in _facts(bus, blobs, tenant, catalog.ROLLOUT_SCORED):
        for score in said["scores"]:
            if score.get("sequence_id") in ids:
                found[score["sequence_id"]] = {field: score.get(field) for field in SCORE}
    return found


async def _facts(bus: Bus, blobs: Blobs, tenant: str, type_: str) -> AsyncIterator[tuple[str, Row]]:
    """(subject, payload) of every fact of a type that can still be read, oldest first."""
    async for stored in bus.walk(FACTS, names.fact_subject(tenant, type_)):
        try:
            data = await claims.data_of(blobs, stored.event)
        except NotFound:  # its payload was kept no longer
            continue
        yield stored.event.get_subject() or "", json.loads(data)
