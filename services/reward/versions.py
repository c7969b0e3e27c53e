"""What a score's grader was: its type, the release of our code, and a hash of all else that decides values."""

import hashlib
import json
from importlib import metadata
from sys import version_info
from typing import Any, get_args

from rekindle.types import rewards
from services.reward import graders

SPECS: dict[str, type[rewards.Exact]] = {
    kind.model_fields["type"].default: kind for kind in get_args(get_args(rewards.Grader)[0])
}
"""How each type is described."""
RELEASES = {"weighted": 1, "python": 1, "function": 1, "remote": 1, "llm_judge": 1}
"""Of the types that no class of `graders` is for; raised whenever the same input may get another value."""
MEMORABLE = (rewards.Math, rewards.Sql)
"""Pure graders that cost more than remembering what they said."""


def release(type_: str) -> str:
    """`sql-1`: changes with the code."""
    number = graders.GRADERS[type_].release if type_ in graders.GRADERS else RELEASES[type_]
    return f"{type_}-{number}"


def params_of(type_: str) -> type[rewards.Exact]:
    """The class of a type's parameters."""
    params: type[rewards.Exact] = SPECS[type_].model_fields["params"].annotation  # type: ignore[assignment]
    return params


def version(spec: rewards.Grader) -> str:
    """`sql-1+0f3a9c12`: changes with the code, the libraries and all that the task says."""
    digest = hashlib.sha256(json.dumps(_decides(spec), sort_keys=True).encode()).hexdigest()[:8]
    return f"{release(spec.type)}+{digest}"


def _decides(spec: rewards.Grader) -> list[Any]:
    if isinstance(spec, rewards.Weighted):
        return [[version(part.grader), part.weight] for part in spec.params.graders]
    decides: list[Any] = [spec.model_dump(mode="json")]
    if spec.type in graders.GRADERS:
        kind = graders.GRADERS[spec.type]
        decides += [[[name, metadata.version(name)] for name in kind.libraries], kind.environment()]
    if isinstance(spec, rewards.Python | rewards.Function):
        decides += [list(version_info[:2])]
    return decides


def is_pure(spec: rewards.Single) -> bool:
    """Whether equal items always get equal values, and remembering them is worth it."""
    if isinstance(spec, rewards.Python | rewards.Function):
        return bool(spec.params.pure)
    return isinstance(spec, MEMORABLE)
