"""New versions from old ones: filter, dedupe, split. Each reads a version once, a row group at a time."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

from rekindle.types import InvalidField
from rekindle.types.datasets import Dedupe, Derivation, Filter, Split
from services.data.conditions import check_conditions, fulfil
from services.data.keys import check_columns, part_of, row_keys, select, summed
from services.data.summary import Summary
from services.data.version import VersionFile, VersionWriter

Sort = Callable[[pa.StructArray], Sequence[int | None]]
"""For each row the number of the output that takes it, None: no one does."""


def derive(source: Path, derivation: Derivation, folders: Sequence[Path]) -> list[Summary]:
    """Write the versions that derive from the one in `source`: one, or one for each part of a split, in order.

    Raises InvalidField for columns or values that do not fit, and for a version that would have no row.
    """
    file = VersionFile(source)
    try:
        return _sorted_out(file, _sort(derivation, file.shape), folders, parts(derivation))
    finally:
        file.close()


def parts(derivation: Derivation) -> list[str | None]:
    """The names of the versions that come of it; None where there is but one."""
    return list(derivation.parts) if isinstance(derivation, Split) else [None]


def _sorted_out(
    file: VersionFile, sort: Sort, folders: Sequence[Path], names: Sequence[str | None]
) -> list[Summary]:
    with ExitStack() as opened:
        writers = [opened.enter_context(VersionWriter(folder, file.shape)) for folder in folders]
        for rows in file.groups():
            outputs = pa.array(sort(rows), pa.int8())
            for number, writer in enumerate(writers):
                writer.write(rows.filter(pa.compute.equal(outputs, pa.scalar(number, pa.int8()))))
    for name, writer in zip(names, writers, strict=True):
        if not writer.rows:
            raise InvalidField("parts" if name else "where", f"{name or 'the version'} would have no row")
    return [writer.summary() for writer in writers]


def _sort(derivation: Derivation, shape: pa.StructType) -> Sort:
    if isinstance(derivation, Filter):
        return _filter(derivation, shape)
    if isinstance(derivation, Dedupe):
        return _dedupe(derivation, shape)
    return _split(derivation, shape)


def _filter(wanted: Filter, shape: pa.StructType) -> Sort:
    check_conditions(wanted.where, shape)
    return lambda rows: [0 if kept else None for kept in fulfil(rows, wanted.where).to_pylist()]


def _dedupe(wanted: Dedupe, shape: pa.StructType) -> Sort:
    check_columns(wanted.columns or (), shape, "columns")
    seen: set[bytes] = set()

    def sort(rows: pa.StructArray) -> list[int | None]:
        outputs: list[int | None] = []
        for key in row_keys(select(rows, wanted.columns)):
            outputs.append(None if key in seen else 0)
            seen.add(key)
        return outputs

    return sort


def _split(wanted: Split, shape: pa.StructType) -> Sort:
    check_columns(wanted.by or (), shape, "by")
    ends, seed = summed(list(wanted.parts.values())), str(wanted.seed).encode()
    return lambda rows: [part_of(key, ends) for key in row_keys(select(rows, wanted.by), seed)]
