"""What is known of a file of rows once it is written."""

from pydantic import BaseModel, ConfigDict

from rekindle.types.datasets import Column

FILE = "rows.parquet"
"""Name of the file in the folder of a version."""


class Summary(BaseModel):
    """E.g. `Summary(sha256="9f…", rows=7000, bytes=210321, columns=(Column(name="prompt", …), …))`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    """Content hash, see `digest.py`."""
    rows: int
    bytes: int
    """Of the file."""
    columns: tuple[Column, ...]
