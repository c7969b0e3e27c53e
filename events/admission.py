"""Who may come in at an edge, and as whom."""

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from events import trace
from events.activation import PATH as ACTIVATE
from events.edge import HEALTH, LIFE, PREFIX, failed
from events.keys import LOCAL_TENANT, Keyring
from events.settings import LOOPBACK, EdgeSettings

UNTOLD = {ACTIVATE} | {f"{PREFIX}/{name}" for name in ("retrieve_future", "session_heartbeat", "telemetry")}
"""Asked again and again: like requests that only read, they begin no trace of their own."""


class Admission:
    """Who may come in: checks the API key, names the tenant, refuses pages of other origins.

    A key may be taken back while an answer that it opened has no end: `scope["admitted"]` says whether it still opens.
    Without keys only loopback is served, and then a browser must not be led here by another site's page: a
    foreign `Origin` or `Host` is refused.
    """

    def __init__(self, app: ASGIApp, settings: EdgeSettings) -> None:
        self._app = app
        self._keys = Keyring(settings.api_keys, settings.keys_file)
        self._system = Keyring(settings.system_keys, None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        tenant = LOCAL_TENANT if self._is_open(scope["path"]) else self._tenant(scope["path"], headers)
        if not isinstance(tenant, str):
            return await tenant(scope, receive, send)
        scope["tenant"] = tenant
        scope["admitted"] = lambda: self._tenant(scope["path"], headers) == tenant
        await self._let_in(headers.get("traceparent"), scope, receive, send)

    async def _let_in(self, traceparent: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        """As a part of the caller's trace, or as the beginning of one."""
        known = trace.is_one(traceparent)
        trace.take_up(traceparent)
        if not known and (scope["method"] == "GET" or scope["path"] in UNTOLD):
            return await self._app(scope, receive, send)
        with trace.span(scope["method"], itself=not known, kind="server"):
            await self._app(scope, receive, send)
            if (route := scope.get("route")) is not None:
                trace.rename(f"{scope['method']} {route.path}")

    def _is_open(self, path: str) -> bool:
        """Health, and download links, which carry their own signature."""
        return path in (HEALTH, LIFE) or path.startswith(f"{PREFIX}/downloads/")

    def _tenant(self, path: str, headers: dict[str, str]) -> str | Response:
        """Who asks, or what to answer to somebody who may not."""
        keys = self._system if path == ACTIVATE and self._system else self._keys
        if keys:
            return keys.tenant_of(headers.get("x-api-key", "")) or failed(
                401, "X-API-Key: missing or not known"
            )
        for name in ("host", "origin"):
            if name in headers and not _is_loopback(headers[name]):
                return failed(403, f"{name}: only this machine is served without API keys")
        return LOCAL_TENANT


def _is_loopback(address: str) -> bool:
    host = address.rpartition("//")[2]
    name = (
        host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.rpartition(":")[0] or host
    )
    return name in LOOPBACK
