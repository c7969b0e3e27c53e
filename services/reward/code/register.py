"""Registering a reward function: what it requires must be here, and it must score its examples."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from events.failure import UserError
from rekindle.types import InvalidField
from rekindle.types.rewards import Function, FunctionInfo, FunctionParams, RegisterRequest, RegisterResponse
from services.reward.code import source
from services.reward.code.function import FunctionRunner
from services.reward.functions import Code

Keep = Callable[[str, FunctionInfo, str], Awaitable[FunctionInfo]]
"""(tenant, function, source) → what is known of it from now on."""


class Registrar:
    """Tries functions out, and has them kept."""

    def __init__(self, runner: FunctionRunner, keep: Keep) -> None:
        self._runner = runner
        self._keep = keep

    async def register(self, tenant: str, wanted: RegisterRequest) -> RegisterResponse:
        """Raises UserError for a function that is not accepted."""
        described = _described(wanted.source)
        if missing := source.missing(described):
            raise UserError(f"source: requires what the reward service has not: {', '.join(missing)}")
        info = FunctionInfo(
            name=wanted.name,
            version=source.version_of(wanted.source),
            function=described.function,
            columns=described.columns,
            requirements=described.requirements,
            pure=wanted.pure,
            created=datetime.now(UTC),
        )
        code = Code(wanted.source, described.function)
        spec = Function(params=FunctionParams(name=info.name, version=info.version, pure=info.pure))
        scores = await self._runner.call(code, spec, wanted.examples, {})
        for index, score in enumerate(scores):
            if score.excluded:
                raise UserError(f"examples[{index}]: {score.outcome}: {score.reason}")
        kept = await self._keep(tenant, info, wanted.source)
        return RegisterResponse(function=kept, scores=tuple(scores))


def _described(text: str) -> source.Described:
    try:
        return source.describe(text)
    except InvalidField as error:
        raise UserError(str(error)) from error
