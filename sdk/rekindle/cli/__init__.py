"""The `rekindle` command: what a server holds, and the commands that other packages add by entry points.

Whatever is slow to import is imported when a command needs it, so that help and completion are quick.
"""

import io
import sys

import typer

from rekindle.cli import checkpoints, cluster, datasets, keys, models, rewards, rl_runs, runs, triggers
from rekindle.cli.group import Commands
from rekindle.cli.plugins import add_plugins

HELP = "Self-hosted RL post-training behind the Tinker API."


def build() -> typer.Typer:
    """The application with every command that can be found."""
    app = typer.Typer(
        name="rekindle", cls=Commands, help=HELP, no_args_is_help=True, pretty_exceptions_enable=False
    )
    for group in (datasets, rewards, rl_runs, triggers, runs, checkpoints, keys, models):
        app.add_typer(group.app)
    for command in (cluster.deploy, cluster.status):
        app.command()(command)
    add_plugins(app)
    return app


def main() -> None:
    """Entry point of the `rekindle` command."""
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # a text that the terminal's encoding lacks is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    build()(prog_name="rekindle")
