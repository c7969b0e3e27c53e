"""Which server: the options that every group has, and the client that its commands use."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from rekindle.cli.group import Commands

if TYPE_CHECKING:
    from rekindle import ServiceClient

FIRST_CONTACT = 2.0
"""Seconds: a person waits for the answer, and a wrong address stays wrong."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a group's options say; None leaves it to the SDK's defaults."""

    base_url: str | None
    api_key: str | None


def group(name: str, about: str) -> typer.Typer:
    """An empty group of commands that talk to a server."""
    app = typer.Typer(
        name=name, cls=Commands, help=about, no_args_is_help=True, pretty_exceptions_enable=False
    )
    app.callback()(_choose_server)
    return app


def _choose_server(
    ctx: typer.Context,
    base_url: Annotated[
        str | None,
        typer.Option(
            envvar="REKINDLE_BASE_URL", help="Address of the server.", show_default="http://127.0.0.1:8000"
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="REKINDLE_API_KEY", help="Key, where the server wants one.")
    ] = None,
) -> None:
    ctx.obj = Server(base_url, api_key)


@contextlib.contextmanager
def connect(ctx: typer.Context) -> "Iterator[ServiceClient]":
    """The client of the group's server, closed afterwards."""
    from rekindle import ServiceClient

    server: Server = ctx.obj
    try:
        client = ServiceClient(server.base_url, server.api_key, first_contact=FIRST_CONTACT)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--base-url, --api-key") from error
    with client:
        yield client
