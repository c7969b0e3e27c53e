"""What a sampling command carries: the request, and everything else that decides its tokens."""

from pydantic import BaseModel, ConfigDict

from rekindle.types.requests import SampleRequest


class SampleCommand(BaseModel):
    """One `asample`, fixed when it was appended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str
    sampler_id: str
    base: str
    run_id: str
    """Training run of the adapter, or the session of a bare base model."""
    number: int
    version: str | None
    """Identity of the adapter version, None = the bare base model."""
    blob: str | None
    """Where its files lie."""
    seed: int
    """The client's, or one drawn at the edge: a repeated delivery gives the same tokens."""
    request: SampleRequest


def sequence_ids(version: str | None, sampler_id: str, number: int, count: int) -> list[str]:
    """Ids of the sequences of one request; each says which version made it."""
    return [f"{sampler_id}:{number}:{index}@{version or 'base'}" for index in range(count)]
