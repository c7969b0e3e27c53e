"""JSON messages of RL runs that need no client.

| endpoint | request | answer |
|---|---|---|
| `rl_runs` | `RlRunSpec`, none | `RlRunInfo`, `RlRunsResponse` |
| `rl_runs/{id}`, `rl_runs/{id}/{pause\\|resume\\|cancel}` | none | `RlRunInfo` |
| `rl_runs/{id}/metrics` | `MetricsQuery` | `MetricsResponse` |
| `triggers`, `triggers/{name}` | `TriggerSpec`, none | `TriggerInfo`, `TriggersResponse` |
| `triggers/{name}/firings` | none | `FiringsResponse` |
"""

from rekindle.types.rl.algorithms import Algorithm, Dapo, DrGrpo, Grpo, Reinforce, Rloo
from rekindle.types.rl.runs import (
    MetricsQuery,
    MetricsResponse,
    MetricsRow,
    RlPhase,
    RlRunInfo,
    RlRunsResponse,
)
from rekindle.types.rl.spec import (
    NEW_RANK,
    Alarms,
    ChatMessage,
    Checkpoints,
    DatasetRef,
    Evaluation,
    Kl,
    Lora,
    Optimizer,
    RlRunSpec,
    Sampling,
    StopWhen,
    Stragglers,
    read_yaml,
)
from rekindle.types.rl.templates import field_of, fill_event, fill_row, has_holes, template_columns
from rekindle.types.rl.triggers import Firing, FiringsResponse, TriggerInfo, TriggerSpec, TriggersResponse

__all__ = [
    "NEW_RANK",
    "Alarms",
    "Algorithm",
    "ChatMessage",
    "Checkpoints",
    "Dapo",
    "DatasetRef",
    "DrGrpo",
    "Evaluation",
    "Firing",
    "FiringsResponse",
    "Grpo",
    "Kl",
    "Lora",
    "MetricsQuery",
    "MetricsResponse",
    "MetricsRow",
    "Optimizer",
    "Reinforce",
    "RlPhase",
    "RlRunInfo",
    "RlRunSpec",
    "RlRunsResponse",
    "Rloo",
    "Sampling",
    "StopWhen",
    "Stragglers",
    "TriggerInfo",
    "TriggerSpec",
    "TriggersResponse",
    "field_of",
    "fill_event",
    "fill_row",
    "has_holes",
    "read_yaml",
    "template_columns",
]
