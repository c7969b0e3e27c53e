"""What counts as no answer, and trying again.

Whoever asks NATS turns its silence, in whatever form, into BusUnavailable (`answering`); a function that may be
repeated is tried again by one of the decorators. Knows nothing of what is asked.
"""

import contextlib
from collections.abc import Iterator

import structlog
from nats import errors
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError
from tenacity import (
    RetryCallState,
    retry,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential_jitter,
)

from events.failure import BlobsUnavailable, BusUnavailable

log = structlog.get_logger(__name__)

NOBODY = "nobody answers there: it does not exist, or is not for this user"
TOLD_EVERY = 5
"""Attempts in vain after which it is said that something is tried again and again."""
SILENCE = (
    TimeoutError,
    errors.NoRespondersError,
    NoStreamResponseError,
    errors.ConnectionClosedError,
    errors.ConnectionDrainingError,
    errors.ConnectionReconnectingError,
    errors.StaleConnectionError,
    errors.OutboundBufferLimitError,
)
"""The ways in which nats-py says that nobody answered."""


def _tell(state: RetryCallState) -> None:
    """What is missing for long, or not for this user, shall not be waited for in silence."""
    if state.attempt_number % TOLD_EVERY == 0 and state.outcome is not None:
        log.warning("bus.unavailable", attempts=state.attempt_number, reason=str(state.outcome.exception()))


again_when_unavailable = retry(
    retry=retry_if_exception_type(BusUnavailable),
    wait=wait_exponential_jitter(multiplier=0.05, max=2.0, jitter=0.05),
    stop=stop_after_delay(30),
    before_sleep=_tell,
    reraise=True,
)
"""Tries a function that can be repeated again while the bus is away, for 30 s."""

until_available = retry(
    retry=retry_if_exception_type(BusUnavailable),
    wait=wait_exponential_jitter(multiplier=0.05, max=2.0, jitter=0.05),
    before_sleep=_tell,
)
"""The same without an end, for work that nobody waits for in person."""

again_when_stored = retry(
    retry=retry_if_exception_type(BlobsUnavailable), wait=wait_exponential_jitter(multiplier=0.1, max=5.0)
)
"""Tries again for as long as the blob store is away: nobody else would fare better, and nothing shall fail of it."""


@contextlib.contextmanager
def answering(what: str) -> Iterator[None]:
    """Whatever goes unanswered or is refused within raises BusUnavailable; NotFoundError passes."""
    try:
        yield
    except SILENCE as error:
        raise BusUnavailable(f"{what}: {unanswered(error)}") from error
    except NotFoundError:
        raise
    except APIError as error:
        raise BusUnavailable(f"{what}: {error.description or NOBODY}") from error


def unanswered(error: Exception) -> str:
    """What a kind of silence says."""
    if isinstance(error, (errors.NoRespondersError, NoStreamResponseError)):
        return NOBODY
    return "no answer"
