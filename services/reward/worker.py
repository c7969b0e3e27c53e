"""A shard of items becomes scores, a function is registered: from the queue to who does it, and back.

Each shard is scored once its result is not there yet, told to the world as one fact, and joined with the
others of its request. A shard that nobody could score, since it cost too many workers, is not a zero: its items
are errors, counted as excluded. Every exclusion is a fact.
"""

from collections.abc import Sequence

from cloudevents.core.v1.event import CloudEvent
from pydantic import TypeAdapter
from pydantic_core import from_json

from events import catalog, claims, facts, ids, metrics, names
from events.activity import Activity
from events.blobs import Blobs
from events.bus import Bus
from events.failure import Failure
from events.outcomes import MAX_FAILURES
from events.queues import Answer, Queue
from events.scoring import OUTSIDE, SHARDING, ScoreShard
from events.shards import ShardResult
from events.streams import REWARD, SCORES
from events.worker import QueueWorker
from rekindle.types.rewards import CHECKED, MAX_REASON, RegisterRequest, Score, ScoreResponse
from services.reward import versions
from services.reward.code.register import Registrar
from services.reward.scorer import Scorer

LIST = TypeAdapter(list[Score])
EXCLUSION = ("outcome", "reason", "grader_version", "attempts")
"""What a fact says of a score that is none."""


class RewardWorker:
    """Feeds a scorer from the queue of shards."""

    def __init__(
        self,
        bus: Bus,
        blobs: Blobs,
        scorer: Scorer,
        registrar: Registrar,
        *,
        budget: int,
        activity: Activity | None = None,
    ) -> None:
        """`budget`: commands taken at once that compute."""
        self._bus = bus
        self._blobs = blobs
        self._scorer = scorer
        self._registrar = registrar
        queue = Queue(
            stream=REWARD,
            consumer="reward",
            filter=names.REWARD_FILTER,
            result_subject=_result_subject,
            tenant=_tenant,
            outside=_is_outside,
            settled=self._settled,
        )
        self._worker = QueueWorker(bus, blobs, queue, self.handle, budget=budget, activity=activity)

    async def run(self) -> None:
        await self._worker.run()

    async def handle(self, event: CloudEvent, data: bytes) -> Answer | None:
        """Do one command; None if it was done before, and was queued again by a repeated request."""
        if event.get_type() == catalog.EXPIRE_CLAIMS:
            day = claims.ExpireCommand.model_validate_json(data)
            await claims.expire(self._bus, self._blobs, _tenant(event), day, confined=True)
            return None
        done = await self._bus.first(SCORES, _result_subject(event))
        if done is not None:
            return None
        if event.get_type() == catalog.REGISTER:
            wanted = RegisterRequest.model_validate_json(data)
            response = await self._registrar.register(_tenant(event), wanted)
            return Answer(response.model_dump_json().encode())
        shard = ScoreShard.model_validate_json(data, context=CHECKED)
        scores = await self._scorer.score(_tenant(event), shard.grader, shard.items, shard.columns)
        for score in scores:
            metrics.SCORES.labels(shard.grader.type, score.outcome).inc()
        return Answer(
            LIST.dump_json(scores), facts=[_scored(event, shard, scores), *_excluded(event, shard, scores)]
        )

    async def _settled(self, event: CloudEvent) -> None:
        """Join the request if this was its last shard."""
        if event.get_type() != catalog.SCORE:
            return

        def join(results: Sequence[ShardResult]) -> bytes:
            return whole(shard, results).model_dump_json().encode()

        shard = ScoreShard.model_validate_json(await claims.data_of(self._blobs, event), context=CHECKED)
        await self._tell_failed(event, shard)
        await SHARDING.join(self._bus, self._blobs, _tenant(event), _request(event)[0], join)

    async def _tell_failed(self, event: CloudEvent, shard: ScoreShard) -> None:
        """Facts about the items of a shard that nobody could score; those of others went with their scores."""
        done = await self._bus.first(SCORES, _result_subject(event))
        if done is None or done.event.get_type() != catalog.FAILED:
            return
        failure = Failure.model_validate_json(await claims.data_of(self._blobs, done.event))
        for fact in _excluded(event, shard, [_failed(shard, failure)] * len(shard.items)):
            await facts.publish(self._bus, _tenant(event), fact)


def whole(shard: ScoreShard, results: Sequence[ShardResult]) -> ScoreResponse:
    """The scores of all shards, of which `shard` is one, in the order of the items."""
    scores: list[Score] = []
    for size, result in zip(shard.sizes, results, strict=True):
        if isinstance(result, Failure):
            scores += [_failed(shard, result)] * size
        else:
            scores += LIST.validate_json(result)
    return ScoreResponse.of(tuple(scores))


def _failed(shard: ScoreShard, failure: Failure) -> Score:
    return Score(
        outcome="error",
        value=None,
        reason=failure.message[:MAX_REASON] or "the shard failed",
        grader_version=versions.version(shard.grader),
        seconds=0.0,
        attempts=MAX_FAILURES,
    )


def _excluded(event: CloudEvent, shard: ScoreShard, scores: Sequence[Score]) -> list[CloudEvent]:
    """A fact for each item that the grader failed on; `item` is its place in the request."""
    request, number = _request(event)
    first = sum(shard.sizes[: number - 1])
    return [
        facts.make_fact(
            catalog.ROLLOUT_EXCLUDED,
            tenant=_tenant(event),
            service="reward",
            subject=request,
            id=f"{event.get_id()}:{index}",
            data={
                "request": request,
                "shard": number,
                "item": first + index,
                "sequence_id": item.sequence_id,
                **score.model_dump(mode="json", include=set(EXCLUSION)),
            },
        )
        for index, (item, score) in enumerate(zip(shard.items, scores, strict=True))
        if score.excluded
    ]


def _scored(event: CloudEvent, shard: ScoreShard, scores: list[Score]) -> CloudEvent:
    request, number = _request(event)
    return facts.make_fact(
        catalog.ROLLOUT_SCORED,
        tenant=_tenant(event),
        service="reward",
        subject=request,
        id=event.get_id(),
        data={
            "request": request,
            "shard": number,
            "scores": [
                {"sequence_id": item.sequence_id, **score.model_dump(mode="json")}
                for item, score in zip(shard.items, scores, strict=True)
            ],
        },
    )


def _is_outside(_: CloudEvent, data: bytes) -> bool:
    """Whether a command waits for somebody outside, for a part of its score at least: who asks a slow judge takes no
    core from others. What it computes beside that waits for a process like all else."""
    grader = from_json(data).get("grader", {})
    parts = grader.get("params", {}).get("graders", ()) if grader.get("type") == "weighted" else ()
    return any(one.get("type") in OUTSIDE for one in (grader, *(part["grader"] for part in parts)))


def _tenant(event: CloudEvent) -> str:
    return names.tenant_of(event.get_source())


def _request(event: CloudEvent) -> tuple[str, int]:
    """(request, shard) of a command."""
    return ids.split_future_id(event.get_id())


def _result_subject(event: CloudEvent) -> str:
    return names.result_subject("reward", _tenant(event), *_request(event))
