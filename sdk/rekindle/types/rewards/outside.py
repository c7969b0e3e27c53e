"""Graders that ask somebody else: a service of the user's, or a language model."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from rekindle.types.errors import InvalidField
from rekindle.types.rewards.basics import Exact, Judging, Params, Pattern, Seconds

MAX_RUBRIC = 16 * 1024
SCORE = r"(?i)score(?:\s*\([^()]*\))?\W*?(-?\d+(?:\.\d+)?)(?![\d.]*\s*[-–]\s*\d)"
"""A number after the word, as in `Score: 7`, `**Score (0-10):** 7/10` or `score = -0.5`; a range of numbers is none."""
PLACES = re.compile(r"\{(?:(?P<field>prompt|completion)|columns\[(?P<column>[^\[\]{}]+)\])\}")
"""What is filled in in a rubric; all other braces stay."""


def _is_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("expected http:// or https://")
    if not url.isascii() or any(character <= " " or character in "\\\x7f" for character in url):
        raise ValueError("expected ASCII without blanks and backslashes")
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("holds a user's name or password; name a key of the server's instead")
    if not parts.hostname or parts.port == 0 or parts.fragment:  # reading the port checks it
        raise ValueError("expected http[s]://HOST[:PORT]/PATH")
    return url


Url = Annotated[str, StringConstraints(min_length=8, max_length=2048), AfterValidator(_is_url)]
KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,62}$")]
"""A key that the server holds: `OPENAI` is the variable `REKINDLE_KEY_OPENAI` of the reward service."""


class RemoteParams(Params):
    """Posts items to a service of the user's and takes its numbers. E.g. `{"url": "https://rewards.example/score"}`.

    `http`: `{"prompts": [...], "completions": [...], "columns": {name: [...]}}` is answered by `{"rewards": [...]}`.
    `cloudevents`: the same as the data of a structured CloudEvent `dev.rekindle.reward.requested`, answered by an
    event whose data holds the rewards. A null is an item to which it does not apply. What is asked again has the same
    `Idempotency-Key`; a refusal (HTTP 4xx but 408, 425 and 429) and a redirect are final.
    """

    url: Url
    mode: Literal["http", "cloudevents"] = "http"
    key: KeyName | None = None
    """Sent as `Authorization: Bearer`; None: none."""
    seconds: Seconds = 30.0
    """Wall-clock limit of one call."""


class Remote(Exact):
    """What is no number of the service's is never one here: refusals, odd answers and silence are errors."""

    type: Literal["remote"] = "remote"
    params: RemoteParams


class LlmJudgeParams(Params):
    """Asks a language model with an OpenAI-compatible endpoint for a score from `low` to `high`: the value is 0 to 1.

    E.g. `{"url": "https://api.example/v1", "model": "judge", "rubric": "Is {completion} polite? Score: 0-10"}`.
    """

    url: Url
    """Of the API: `/chat/completions` is appended."""
    model: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    rubric: Annotated[str, StringConstraints(min_length=1, max_length=MAX_RUBRIC)]
    """The message to the judge; `{prompt}`, `{completion}` and `{columns[name]}` are filled in, each between tags that
    mark it as data."""
    pattern: Pattern = SCORE
    """Where the number stands in the answer: the first group of its last match."""
    low: float = 0.0
    high: float = 10.0
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 512
    key: KeyName | None = None
    """Sent as `Authorization: Bearer`; None: none."""
    seconds: Seconds = 60.0
    """Wall-clock limit of one question, and of the waits that a busy judge asks for."""

    @model_validator(mode="after")
    def _a_range(self) -> "LlmJudgeParams":
        if not self.low < self.high:
            raise InvalidField("high", f"{self.high:g}, expected more than low, {self.low:g}")
        return self

    @model_validator(mode="after")
    def _about_the_completion(self) -> "LlmJudgeParams":
        if not any(found["field"] == "completion" for found in PLACES.finditer(self.rubric)):
            raise InvalidField("rubric", "has no place for {completion}")
        return self

    def needs(self) -> tuple[str, ...]:
        named = [found["column"] for found in PLACES.finditer(self.rubric)]
        return tuple(dict.fromkeys(name for name in named if name is not None))


class LlmJudge(Judging):
    """An answer without a number, or with one outside the range, is an `error`: the judge failed, not the rollout."""

    type: Literal["llm_judge"] = "llm_judge"
    params: LlmJudgeParams
