"""What a store of S3 says when it does not do as asked: that something is not there, or that it gives no answer."""

import contextlib
import re
from collections.abc import Iterator

import structlog
from obstore.exceptions import BaseError

from events.failure import BlobsUnavailable, NotFound

log = structlog.get_logger(__name__)

NO_BUCKET = "NoSuchBucket"
"""Said of all blobs where there is no bucket: the store knows nothing of any."""
CODE = re.compile(r"<Code>(\w+)</Code>")


@contextlib.contextmanager
def answering(key: str, *, writing: bool = False) -> Iterator[None]:
    """What is not there raises NotFound, whatever else the store has to say BlobsUnavailable. A write that finds
    something missing, a bucket or an upload that somebody ended, finds no blob missing."""
    try:
        yield
    except FileNotFoundError as error:
        if not writing and _code(error) != NO_BUCKET:
            raise NotFound(f"blob {key} does not exist") from error
        raise _unavailable(key, error) from error
    except BaseError as error:
        raise _unavailable(key, error) from error


def _unavailable(key: str, error: Exception) -> BlobsUnavailable:
    code = _code(error)
    log.warning("blobs.unavailable", key=key, code=code, reason=str(error).partition("\n")[0])
    if code == NO_BUCKET:
        return BlobsUnavailable(f"blob {key}: the bucket does not exist")
    return BlobsUnavailable(f"blob {key}: no answer from the store ({code or type(error).__name__})")


def _code(error: Exception) -> str | None:
    """What the store itself says, where it has said something."""
    found = CODE.search(str(error))
    return None if found is None else found[1]
