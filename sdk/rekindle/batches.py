"""A batch in parts that the server takes, and the results of the parts as one.

The parts of one call add up to the same gradient as the whole: losses are sums, and gradients accumulate until
the next optimizer step. Metrics are combined as the suffix of their name says.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from rekindle.types import Datum, ForwardBackwardOutput, InvalidField

MASK_64 = 2**64 - 1
Combine = Callable[[Sequence[float], Sequence[int]], float]


def split(data: Sequence[Datum], most_datums: int, most_bytes: int) -> Iterator[list[Datum]]:
    """Parts of at most `most_datums` and about `most_bytes`; a datum that is larger goes alone."""
    part: list[Datum] = []
    size = 0
    for datum in data:
        more = estimated_bytes(datum)
        if part and (len(part) >= most_datums or size + more > most_bytes):
            yield part
            part, size = [], 0
        part.append(datum)
        size += more
    if part:
        yield part


def estimated_bytes(datum: Datum) -> int:
    """Roughly what a datum takes on the wire: 4 bytes a token, and its arrays."""
    return 4 * len(datum.tokens) + sum(array.nbytes for array in datum.inputs.values())


def join(parts: Sequence[ForwardBackwardOutput]) -> ForwardBackwardOutput:
    """The outputs end to end and the metrics combined; the names of the first part decide.

    Raises InvalidField for a metric whose name is not `name:reduction`, or that a part lacks.
    """
    weights = [len(part.outputs) for part in parts]
    metrics: dict[str, float] = {}
    for key in parts[0].metrics:
        name, colon, reduction = key.partition(":")
        if not colon or ":" in reduction or any(key not in part.metrics for part in parts):
            raise InvalidField(f"metrics.{key}", "expected name:reduction, in all parts of a call")
        values = [part.metrics[key] for part in parts]
        if reduction == "unique":
            metrics |= {key if not i else f"{key}_{i}": value for i, value in enumerate(values)}
        elif reduction in REDUCTIONS:
            metrics[f"{name}:{reduction}"] = REDUCTIONS[reduction](values, weights)
    return ForwardBackwardOutput([output for part in parts for output in part.outputs], metrics)


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    """Weighted by the datums of each part; over no datums at all, the plain mean."""
    total = sum(weights)
    if not total:
        return sum(values) / len(values)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total


REDUCTIONS: Mapping[str, Combine] = MappingProxyType(
    {
        "sum": lambda values, _: sum(values),
        "min": lambda values, _: min(values),
        "max": lambda values, _: max(values),
        "mean": _mean,
        "slack": lambda values, weights: max(values) - _mean(values, weights),
        "hash2": lambda values, _: float(sum(int(value) & MASK_64 for value in values) & MASK_64),
    }
)
"""By suffix: (values, datums of each part) → value. Metrics of other suffixes are dropped."""
