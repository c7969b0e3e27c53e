"""What nobody needs any more goes while a run goes on, and nothing else does."""

import json
from datetime import UTC, datetime

import pytest

from events import blob_keys, catalog, claims, envelope, names
from events.checkpoints import CheckpointEntry, entry_event
from events.edge import Edge
from events.ids import score_id
from events.keys import LOCAL_TENANT as TENANT
from events.lease import Head
from events.records import RlRunRecord, SamplerRecord
from events.streams import RECORDS, RESULTS, SAMPLE, SCORES
from services.data.rl import ids
from services.data.rl.leftovers import Leftovers
from services.data.rl.messages import Evaluate, Report, Sample, Score
from tests.data.rl.rl_world import make_run
from tests.data.rl.test_rl_deleted import edge, nats, run_id

__all__ = ["edge", "nats", "run_id"]
LARGE = b"x" * (claims.CLAIM_BYTES + 1)


@pytest.fixture
async def run(edge: Edge, run_id: str) -> RlRunRecord:
    await edge.bus.ensure_run_stream("tiny")
    return make_run(kl={"coefficient": 0.1}, evaluation={"split": "test", "every": 2}).model_copy(
        update={"run_id": run_id}
    )


async def write(edge: Edge, subject: str, data: bytes = b"{}", type_: str = catalog.RESOLVED) -> None:
    event = envelope.make_event(type_, id=subject, tenant=TENANT, service="test", subject="x", data=data)
    await edge.bus.append(subject, await claims.keep(edge.blobs, "tiny", TENANT, "x", event))


class LogOf:
    """The log of a run's training run."""

    def __init__(self, edge: Edge, run: RlRunRecord) -> None:
        self.edge, self.run = edge, run
        self.root = names.run_root(run.base, TENANT, run.training_run)

    async def write(self, part: str, *numbers: int, data: bytes = b"{}") -> None:
        for number in numbers:
            await write(self.edge, f"{self.root}.{part}.{number}", data)

    async def head(self, number: int) -> None:
        head = Head(number=number, blob=None, epoch=1)
        await write(self.edge, f"{self.root}.head", head.model_dump_json().encode(), catalog.HEAD)

    async def checkpoint(self, version: int, number: int, *, deleted: bool) -> None:
        path = ids.version_path(self.run, version)
        entry = CheckpointEntry(
            run_id=path.run_id,
            base="tiny",
            kind=path.kind,
            name=path.name,
            number=number,
            step=version,
            lora=self.run.lora,
            blob=f"blobs/{version}",
            size_bytes=1,
            created=datetime(2026, 1, 2, tzinfo=UTC),
            deleted=deleted,
        )
        subject = names.checkpoint_subject("tiny", TENANT, path.run_id, path.kind, path.name)
        await self.edge.bus.append(subject, entry_event(TENANT, "test", entry))

    async def left(self) -> dict[str, int]:
        info = await self.edge.bus.js.stream_info(names.run_stream("tiny"), subjects_filter=f"{self.root}.>")
        found = info.state.subjects or {}
        return {subject.removeprefix(f"{self.root}."): count for subject, count in found.items()}


async def test_the_log_keeps_what_a_trainer_or_a_driver_may_read_again(edge: Edge, run: RlRunRecord) -> None:
    log, leftovers = LogOf(edge, run), Leftovers(edge, TENANT, run)
    await log.write("result", *(number for number in range(9) if number != 1))
    await log.write("result", 1, data=LARGE)
    await log.write("cmd", 3, 6, 7, 8)
    payloads = blob_keys.run_claims("tiny", TENANT, "x")
    assert len(await edge.blobs.under(payloads)) == 1
    await leftovers.clear(Report(row=0, train=None, needed=9))
    assert set(await log.left()) == {f"result.{n}" for n in range(9)} | {f"cmd.{n}" for n in (3, 6, 7, 8)}

    await log.head(2)
    await log.head(5)
    await leftovers.clear(Report(row=0, train=None, needed=2))
    assert "result.2" in await log.left() and not {"result.0", "result.1"} & set(await log.left())
    assert await edge.blobs.under(payloads) == [] and (await log.left())["head"] == 1
    await Leftovers(edge, TENANT, run).clear(Report(row=1, train=None, needed=9))
    # 3 has its command, 5 may be answered by the head
    assert {one for one in await log.left() if "result" in one} == {f"result.{n}" for n in (3, 5, 6, 7, 8)}


async def test_entries_of_checkpoints_go_once_they_are_deleted_and_no_save_is_replayed(
    edge: Edge, run: RlRunRecord
) -> None:
    log = LogOf(edge, run)
    await log.checkpoint(0, 1, deleted=True)
    await log.checkpoint(1, 4, deleted=False)
    await log.checkpoint(2, 7, deleted=True)
    await log.head(6)
    await Leftovers(edge, TENANT, run).clear(Report(row=0, train=None, needed=9))
    kept = {one.rpartition(".")[2] for one in await log.left() if one.startswith("checkpoint")}
    assert kept == {names.token(ids.version_path(run, version).name) for version in (1, 2)}


async def test_samplers_and_rewards_go_with_all_their_answers(edge: Edge, run: RlRunRecord) -> None:
    scores = [
        Score(batch=k, group=0, attempt=0, sample=Sample(batch=k, group=0, attempt=0, prompt=k, version=k))
        for k in (0, 1)
    ]
    base = ids.base_sampler(run.session_id)
    for version, score in enumerate(scores):
        id = ids.sampler(run.session_id, version)
        sampler = SamplerRecord(
            sampler_id=id,
            session_id=run.session_id,
            base="tiny",
            path=str(ids.version_path(run, version)),
            created=run.created,
        )
        await edge.records.create(TENANT, id, sampler)
        await write(edge, names.result_subject("sample", TENANT, id, 5))
        await write(edge, names.sample_subject("tiny", TENANT, sampler.owner, id, 6))
        await write(edge, names.result_subject("sample", TENANT, base, ids.base_number(score, 0)))
        for command in (score, Evaluate(version=2 * version, attempt=1)):
            request = score_id(ids.score_key(run, command))
            for number in (0, 1):
                await write(edge, names.result_subject("reward", TENANT, request, number))
    report = Report(row=2, train=None, forget=(scores[0],), closed=(0,))
    for _ in range(2):  # who takes the run over does it again
        await Leftovers(edge, TENANT, run).clear(report)
    left = json.dumps(
        [subject for stream in (RESULTS, SCORES, SAMPLE) for subject in await edge.bus.subjects(stream, ">")]
    )
    left += json.dumps(await edge.bus.subjects(RECORDS, "record.sampler.>"))
    requests = [
        names.id_token(score_id(ids.score_key(run, command)))
        for command in (*scores, Evaluate(version=0, attempt=1), Evaluate(version=2, attempt=1))
    ]
    assert [left.count(request) for request in requests] == [0, 2, 0, 2]
    samplers = [names.id_token(ids.sampler(run.session_id, version)) for version in (0, 1)]
    assert [left.count(sampler) for sampler in samplers] == [0, 3]
    assert [left.count(str(ids.base_number(score, 0))) for score in scores] == [0, 1]
