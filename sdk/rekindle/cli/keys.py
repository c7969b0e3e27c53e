"""`rekindle keys`: API keys in a file, each of a tenant, as `rekindle up --keys-file` and a cluster's Secret hold them.

The file knows sha256 sums alone; a key is printed once, when it is made.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from rekindle.cli import output
from rekindle.cli.output import AsJson

app = typer.Typer(name="keys", help="API keys and the tenants that hold them.", no_args_is_help=True)
LEAST_DIGITS = 8
"""Of a sum, to name a key by."""

KeysFile = Annotated[Path, typer.Option("--file", dir_okay=False, help="JSON file of keys.")]
Key = dict[str, Any]


@app.command()
def add(
    tenant: Annotated[str, typer.Argument(help="Whose it is: a-z, 0-9 and -, at most 40.")],
    file: KeysFile,
    name: Annotated[str, typer.Option(help="What people know it by.")] = "",
) -> None:
    """Make a key for a tenant, and print it: it is shown this once."""
    from rekindle.cluster.secrets import new_key
    from rekindle.types.keys import check_tenant, key_digest

    try:
        check_tenant(tenant)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="TENANT") from error
    key = new_key()
    entry = {"hash": key_digest(key), "tenant": tenant, "name": name}
    with _alone(file):
        _write(file, [*_read(file), entry])
    typer.echo(key)


@app.command("list")
def list_(file: KeysFile, as_json: AsJson = False) -> None:
    """List tenants and the sums of their keys."""
    found = _read(file)
    if as_json:
        output.print_json(found)
        return
    rows = ((key["tenant"], key.get("name") or None, key["hash"][:16]) for key in found)
    output.print_table(("tenant", "name", "sha256"), rows)


@app.command()
def remove(
    digits: Annotated[str, typer.Argument(metavar="SHA256", help="First digits of the key's sum.")],
    file: KeysFile,
) -> None:
    """Take a key back: running services notice within a request."""
    with _alone(file):
        found = _read(file)
        chosen = [key for key in found if key["hash"].startswith(digits.lower())]
        if len(digits) < LEAST_DIGITS or len(chosen) != 1:
            said = f"{digits!r}: {len(chosen)} keys begin so; give at least {LEAST_DIGITS} digits of one"
            raise typer.BadParameter(said, param_hint="SHA256")
        _write(file, [key for key in found if key not in chosen])
    output.print_outcome({"removed": chosen[0]["hash"][:16], "tenant": chosen[0]["tenant"]}, as_json=False)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Nobody else changes the file meanwhile: a key that is taken back must not return with what another has read."""
    import fcntl  # not everywhere that the command is, and files of keys are kept by servers

    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _read(file: Path) -> list[Key]:
    """None where there is no file yet."""
    if not file.exists():
        return []
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise typer.BadParameter(f"{file}: not JSON: {error}", param_hint="--file") from error
    if not isinstance(found, list) or not all(
        isinstance(key, dict) and isinstance(key.get("hash"), str) and "tenant" in key for key in found
    ):
        raise typer.BadParameter(f"{file}: not a list of keys", param_hint="--file")
    return found


def _write(file: Path, keys: list[Key]) -> None:
    """All of it or nothing: services may read it at any moment. Nobody else may."""
    descriptor, aside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 600
    with os.fdopen(descriptor, "w") as new:
        json.dump(keys, new, indent=2)
        new.write("\n")
        new.flush()
        os.fsync(new.fileno())
    os.replace(aside, file)
