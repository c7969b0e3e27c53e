"""Everything that the SDK raises, in one tree.

    RekindleError                   has a `category`: user, server or unknown
    ├── InvalidField                a ValueError: an argument or an answer breaks a rule (field, reason)
    ├── APIError                    the server refused a call (status, detail)
    │   ├── BadRequest              400, 405, 413, 422: the request itself is wrong
    │   ├── Unauthorized            401: no API key, or not a known one
    │   ├── Forbidden               403
    │   ├── NotFound                404: no such run, checkpoint, dataset or future
    │   ├── Gone                    410: it was there and is no longer
    │   ├── RateLimited             429, after waiting as the server said (retry_after)
    │   └── ServerUnavailable       408 and from 500 on, after trying again for minutes
    ├── ConnectionFailed            nobody answered, after trying again for minutes
    ├── RequestFailed               a command was accepted and then failed (message, category, request_id)
    ├── TooManyExcluded             the grader failed on too many items (response, max_excluded)
    ├── MissingPackage              what an extra of rekindle brings is not installed (package, extra)
    ├── TransferFailed              an upload or download did not bring what was announced
    └── ClientClosed                the client was closed

The category decides what to do: `user` is the caller's fault and fails again when tried again, `server` is
the other side's. What can be tried again safely has been, before any of these is raised. All of them can be
pickled.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from rekindle.types.errors import Category, InvalidField, RekindleError

if TYPE_CHECKING:
    from rekindle.types.rewards import ScoreResponse

__all__ = [
    "APIError",
    "BadRequest",
    "Category",
    "ClientClosed",
    "ConnectionFailed",
    "Forbidden",
    "Gone",
    "InvalidField",
    "MissingPackage",
    "NotFound",
    "RateLimited",
    "RekindleError",
    "RequestFailed",
    "ServerUnavailable",
    "TooManyExcluded",
    "TransferFailed",
    "Unauthorized",
    "api_error",
]


class APIError(RekindleError):
    """The server refused a call: `404: run 'x' does not exist`."""

    category: Category = "user"

    def __init__(self, status: int, detail: str, retry_after: float | None = None) -> None:
        super().__init__(status, detail, retry_after)
        self.status = status
        """HTTP status."""
        self.detail = detail
        """What the server said, mostly `field: what was found and what is allowed`."""
        self.retry_after = retry_after
        """Seconds after which the server wants to be asked again; None: it did not say."""

    def __str__(self) -> str:
        return f"{self.status}: {self.detail}"


class BadRequest(APIError):
    """The request itself is wrong."""


class Unauthorized(APIError):
    """No API key, or not a known one."""


class Forbidden(APIError):
    """The key may not do this."""


class NotFound(APIError):
    """What the call is about does not exist."""


class Gone(APIError):
    """It was there and is no longer."""


class RateLimited(APIError):
    """Too many requests for longer than the client waits."""

    category = "server"


class ServerUnavailable(APIError):
    """The server failed for longer than the client waits."""

    category = "server"


class ConnectionFailed(RekindleError):
    """Nobody answered."""

    category = "server"


class RequestFailed(RekindleError):
    """A command was accepted and then failed."""

    def __init__(self, message: str, category: Category, request_id: str) -> None:
        super().__init__(message, category, request_id)
        self.message = message
        self.category = category
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.message} (request {self.request_id}, {self.category})"


class TooManyExcluded(RekindleError):
    """The grader failed on more of the items than the caller bears: what is left is no fair sample of them."""

    category: Category = "server"

    def __init__(self, response: "ScoreResponse", max_excluded: float) -> None:
        super().__init__(response, max_excluded)
        self.response = response
        """All scores, those of the other items too."""
        self.max_excluded = max_excluded
        """The share that was borne."""

    def __str__(self) -> str:
        scores, most = self.response.scores, self.max_excluded
        reason = next((one.reason for one in scores if one.excluded), None)
        return f"{self.response.excluded} of {len(scores)} items excluded, more than {most:.0%}; the first: {reason}"


class MissingPackage(RekindleError):
    """What an extra of rekindle brings is not installed."""

    category: Category = "user"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package, extra)
        self.package = package
        self.extra = extra

    def __str__(self) -> str:
        return f"{self.package} is not installed: pip install 'rekindle[{self.extra}]'"


class TransferFailed(RekindleError):
    """An upload or download did not bring what was announced."""


class ClientClosed(RekindleError):
    """The client was closed. (A session that the server has ended makes calls fail with NotFound or Gone.)"""


_BY_STATUS: Mapping[int, type[APIError]] = MappingProxyType(
    {
        401: Unauthorized,
        403: Forbidden,
        404: NotFound,
        408: ServerUnavailable,
        410: Gone,
        429: RateLimited,
    }
)


def api_error(status: int, detail: str, retry_after: float | None = None) -> APIError:
    """The error of an HTTP status."""
    kind = _BY_STATUS.get(status, ServerUnavailable if status >= 500 else BadRequest)
    return kind(status, detail, retry_after)
