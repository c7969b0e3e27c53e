"""The `rekindle` command. Commands of the server side join by entry points, where they are installed."""

from importlib.metadata import EntryPoint, entry_points

import typer

GROUP = "rekindle.commands"
SERVER_SIDE = "needs the server side: run it from a clone of the repository, installed with the extra `local`"


def build() -> typer.Typer:
    """The application with every command that can be found."""
    app = typer.Typer(name="rekindle", help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False)

    @app.callback()
    def rekindle() -> None:
        """Self-hosted RL post-training behind the Tinker API."""

    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        _add(app, entry)
    return app


def _add(app: typer.Typer, entry: EntryPoint) -> None:
    """A command whose code is not installed stays visible and says what it needs."""
    try:
        app.command(entry.name)(entry.load())
    except ModuleNotFoundError as error:
        missing = error.name

        @app.command(entry.name, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
        def unavailable() -> None:
            typer.echo(f"rekindle {entry.name}: {SERVER_SIDE} (no module {missing!r})", err=True)
            raise typer.Exit(2)


def main() -> None:
    """Entry point of the `rekindle` command."""
    build()()


if __name__ == "__main__":
    main()
