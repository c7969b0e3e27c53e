"""The only maker of subjects, and of the names of streams, consumers and services.

Names from outside (models, paths, ids) contain `/`, `.` and `:`, which NATS and DNS do not take. A token is a
readable slug of at most 30 characters plus 8 hex digits of the exact name's sha256; the exact name stands in
the record itself. Every subject carries the tenant.
"""

import hashlib
import re
from datetime import date
from functools import lru_cache

from events.confined import CONFINED, CONFINED_RECORDS, is_confined
from events.ids import QUEUES

SLUG_LENGTH = 30


@lru_cache(maxsize=4096)
def token(name: str) -> str:
    """`Qwen/Qwen3-8B` → `qwen-qwen3-8b-<8 hex>`: one subject token, DNS label and folder name."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:SLUG_LENGTH].strip("-")
    # JSON may hold half a surrogate pair: no name of ours, but a question that has an answer.
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{slug}-{digest}" if slug else digest


def id_token(id: str) -> str:
    """The token of a run's or sampler's id, `<session>:train:<n>`, with the number in it, so that however many a
    session has, no two share one; of a request, `score:<hex>` or `data:<hex>`, all of it."""
    session, _, rest = id.partition(":")
    kind, _, number = rest.partition(":")
    if session in QUEUES and re.fullmatch(r"[0-9a-f-]{1,64}", rest):
        return f"{session}-{rest}"
    if kind in ("train", "sample") and number.isascii() and number.isdigit():
        return f"{token(session)}-{kind}-{number}"
    return token(id)


def service_name(kind: str, base: str | None) -> str:
    """Of a service in its platform: `sample-<base>`, `checkpoint`; a DNS label."""
    return kind if base is None else f"{kind}-{token(base)}"


def source(tenant: str, service: str) -> str:
    """Of an event."""
    return f"/rekindle/{tenant}/{service}"


def tenant_of(source: str) -> str:
    """The tenant in an event's source; tenants have no slash in their names."""
    return source.split("/")[2]


# Training runs: one stream a base model holds all that must agree.


def run_stream(base: str) -> str:
    return f"RUNS_{token(base)}"


def run_base(base: str) -> str:
    return f"run.{token(base)}"


def run_root(base: str, tenant: str, run: str) -> str:
    return f"{run_base(base)}.{token(tenant)}.{id_token(run)}"


def run_subject(base: str, tenant: str, run: str, *parts: str | int) -> str:
    """`run.<base>.<tenant>.<run>.<parts>`; parts: `cmd`, n | `result`, n | `lease` | `head` |
    `checkpoint`, kind, name."""
    return ".".join([run_root(base, tenant, run), *map(str, parts)])


def checkpoint_subject(base: str, tenant: str, run: str, kind: str, name: str) -> str:
    return run_subject(base, tenant, run, "checkpoint", kind, token(name))


def head_filter(base: str) -> str:
    return f"{run_base(base)}.*.*.head"


def run_filter(base: str, part: str) -> str:
    """All entries of one kind (`cmd`, `result`) of a base model's runs."""
    return f"{run_base(base)}.*.*.{part}.*"


def closed_subject(root: str) -> str:
    """Said once, for who happens to hear it: nothing of the run is left."""
    return f"closed.{root}"


def alive_subject(replica: str) -> str:
    return f"alive.{token(replica)}"


# Work queues: `<queue>.<tenant>.…`, of samplers `sample.<base>.<tenant>.…`.

REWARD_FILTER = "reward.>"
DATA_FILTER = "data.>"
WAITS = "waits"
QUEUED = "queued"
"""Prefix under which the stream of a work queue announces a command."""


def sample_subject(base: str, tenant: str, run: str, sampler: str, seq: int) -> str:
    return f"sample.{token(base)}.{token(tenant)}.{id_token(run)}.{id_token(sampler)}.{seq}"


def sample_consumer(base: str) -> str:
    return f"sample-{token(base)}"


def sample_filter(base: str) -> str:
    return f"sample.{token(base)}.>"


def sampler_filter(base: str, tenant: str, run: str, sampler: str) -> str:
    return f"sample.{token(base)}.{token(tenant)}.{id_token(run)}.{id_token(sampler)}.*"


def reward_subject(tenant: str, request: str, shard: int) -> str:
    return f"reward.{token(tenant)}.{id_token(request)}.{shard}"


def waiting_subject(tenant: str, request: str, shard: int) -> str:
    """Of a shard that somebody outside scores, while we wait."""
    return f"{reward_subject(tenant, request, shard)}.{WAITS}"


def only_waits(subject: str) -> bool:
    """Whether the command of the reward service on a subject, announced or not, computes nothing."""
    return subject.endswith(f".{WAITS}")


def data_subject(tenant: str, owner: str, seq: int) -> str:
    return f"data.{token(tenant)}.{id_token(owner)}.{seq}"


def drives_rl_run(subject: str) -> bool:
    """Whether the command of the data service on a subject, announced or not, is about an RL run."""
    return subject.rpartition(".")[0].rpartition(".")[2].startswith("rl-")


def release_subject(tenant: str, id: str) -> str:
    """Of a session or run that shall leave nothing behind."""
    return f"checkpoint.{token(tenant)}.release.{id_token(id)}"


