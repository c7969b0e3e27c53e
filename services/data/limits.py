"""What a file from outside may cost us. Everything here is a limit on something that a sender chooses."""

from pydantic import BaseModel, ConfigDict

KIB, MIB, GIB = 2**10, 2**20, 2**30


class Limits(BaseModel):
    """Bounds of one file and of the process that reads it. Example: Limits(columns=100)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decoded_bytes: int = 32 * GIB
    """Of the rows, once unpacked."""
    ratio: int = 200
    """How many times larger than its file the content may be, beyond `ratio_from`."""
    ratio_from: int = 64 * MIB
    """Content up to this size, in bytes, may have any ratio."""
    columns: int = 1000
    """Columns, those inside objects included."""
    depth: int = 32
    """Lists and objects within each other."""
    row_bytes: int = 16 * MIB
    memory_bytes: int = 4 * GIB
    """Address space of the reading process."""
    seconds: float = 1800.0
    """Of wall clock for one file."""

    def most_bytes(self, file_bytes: int) -> int:
        """How much content a file of that size may have."""
        return min(self.decoded_bytes, max(self.ratio_from, self.ratio * file_bytes))
