"""Settings of the sampling service."""

from typing import Literal

from pydantic import Field, model_validator

from events.settings import EdgeSettings


class SampleSettings(EdgeSettings):
    """Which base model is sampled, by which engine, and how much at once. Variables: `REKINDLE_<FIELD>`."""

    base_name: str
    """What clients call the model."""
    base_source: str
    """Where its files come from: a folder, `[hf://]ORG/NAME[@REVISION]` or `s3://bucket/prefix`."""
    engine: Literal["torch", "vllm"] = "torch"
    token_budget: int = 65536
    """Prompt and completion tokens of the requests taken at once."""
    threads: int | None = None
    """CPU threads; None = the engine's choice. Deterministic, it is one."""
    device: str = "cpu"
    """Of the torch engine; vLLM takes the one that it was built for."""
    dtype: str = "float32"
    deterministic: bool = False
    """Tokens bit for bit independent of other requests, at the cost of speed; the torch engine alone can."""
    max_adapters: int = Field(default=32, ge=1)
    """Adapter versions in memory."""
    batch_adapters: int = Field(default=8, ge=1)
    """Adapter versions in one pass of vLLM; their places take memory of the GPU."""
    max_lora_rank: int = Field(default=64, ge=1, le=512)
    """vLLM refuses adapters of higher rank; memory of a place grows with it."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of a GPU's memory that vLLM takes."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """Memory of vLLM's key-value cache; None = what that share leaves on a GPU, 1 on a CPU."""

    @model_validator(mode="after")
    def _only_torch_is_deterministic(self) -> "SampleSettings":
        if self.deterministic and self.engine != "torch":
            raise ValueError(
                f"deterministic: the {self.engine} engine cannot promise it; choose engine=torch or leave it off"
            )
        return self
