"""`rekindle datasets`: upload, read, derive new versions, download, delete."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rekindle.cli import arguments, output
from rekindle.cli.connection import connect, group
from rekindle.cli.output import AsJson, Yes
from rekindle.cli.progress import byte_bar

if TYPE_CHECKING:
    from rekindle.types.datasets import DatasetVersion

CELL = 60
"""Characters of a value in a table of rows."""

app = group("datasets", "Datasets: rows under a name, in numbered versions that never change.")
Dataset = Annotated[str, typer.Argument(metavar="NAME", help="The dataset.")]
Version = Annotated[
    str, typer.Argument(metavar="NAME[@VERSION]", help="A version of a dataset, the latest if none is named.")
]


@app.command()
def upload(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, readable=True, help="JSONL, CSV or Parquet, also .gz and .zst."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="The dataset; without it, the file's name up to the first dot.")
    ] = None,
    format: Annotated[
        Literal["jsonl", "csv", "parquet"] | None, typer.Option(help="Where the file's name does not tell.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file as the next version of a dataset.

    What broke off goes on where it was when the same command runs again.
    """
    with connect(ctx) as service, byte_bar("reading", quiet=as_json) as bar:

        def advance(done: int, total: int | None) -> None:
            bar.now("checking" if done == total else "uploading")
            bar.advance(done, total)

        made = service.datasets.upload(
            file, name or file.name.partition(".")[0], format, description=description, progress=advance
        ).result()
    print_version(made, as_json)


@app.command("list")
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the newest version of every dataset."""
    with connect(ctx) as service:
        found = service.datasets.list().result()
    if as_json:
        output.print_json(found)
    else:
        _print_versions(found)


@app.command()
def versions(ctx: typer.Context, name: Dataset, as_json: AsJson = False) -> None:
    """List all versions of a dataset."""
    with connect(ctx) as service:
        found = service.datasets.versions(name).result()
    if as_json:
        output.print_json(found)
    else:
        _print_versions(found)


@app.command()
def show(ctx: typer.Context, version: Version, as_json: AsJson = False) -> None:
    """Show schema and statistics of a version."""
    wanted = arguments.reference(version)
    with connect(ctx) as service:
        found = service.datasets.get(*wanted).result()
    print_version(found, as_json)


@app.command()
def rows(
    ctx: typer.Context,
    version: Version,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The most rows.")] = 20,
    cursor: Annotated[
        str | None, typer.Option(help="Where to go on, as the page before said; the version must be named.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show rows of a version."""
    wanted = arguments.reference(version)
    if cursor is not None and wanted.version == "latest":
        raise typer.BadParameter(
            "needs the version that the page before was of: NAME@VERSION", param_hint="--cursor"
        )
    with connect(ctx) as service:
        found = service.datasets.get(*wanted).result()
        page = service.datasets.page(found.name, found.version, limit, cursor).result()
    if as_json:
        output.print_json({"name": found.name, "version": found.version, **page.model_dump()})
        return
    columns = [column.name for column in found.columns]
    output.print_table(columns, ([_short(row.get(column)) for column in columns] for row in page.rows))
    if page.cursor is not None:
        more = f"rekindle datasets rows {found.name}@{found.version} --limit {limit} --cursor {page.cursor}"
        typer.echo(f"more: {output.plain(more)}", err=True)


@app.command()
def filter(
    ctx: typer.Context,
    version: Version,
    conditions: Annotated[
        list[str],
        typer.Argument(
            metavar="CONDITION...",
            help="'level>=3', 'split in train,dev', 'prompt contains SELECT', 'answer is not null'.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Make a version of the rows that fulfil all conditions."""
    wanted, read = arguments.reference(version), [arguments.condition(text) for text in conditions]
    with connect(ctx) as service:
        found = service.datasets.get(*wanted).result()
        kinds = {column.name: column.type for column in found.columns}
        where = [one.typed(kinds.get(one.column)) for one in read]
        made = service.datasets.filter(found.name, where, found.version).result()
    print_version(made, as_json)


@app.command()
def dedupe(
    ctx: typer.Context,
    version: Version,
    columns: Annotated[
        str | None, typer.Option(help="Which must be equal, between commas; without it, all of them.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a version without rows that equal an earlier one."""
    wanted, names = arguments.reference(version), None if columns is None else columns.split(",")
    with connect(ctx) as service:
        made = service.datasets.dedupe(wanted.name, names, wanted.version).result()
    print_version(made, as_json)


@app.command()
def split(
    ctx: typer.Context,
    version: Version,
    parts: Annotated[
        list[str], typer.Argument(metavar="PART=SHARE...", help="Shares that sum to 1: train=0.9 test=0.1.")
    ],
    seed: Annotated[int, typer.Option(help="Decides, with a row's content, about its part.")] = 0,
    by: Annotated[
        str | None, typer.Option(help="Columns between commas; rows that agree in them stay together.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a version for every part; each row goes to one of them."""
    wanted, wished = arguments.reference(version), arguments.shares(parts)
    with connect(ctx) as service:
        made = service.datasets.split(
            wanted.name, wished, seed, None if by is None else by.split(","), wanted.version
        ).result()
    if as_json:
        output.print_json(made)
    else:
        output.print_table(
            ("part", "version", "rows", "size"),
            ((part, _name(one), one.rows, output.size(one.bytes)) for part, one in made.items()),
        )


@app.command()
def download(
    ctx: typer.Context,
    version: Version,
    file: Annotated[Path, typer.Argument(dir_okay=False, help="Where to write the Parquet file.")],
    as_json: AsJson = False,
) -> None:
    """Download a version as a Parquet file."""
    wanted = arguments.reference(version)
    with connect(ctx) as service, byte_bar("downloading", quiet=as_json) as bar:
        service.datasets.download(wanted.name, file, wanted.version, bar.advance).result()
    output.print_outcome({"downloaded": str(file), "bytes": file.stat().st_size}, as_json)


@app.command()
def delete(ctx: typer.Context, version: Version, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a version, or without one the whole dataset."""
    wanted = arguments.reference(version)
    one = wanted.version if "@" in version else None
    what = wanted.name if one is None else str(wanted)
    output.confirm(f"Delete {'all versions of ' if one is None else ''}{what} for good?", yes)
    with connect(ctx) as service:
        service.datasets.delete(wanted.name, one).result()
    output.print_outcome({"deleted": what}, as_json)


# ---- Output ----


def print_version(found: "DatasetVersion", as_json: bool) -> None:
    """One version: what it is, then a line a column."""
    if as_json:
        output.print_json(found)
        return
    output.print_fields(
        [
            ("version", _name(found)),
            ("rows", found.rows),
            ("size", output.size(found.bytes)),
            ("sha256", found.sha256),
            ("created", found.created),
            ("made by", found.how),
            ("parent", found.parent),
            ("description", found.description),
        ]
    )
    output.print_table(
        ("column", "type", "nulls", "min", "max", "mean length"),
        ((one.name, one.type, one.nulls, one.min, one.max, one.mean_length) for one in found.columns),
    )


def _print_versions(found: "list[DatasetVersion]") -> None:
    output.print_table(
        ("version", "rows", "size", "columns", "created", "made by", "description"),
        (
            (
                _name(one),
                one.rows,
                output.size(one.bytes),
                len(one.columns),
                one.created,
                one.split or one.how.get("op"),
                one.description,
            )
            for one in found
        ),
    )


def _name(version: "DatasetVersion") -> str:
    return f"{version.name}@{version.version}"


def _short(value: Any) -> str:
    return output.shortened(output.cell(value), CELL)
