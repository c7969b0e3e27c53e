"""Which streams there are, and what each promises.

RUNS_<base>  limits     commands, leases, results, checkpoint entries of a base model's runs
SAMPLE       workqueue  sampling commands
REWARD       workqueue  shards of rollouts to score
DATA         workqueue  uploads to take in, versions to derive; takes messages for later
CHECKPOINT   workqueue  blobs to collect, what to release and what has expired; takes messages for later
RESULTS      write-once results of the work queues, for a day
ATTEMPTS     last value reported failures of deliveries, for a day
SCORES, FAILURES, FUNCTIONS: the same of the reward service, and users' functions
ALIVE        last value replicas that live, for as long as they say so again
RECORDS      last value sessions, runs, samplers, base models
RL           last value states, metrics and control words of server-side RL runs
FACTS        news for anyone, for 7 days
FIRINGS      write-once events that fired triggers, for 30 days
DEAD         what failed for good, for 30 days, to look at

The service that runs code of users may have rights of its own, and NATS gives them by the stream: hence its results,
attempts and records lie apart from those of others.
"""

from typing import Any

from nats.js.api import DiscardPolicy, RePublish, RetentionPolicy, StorageType, StreamConfig

from events import names

DAY = 24 * 3600.0
FIRINGS, FIRING_DAYS = "FIRINGS", 30.0
"""What fired a trigger is remembered for longer than the fact can come again."""
RESULT_DAYS, FACT_DAYS, DEAD_DAYS = 1.0, 7.0, 30.0
"""How long entries of those streams are kept."""
ALIVE_SECONDS = 10.0
"""How long a replica that says nothing is still believed to live."""
SCORES, FAILURES, FUNCTIONS = "SCORES", "FAILURES", "FUNCTIONS"
RECORDS, RESULTS, FACTS, SAMPLE, REWARD, DATA, CHECKPOINT, DEAD, ATTEMPTS, ALIVE, RL = (
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
    "RL",
)


def results_of(queue: str) -> str:
    """Where the results of a work queue lie, by its stream."""
    return SCORES if queue == REWARD else RESULTS


def attempts_of(queue: str) -> str:
    """Where the failures of its deliveries are counted."""
    return FAILURES if queue == REWARD else ATTEMPTS


def make(name: str, *subjects: str, replicas: int = 1, **options: Any) -> StreamConfig:
    """A stream as all of ours are."""
    return StreamConfig(
        name=name,
        subjects=list(subjects),
        storage=StorageType.FILE,
        num_replicas=replicas,
        allow_direct=True,
        **options,
    )


def work_queue(name: str, subjects: str, *others: str, **options: Any) -> StreamConfig:
    """A stream of commands that leave it when they are acknowledged, and are announced when they are stored."""
    told = RePublish(src=subjects, dest=names.queued(subjects), headers_only=True)
    return make(name, subjects, *others, retention=RetentionPolicy.WORK_QUEUE, republish=told, **options)


def shared(replicas: int) -> list[StreamConfig]:
    """The streams that every installation has."""

    def stream(name: str, subjects: str, **options: Any) -> StreamConfig:
        return make(name, subjects, replicas=replicas, **options)

    def queue(name: str, subjects: str, *others: str, **options: Any) -> StreamConfig:
        return work_queue(name, subjects, *others, replicas=replicas, **options)

    def once(name: str, subjects: str, days: float) -> StreamConfig:
        return stream(
            name,
            subjects,
            max_msgs_per_subject=1,
            discard=DiscardPolicy.NEW,
            discard_new_per_subject=True,
            max_age=days * DAY,
            republish=RePublish(src=subjects, dest=names.stored_subject(subjects), headers_only=True),
        )

    return [
        stream(ALIVE, "alive.>", max_msgs_per_subject=1, max_age=ALIVE_SECONDS),
        stream(RECORDS, "record.>", max_msgs_per_subject=1),
        stream(FUNCTIONS, "rewards.record.>", max_msgs_per_subject=1),
        once(RESULTS, "result.>", RESULT_DAYS),
        once(SCORES, "rewards.result.>", RESULT_DAYS),
        stream(
            RL,
            "rl.>",
            max_msgs_per_subject=1,
            republish=RePublish(src="rl.>", dest=f"{names.STORED}.rl.>", headers_only=True),
        ),
        stream(FACTS, "facts.>", max_age=FACT_DAYS * DAY),
        stream(
            FIRINGS,
            "firing.>",
            max_msgs_per_subject=1,
            discard=DiscardPolicy.NEW,
            discard_new_per_subject=True,
            max_age=FIRING_DAYS * DAY,
        ),
        queue(SAMPLE, "sample.>", discard=DiscardPolicy.NEW),
        # A stream that takes messages for later cannot refuse new ones; these have no limit to reach either.
        queue(
            REWARD, names.REWARD_FILTER, names.later_subject(names.REWARD_FILTER), allow_msg_schedules=True
        ),
        queue(DATA, names.DATA_FILTER, names.later_subject(names.DATA_FILTER), allow_msg_schedules=True),
        queue(CHECKPOINT, "checkpoint.>", names.later_subject("checkpoint.>"), allow_msg_schedules=True),
        stream(DEAD, "dead.>", max_age=DEAD_DAYS * DAY),
        stream(ATTEMPTS, "attempts.>", max_msgs_per_subject=1, max_age=DAY),
        stream(FAILURES, "rewards.attempts.>", max_msgs_per_subject=1, max_age=DAY),
    ]


def runs(base: str, replicas: int) -> StreamConfig:
    """The stream of one base model's training runs; results are repeated once stored."""
    root = f"run.{names.token(base)}"
    return make(
        names.run_stream(base),
        f"{root}.>",
        replicas=replicas,
        republish=RePublish(
            src=f"{root}.*.*.result.*",
            dest=f"{names.STORED}.{root}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.result.{{{{wildcard(3)}}}}",
            headers_only=True,
        ),
    )
