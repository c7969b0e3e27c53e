"""JSON messages of reward functions: registering one, and what is known of it."""

from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from rekindle.types.rewards.basics import Exact
from rekindle.types.rewards.code import FunctionName, FunctionVersion
from rekindle.types.rewards.scores import Score, ScoreItem

MAX_SOURCE = 256 * 1024
MAX_EXAMPLES = 64


class RegisterRequest(Exact):
    """Body of `POST rewards/functions`. E.g. `{"name": "brevity", "source": "...", "examples": [...]}`."""

    name: FunctionName
    source: Annotated[str, StringConstraints(min_length=1, max_length=MAX_SOURCE)]
    """A Python file that defines one public function, or one called `reward`. Requirements are named as in PEP 723."""
    examples: Annotated[tuple[ScoreItem, ...], Field(min_length=1, max_length=MAX_EXAMPLES)]
    """Tried before it is accepted; one that fails refuses it."""
    pure: bool = False
    """Whether equal items always have equal rewards: then each is scored once."""


class FunctionInfo(Exact):
    """A registered function."""

    name: FunctionName
    version: FunctionVersion
    function: str
    """What the file calls it."""
    columns: tuple[str, ...]
    """What every item must have."""
    requirements: tuple[str, ...]
    """Distributions that it names, e.g. `numpy>=2`."""
    pure: bool
    created: datetime


class RegisterResponse(Exact):
    """Result of the future of `POST rewards/functions`."""

    function: FunctionInfo
    scores: tuple[Score, ...]
    """Of the examples, in their order."""


class FunctionsResponse(Exact):
    """Answer of `GET rewards/functions`: the newest version of each, by name.

    Of `GET rewards/functions/{name}`: all versions of one, the newest first.
    """

    functions: tuple[FunctionInfo, ...]


class SandboxLayer(Exact):
    """One mechanism of the sandbox. E.g. `{"name": "landlock network", "in_force": true, "detail": "ABI 7"}`."""

    name: str
    in_force: bool
    detail: str
    """What was found; where it is not in force, what goes on without it."""


class SandboxInfo(Exact):
    """Answer of `GET rewards/sandbox`: what a replica found when it started."""

    host: str
    """Name of its machine or pod."""
    started: datetime
    floor: str
    """What must be in force for it to run code: `none`, `limits`, `confined` or `namespaces`."""
    refused: str | None = None
    """Why it runs no code; None: it does."""
    layers: tuple[SandboxLayer, ...]
    """Empty where nothing could be found out."""
