"""Groups of commands: plugins on demand, and one line on stderr instead of a traceback for expected errors."""

from typing import Any

import typer
from typer.core import TyperGroup

from rekindle.cli import plugins
from rekindle.cli.output import plain


class Commands(TyperGroup):
    """The application, or one of its groups. What is not expected is a bug, and keeps its traceback."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name, command and the arguments that are left; a plugin is loaded here."""
        name, command, rest = super().resolve_command(ctx, args)
        plugin = plugins.load(name) if ctx.parent is None else None
        return name, plugin or command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for; exit code 1 where the SDK or a file refuses."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if not _is_expected(error):
                raise
            typer.echo(f"{ctx.command_path} {ctx.invoked_subcommand}: {_said(error)}", err=True)
            raise typer.Exit(1) from error


def _is_expected(error: Exception) -> bool:
    from rekindle.errors import RekindleError

    # A pipe that was closed (`| head`) is for typer, which ends in silence.
    return isinstance(error, RekindleError | OSError) and not isinstance(error, BrokenPipeError)


def _said(error: Exception) -> str:
    """One line; of a command that failed by its user's mistake, no more than the mistake."""
    from rekindle.errors import RequestFailed

    text = str(error)
    if isinstance(error, RequestFailed) and error.category == "user":
        text = error.message
    return plain(" ".join(text.split())) or type(error).__name__
