"""The runner of `llm_judge`: a language model with an OpenAI-compatible endpoint says how good a completion is.

Each item is a question of its own, several open at once. Only the judge's answer is searched for a score, never the
completion. An answer that holds none is the judge's failure: asked again, and in the end an error.
"""

import json
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from events import envelope, tasks
from rekindle.types import rewards
from rekindle.types.rewards import Score, ScoreItem
from services.reward import versions
from services.reward.outside import rubric
from services.reward.outside.client import Client, Failed
from services.reward.outside.verdict import SECONDS, JudgeVerdict, JudgeVerdictParams
from services.reward.runner import Runner, Verdict, settle


class JudgeRunner:
    """Scores by asking a language model."""

    def __init__(self, client: Client, processes: Runner) -> None:
        """`processes` find the number in an answer."""
        self._client = client
        self._processes = processes

    async def score(
        self, tenant: str, spec: rewards.Single, items: Sequence[ScoreItem], columns: dict[str, Any]
    ) -> list[Score]:
        assert isinstance(spec, rewards.LlmJudge), f"{spec.type} is not asked of a language model"
        version = versions.version(spec)
        asked = (self._settle(version, tenant, spec.params, item, columns) for item in items)
        return await tasks.together(*asked)

    async def _settle(
        self,
        version: str,
        tenant: str,
        params: rewards.LlmJudgeParams,
        item: ScoreItem,
        columns: dict[str, Any],
    ) -> Score:
        body = question(params, item, columns)

        async def attempt() -> Verdict:
            try:
                return await self._verdict(tenant, params, await self._ask(tenant, params, body))
            except Failed as error:
                return error.verdict

        return await settle(version, attempt)

    async def _ask(self, tenant: str, params: rewards.LlmJudgeParams, body: bytes) -> str:
        """The judge's words. Raises Failed."""
        url = f"{params.url.rstrip('/')}/chat/completions"
        headers = {"Content-Type": envelope.JSON}
        reply = await self._client.post(tenant, url, body, headers, key=params.key, seconds=params.seconds)
        return words(reply.body)

    async def _verdict(self, tenant: str, params: rewards.LlmJudgeParams, said: str) -> Verdict:
        sought = JudgeVerdict(
            params=JudgeVerdictParams(pattern=params.pattern, low=params.low, high=params.high)
        )
        answer = ScoreItem(prompt="", completion=said)
        (score,) = await self._processes.score(tenant, sought, [answer], {})  # type: ignore[arg-type]
        if score.outcome == "scored":
            return Verdict("scored", score.value, said)
        if score.seconds >= SECONDS:
            return Verdict("timeout", None, f"the pattern took longer than {SECONDS:g} s", hopeless=True)
        return Verdict("error", None, score.reason)


def question(params: rewards.LlmJudgeParams, item: ScoreItem, columns: dict[str, Any]) -> bytes:
    """The body of a request for a chat completion."""
    row = {**columns, **item.columns}
    asked = rubric.fill_in(params.rubric, item.prompt, item.completion, row)
    return to_json(
        {
            "model": params.model,
            "messages": [
                {"role": "system", "content": rubric.SYSTEM},
                {"role": "user", "content": asked},
            ],
            "temperature": params.temperature,
            "max_tokens": params.max_tokens,
        }
    )


def words(body: bytes) -> str:
    """What the judge said. Raises Failed."""
    try:
        said = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Failed(f"the answer is not a chat completion ({type(error).__name__})") from error
    if not isinstance(said, str) or not said.strip():
        raise Failed("the judge said nothing")
    return said
