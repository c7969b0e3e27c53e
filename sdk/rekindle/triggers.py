"""`client.triggers`: which facts start an RL run or call a webhook."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from rekindle.futures import Future, Progress
from rekindle.inputs import build
from rekindle.session import Session
from rekindle.specs import Spec, as_values, in_start
from rekindle.types import InvalidField
from rekindle.types.rl import Firing, FiringsResponse, TriggerInfo, TriggerSpec, TriggersResponse

TriggerList = list[TriggerInfo]
FiringList = list[Firing]


class Triggers:
    """Triggers of the server. Methods raise InvalidField at once, other errors from the future."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(
        self,
        name: str,
        on: str,
        *,
        match: Mapping[str, Any] | None = None,
        start: Spec | None = None,
        webhook: str | None = None,
    ) -> Future[TriggerInfo]:
        """Have every fact of a type from now on start a run or call a webhook, once each.

        on: the type without `dev.rekindle.`, e.g. `dataset.uploaded`. match: what fields of the fact's data must be; a
        text may hold `*`, `?` and `[…]`. start: the spec, in which `${event.name}` stands for a field of the data.
        webhook: where the fact is posted to, as a CloudEvent. Exactly one of the two. The same trigger again changes
        nothing.

        Raises:
            InvalidField: at once; OSError for a file that cannot be read.
            BadRequest: from the future; there is no such fact, or another trigger of the name.
        """
        values = None if start is None else as_values(start)
        fields = {"name": name, "on": on, "match": dict(match or {}), "webhook": webhook}
        try:
            spec = build(TriggerSpec, start=values, **fields)
        except InvalidField as error:
            raise in_start(error, start) from error
        body = spec.model_dump_json().encode()  # with its nulls, which mean something in a spec
        return self._session.future(
            lambda _: self._session.transport.ask(TriggerInfo, "POST", "/triggers", body=body)
        )

    def list(self) -> Future[TriggerList]:
        """All triggers, by name."""

        async def ask(_: Progress) -> TriggerList:
            return list((await self._session.transport.ask(TriggersResponse, "GET", "/triggers")).triggers)

        return self._session.future(ask)

    def get(self, name: str) -> Future[TriggerInfo]:
        """One trigger."""
        return self._session.future(lambda _: self._session.transport.ask(TriggerInfo, "GET", _route(name)))

    def delete(self, name: str) -> Future[None]:
        """Remove a trigger; runs that it has started go on."""

        async def drop(_: Progress) -> None:
            await self._session.transport.send("DELETE", _route(name))

        return self._session.future(drop)

    def firings(self, name: str) -> Future[FiringList]:
        """What fired it within the last 30 days, newest first, at most 1,000."""

        async def ask(_: Progress) -> FiringList:
            path = f"{_route(name)}/firings"
            return list((await self._session.transport.ask(FiringsResponse, "GET", path)).firings)

        return self._session.future(ask)


def _route(name: str) -> str:
    return f"/triggers/{quote(name, safe='')}"
