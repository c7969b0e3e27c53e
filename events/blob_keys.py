"""The only maker of keys of the blob store: paths of tokens, the tenant's first, or what the reward service may reach.

What belongs together, and goes together, lies in one folder.
"""

from datetime import date

from events.confined import CONFINED
from events.ids import split_future_id
from events.names import id_token, token


def claim_name(event_id: str, digest: str) -> str:
    """Of a payload in its folder: it belongs to one event, so that it can go with it."""
    return f"{token(event_id)}-{digest}"


def claims_of_day(tenant: str, day: date, *, confined: bool = False) -> str:
    """Folder of payloads that have all expired when the day begins; of confined ones a tenant has another."""
    return f"{CONFINED}/{token(tenant)}/claims/{day}" if confined else f"{token(tenant)}/claims/{day}"


def run_claims(base: str, tenant: str, run: str) -> str:
    """Folder of payloads that a run's log refers to."""
    return f"{run_folder(base, tenant, run)}/claims"


def checkpoint_key(base: str, tenant: str, run: str, kind: str, name: str, epoch: int) -> str:
    """A blob is written under the epoch of its writer and does not exist until a fenced record names it."""
    return f"{run_folder(base, tenant, run)}/{kind}/{token(name)}/{epoch}"


def run_folder(base: str, tenant: str, run: str) -> str:
    return f"{token(tenant)}/{token(base)}/{id_token(run)}"


def snapshots_key(base: str, tenant: str, run: str) -> str:
    return f"{run_folder(base, tenant, run)}/snapshots"


def snapshot_key(base: str, tenant: str, run: str, number: int, epoch: int) -> str:
    """The state behind operation `number`, as the writer of that epoch knew it."""
    return f"{snapshots_key(base, tenant, run)}/{number}-{epoch}"


def upload_key(tenant: str, upload_id: str) -> str:
    """Folder of the parts of an upload; each part lies there under its number."""
    return f"{token(tenant)}/uploads/{upload_id}"


def dataset_key(tenant: str, request_id: str, part: int) -> str:
    """A version is written under the request that makes it, and does not exist until a record names it."""
    return f"{token(tenant)}/datasets/{staging_name(request_id)}-{part}"


def staging_name(request_id: str) -> str:
    """Of the folder in which a request's files are made."""
    owner, number = split_future_id(request_id)
    return f"{id_token(owner)}-{number}"
