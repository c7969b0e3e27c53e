"""What went wrong, and whose fault it is.

    RekindleError
    ├── CommandFailed      a command ended in a Failure; it carries the category
    │   ├── UserError        the caller's fault; never tried again
    │   └── ServerError      ours; tried again when retryable
    ├── WorkerBroken       this process can do no more work; another one shall
    ├── GivenBack          the work is not done: whoever has room shall take it up again
    ├── Overtaken          somebody else does the same work
    ├── NotFound           the thing named does not exist
    ├── Busy               something is in the way, which goes away by itself
    └── BusError
        ├── Conflict         compare-and-set refused: somebody wrote first
        ├── StreamFull       the stream refuses more, or the subject is taken
        └── BusUnavailable   no answer; the write may or may not have happened
            └── BlobsUnavailable   the same of the blob store

The category alone decides what becomes of a message (acknowledge, again, dead letter) and what a client sees.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Category = Literal["user", "server"]


class Failure(BaseModel):
    """The failed end of a future. Example: Failure(message="data[0]: empty", category="user")."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    message: str
    """For people: names the field and the limit."""
    category: Category
    """`user`: the caller's fault; `server`: ours."""
    retryable: bool = False
    """Whether the same command may succeed later."""


class RekindleError(Exception):
    """Root of what Rekindle raises on purpose."""


class CommandFailed(RekindleError):
    """A command ended in a failure."""

    category: Category = "server"

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.failure = Failure(message=message, category=self.category, retryable=retryable)


class UserError(CommandFailed):
    """The caller's fault."""

    category: Category = "user"


class ServerError(CommandFailed):
    """Our fault."""


class WorkerBroken(RekindleError):
    """This process can do no more work: end it, and what it has in hand comes back to another one."""


class GivenBack(RekindleError):
    """The work is not done: whoever has room shall take it up again, after `delay` seconds."""

    def __init__(self, message: str, *, delay: float = 0.0) -> None:
        super().__init__(message)
        self.delay = delay


class Overtaken(RekindleError):
    """Somebody else does the same work: it is theirs to settle."""


class NotFound(RekindleError):
    """The thing named does not exist, or not for this tenant."""


class Busy(RekindleError):
    """Something is in the way, which goes away by itself: ask again."""


class BusError(RekindleError):
    """The bus did not do as asked."""


class Conflict(BusError):
    """A compare-and-set was refused: the subject's last sequence is another."""


class StreamFull(BusError):
    """The stream refuses more, or the subject can be written only once and has been."""


class BusUnavailable(BusError):
    """No answer from NATS: the write may or may not have happened."""


class BlobsUnavailable(BusUnavailable):
    """No answer from the blob store: the write may or may not have happened."""