def look_subject(tenant: str, session: str) -> str:
    """Of a session that may be forgotten by its client."""
    return f"checkpoint.{token(tenant)}.look.{id_token(session)}"


def collect_subject(tenant: str, checkpoint_path: str) -> str:
    return f"checkpoint.{token(tenant)}.collect.{token(checkpoint_path)}"


def ttl_subject(tenant: str, checkpoint_path: str) -> str:
    """Of a checkpoint whose time to live may have passed."""
    return f"checkpoint.{token(tenant)}.ttl.{token(checkpoint_path)}"


def expire_subject(tenant: str, day: date, *, confined: bool) -> str:
    """Of payloads that have expired when the day begins."""
    return f"{CONFINED if confined else 'checkpoint'}.{token(tenant)}.expire.{day}"


def queued(subject: str) -> str:
    """Where the stream of a work queue announces a command, by headers alone, once it has stored it."""
    return f"{QUEUED}.{subject}"


def tenant_part(queue_filter: str, subject: str) -> str:
    """The tenant's token in a command's subject: it stands where the queue's filter `<queue>.>` ends."""
    return subject[len(queue_filter) - 1 :].partition(".")[0]


def tenant_filter(queue_filter: str, tenant_token: str) -> str:
    """A tenant's commands in a work queue."""
    return f"{queue_filter.removesuffix('>')}{tenant_token}.>"


def later_subject(subject: str) -> str:
    return f"later.{subject}"


def attempts_subject(subject: str) -> str:
    return f"rewards.attempts.{subject}" if is_confined(subject) else f"attempts.{subject}"


def dead_subject(subject: str) -> str:
    return f"dead.{subject}"


def open_subject(consumer: str, tenant_token: str) -> str:
    """Where a service that may make no consumer asks for one: of a work queue's, that of a tenant."""
    return f"open.{consumer}.{tenant_token}"


# Results of work queues: `[rewards.]result.<queue>.<tenant>.<owner>.…`.


def result_subject(queue: str, tenant: str, owner: str, seq: int | str) -> str:
    root = "rewards.result" if queue == CONFINED else f"result.{queue}"
    return f"{root}.{token(tenant)}.{id_token(owner)}.{seq}"


def manifest_subject(queue: str, tenant: str, request: str) -> str:
    """Beside the results of a request's shards: how many there are."""
    return result_subject(queue, tenant, request, "manifest")


def pins_subject(queue: str, tenant: str, request: str) -> str:
    """Beside them: what its names meant when it came first."""
    return result_subject(queue, tenant, request, "pins")


def result_filter(queue: str, tenant: str, owner: str) -> str:
    """All results of one owner, a sharded request's manifest included."""
    return result_subject(queue, tenant, owner, "*")


# RL runs and triggers.

TRIGGERS_CHANGED = "changed.triggers"
"""Said once, for whoever watches facts: triggers have come or gone."""


def rl_subject(tenant: str, session: str, *parts: str | int) -> str:
    """`rl.<tenant>.<session of the run>.<parts>`; parts: `state` | `control` | `metric`, n | `*`, `>`."""
    return ".".join([f"rl.{token(tenant)}.{id_token(session)}", *map(str, parts)])


def rl_states(tenant: str) -> str:
    """The states of all RL runs of a tenant."""
    return f"rl.{token(tenant)}.*.state"


def trigger_consumer(tenant: str, trigger: str, first: int) -> str:
    """Of a trigger that sees facts from that place on."""
    return f"trigger-{token(tenant)}-{id_token(trigger)}-{first}"


def trigger_of_consumer(consumer: str) -> str:
    """`trigger-<tenant>-<key>`."""
    return consumer.rpartition("-")[0]


def trigger_of_record(record: str) -> str:
    """The same of the subject of its record."""
    return "-".join(["trigger", *record.split(".")[2:]])


def firing_filter(tenant: str, trigger: str, first: int) -> str:
    return f"firing.{token(tenant)}.{token(f'{trigger}@{first}')}.*"


def firing_subject(tenant: str, trigger: str, first: int, event: str) -> str:
    """`event`: a digest of the event's source and id."""
    return firing_filter(tenant, trigger, first).removesuffix("*") + event


# Records and facts.

STORED = "stored"
"""Prefix under which a stream repeats, by headers alone, what it has stored."""


def record_subject(kind: str, tenant: str, key: str) -> str:
    return f"{_records(kind)}.{token(tenant)}.{id_token(key)}"


def record_filter(kind: str, tenant: str) -> str:
    return f"{_records(kind)}.{token(tenant)}.*"


def every_record(kind: str) -> str:
    """Records of a kind, whoever's they are."""
    return f"{_records(kind)}.*.*"


def _records(kind: str) -> str:
    return f"rewards.record.{kind}" if kind in CONFINED_RECORDS else f"record.{kind}"


def forgotten_subject(record: str) -> str:
    """Said once, for whoever remembers the record."""
    return f"forgotten.{record}"


def stored_subject(subject: str) -> str:
    return f"{STORED}.{subject}"


def fact_subject(tenant: str, type_: str) -> str:
    return f"facts.{token(tenant)}.{type_.removeprefix('dev.rekindle.')}"


def fact_filter(tenant: str) -> str:
    return f"facts.{token(tenant)}.>"
