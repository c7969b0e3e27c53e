"""The content hash of rows: the same rows in the same order have the same, whatever file they came in.

It does not depend on batches, on the order of columns, or on columns that hold nothing but nulls, because a
missing key is null. A whole number and the same number as a fraction (1 and 1.0) differ.

Every place in the rows' shape has streams of its own: which values are there, the lengths of texts and lists,
the values themselves. A stream is a plain concatenation, hence the independence from batches; the hash is that
of the streams' hashes, sorted by place.
"""

import hashlib
import json
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

Path = tuple[str, ...]
ITEMS = "[]"


class ContentHash:
    """Add rows of one shape, batch by batch."""

    def __init__(self) -> None:
        self._rows = 0
        self._streams: defaultdict[tuple[Path, str], Any] = defaultdict(hashlib.sha256)
        self._present: set[Path] = set()

    def update(self, rows: pa.StructArray) -> None:
        self._rows += len(rows)
        self._add_fields((), rows)

    def hexdigest(self) -> str:
        streams = sorted(
            [list(path), kind, stream.hexdigest()]
            for (path, kind), stream in self._streams.items()
            if path in self._present
        )
        return hashlib.sha256(json.dumps([self._rows, streams]).encode()).hexdigest()

    def _add_fields(self, path: Path, objects: pa.StructArray) -> None:
        for field, values in zip(objects.type, objects.flatten(), strict=True):
            self._add((*path, f".{field.name}"), values)

    def _add(self, path: Path, values: pa.Array) -> None:
        """One place: `values` are null where it, or what it is part of, is."""
        if values.null_count < len(values):
            self._present.add(path)
        self._feed(path, "there", np.asarray(values.is_valid().cast(pa.uint8())))
        if is_.is_struct(values.type):
            self._add_fields(path, values)
        elif is_.is_list(values.type):
            self._feed(path, "list", _numbers(pc.list_value_length(values)))
            self._add((*path, ITEMS), values.flatten())
        elif is_.is_string(values.type):
            self._add_texts(path, values)
        elif is_.is_boolean(values.type):
            self._feed(path, "bool", _numbers(values.cast(pa.uint8())))
        elif not is_.is_null(values.type):
            self._feed(path, str(values.type), _numbers(values))

    def _add_texts(self, path: Path, values: pa.Array) -> None:
        values = values.fill_null("")
        _, ends, data = values.buffers()
        if len(values):
            offsets = np.frombuffer(ends, np.int32)[values.offset : values.offset + len(values) + 1]
            self._feed(path, "text lengths", np.diff(offsets))
            self._feed(path, "text", memoryview(data or b"")[offsets[0] : offsets[-1]])

    def _feed(self, path: Path, kind: str, data: "np.ndarray | memoryview") -> None:
        self._streams[path, kind].update(data)


def _numbers(values: pa.Array) -> np.ndarray:
    return np.ascontiguousarray(values.fill_null(0).to_numpy(zero_copy_only=False))
