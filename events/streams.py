"""Which streams there are, and what each promises.

RUNS_<base>  limits     commands, leases, results, checkpoint entries of a base model's runs
SAMPLE       workqueue  sampling commands; one shared consumer a base model
REWARD       workqueue  shards of rollouts to score
DATA         workqueue  uploads to take in, versions to derive; takes messages for later
CHECKPOINT   workqueue  blobs to collect, what to release and what has expired; takes messages for later
RESULTS      write-once results of the work queues, for a day
ATTEMPTS     last value reported failures of deliveries, for a day
ALIVE        last value replicas that live, for as long as they say so again
RECORDS      last value sessions, runs, samplers, base models
FACTS        news for anyone, for 7 days
DEAD         what failed for good, for 30 days, to look at
"""

from nats.js.api import DiscardPolicy, RePublish, RetentionPolicy, StorageType, StreamConfig

from events import names

DAY = 24 * 3600.0
RESULT_DAYS, FACT_DAYS, DEAD_DAYS = 1.0, 7.0, 30.0
"""How long entries of those streams are kept."""
WORK_QUEUE = RetentionPolicy.WORK_QUEUE
ALIVE_SECONDS = 10.0
"""How long a replica that says nothing is still believed to live."""
RECORDS, RESULTS, FACTS, SAMPLE, REWARD, DATA, CHECKPOINT, DEAD, ATTEMPTS, ALIVE = (
    "RECORDS",
    "RESULTS",
    "FACTS",
    "SAMPLE",
    "REWARD",
    "DATA",
    "CHECKPOINT",
    "DEAD",
    "ATTEMPTS",
    "ALIVE",
)


def shared(replicas: int) -> list[StreamConfig]:
    """The streams that every installation has."""

    def stream(name: str, *subjects: str, **options: object) -> StreamConfig:
        return StreamConfig(
            name=name,
            subjects=list(subjects),
            storage=StorageType.FILE,
            num_replicas=replicas,
            allow_direct=True,
            **options,  # type: ignore[arg-type]
        )

    work = {"retention": WORK_QUEUE, "discard": DiscardPolicy.NEW}
    # A stream that takes messages for later cannot refuse new ones; these have no limit to reach either.
    later = {"retention": WORK_QUEUE, "allow_msg_schedules": True}
    return [
        stream(ALIVE, "alive.>", max_msgs_per_subject=1, max_age=ALIVE_SECONDS),
        stream(RECORDS, "record.>", max_msgs_per_subject=1),
        stream(
            RESULTS,
            "result.>",
            max_msgs_per_subject=1,
            discard=DiscardPolicy.NEW,
            discard_new_per_subject=True,
            max_age=RESULT_DAYS * DAY,
            republish=RePublish(src="result.>", dest=f"{names.STORED}.result.>", headers_only=True),
        ),
        stream(FACTS, "facts.>", max_age=FACT_DAYS * DAY),
        stream(SAMPLE, "sample.>", **work),
        stream(REWARD, "reward.>", **work),
        stream(DATA, "data.>", names.later_subject("data.>"), **later),
        stream(CHECKPOINT, "checkpoint.>", names.later_subject("checkpoint.>"), **later),
        stream(DEAD, "dead.>", max_age=DEAD_DAYS * DAY),
        stream(ATTEMPTS, "attempts.>", max_msgs_per_subject=1, max_age=DAY),
    ]


def runs(base: str, replicas: int) -> StreamConfig:
    """The stream of one base model's training runs; results are repeated once stored."""
    root = f"run.{names.token(base)}"
    return StreamConfig(
        name=names.run_stream(base),
        subjects=[f"{root}.>"],
        storage=StorageType.FILE,
        num_replicas=replicas,
        allow_direct=True,
        republish=RePublish(
            src=f"{root}.*.*.result.*",
            dest=f"{names.STORED}.{root}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.result.{{{{wildcard(3)}}}}",
            headers_only=True,
        ),
    )
