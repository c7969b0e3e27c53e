"""Statistics of columns, gathered batch by batch."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as is_

from rekindle.types.datasets import Column
from services.data.shapes import name_of


@dataclass(slots=True)
class ColumnCount:
    """What is known of one column so far."""

    name: str
    type: pa.DataType
    nulls: int = 0
    values: int = 0
    """Those that are not null."""
    length: int = 0
    """Characters or items in all of them."""
    least: int | float | bool | None = None
    most: int | float | bool | None = None

    def add(self, values: pa.Array) -> None:
        self.nulls += values.null_count
        if values.null_count == len(values):
            return
        self.values += len(values) - values.null_count
        if is_.is_string(self.type):
            self.length += pc.sum(pc.utf8_length(values)).as_py()
        elif is_.is_list(self.type):
            self.length += pc.sum(pc.list_value_length(values)).as_py()
        elif not is_.is_struct(self.type):
            found = pc.min_max(values).as_py()
            self.least = found["min"] if self.least is None else min(self.least, found["min"])
            self.most = found["max"] if self.most is None else max(self.most, found["max"])

    def result(self) -> Column:
        lengthy = self.values and (is_.is_string(self.type) or is_.is_list(self.type))
        return Column(
            name=self.name,
            type=name_of(self.type),
            nulls=self.nulls,
            min=self.least,
            max=self.most,
            mean_length=round(self.length / self.values, 3) if lengthy else None,
        )
