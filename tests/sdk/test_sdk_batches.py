"""How the metrics of parts are combined, with numbers worked by hand."""

import math

import numpy as np
import pytest

from rekindle.batches import join
from rekindle.types import ForwardBackwardOutput, InvalidField


def part(datums: int, **metrics: float) -> ForwardBackwardOutput:
    named = {key.replace("__", ":"): value for key, value in metrics.items()}
    return ForwardBackwardOutput([{"logprobs": np.zeros(1, np.float32)}] * datums, named)


@pytest.mark.parametrize(
    ("reduction", "values", "expected"),
    [
        ("sum", (1.5, 2.5), {"m:sum": 4.0}),
        ("min", (1.5, 2.5), {"m:min": 1.5}),
        ("max", (1.5, 2.5), {"m:max": 2.5}),
        ("mean", (1.0, 5.0), {"m:mean": 2.0}),  # 3 datums and 1: (3 * 1 + 1 * 5) / 4
        ("slack", (1.0, 5.0), {"m:slack": 3.0}),
        ("unique", (7.0, 8.0), {"m:unique": 7.0, "m:unique_1": 8.0}),
        ("hash2", (-1.0, 3.0), {"m:hash2": 2.0}),  # 2**64 - 1 + 3, modulo 2**64
        ("median", (1.0, 2.0), {}),
    ],
)
def test_metrics_are_combined_as_their_suffix_says(
    reduction: str, values: tuple[float, float], expected: dict[str, float]
) -> None:
    parts = [part(3, **{f"m__{reduction}": values[0]}), part(1, **{f"m__{reduction}": values[1]})]
    joined = join(parts)
    assert joined.metrics == expected and len(joined.outputs) == 4


def test_a_mean_over_no_datums_is_a_plain_mean() -> None:
    assert join([part(0, m__mean=1.0), part(0, m__mean=2.0)]).metrics == {"m:mean": 1.5}


@pytest.mark.parametrize("key", ["loss", "a__b__sum"])
def test_a_metric_without_exactly_one_reduction_is_an_error(key: str) -> None:
    with pytest.raises(InvalidField, match="name:reduction"):
        join([part(1, **{key: 1.0})])


def test_losses_that_are_infinite_are_shown_and_no_error() -> None:
    parts = [part(1, m__sum=math.inf, m__mean=math.inf), part(1, m__sum=-math.inf, m__mean=-math.inf)]
    assert all(math.isnan(value) for value in join(parts).metrics.values())


def test_a_metric_that_a_part_lacks_is_an_error() -> None:
    with pytest.raises(InvalidField, match="all parts"):
        join([part(1, m__sum=1.0), part(1)])
