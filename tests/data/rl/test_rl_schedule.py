"""The course of the learning rate, and the order of the prompts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekindle.types.rl import Optimizer
from services.data.rl.prompts_order import row_of
from services.data.rl.schedule import learning_rate


def course(steps: int = 6, **settings: object) -> list[float]:
    optimizer = Optimizer.model_validate({"learning_rate": 8.0, **settings})
    return [learning_rate(optimizer, step, steps) for step in range(steps)]


def test_a_constant_rate_rises_only():
    assert course() == [8.0] * 6
    assert course(warmup_steps=4) == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_a_linear_rate_falls_evenly_to_its_final_share():
    assert course(4, schedule="linear") == [8.0, 6.0, 4.0, 2.0]
    assert course(6, schedule="linear", warmup_steps=2) == [4.0, 8.0, 8.0, 6.0, 4.0, 2.0]
    assert course(4, schedule="linear", final=0.5) == [8.0, 7.0, 6.0, 5.0]


def test_a_cosine_rate_falls_slowly_first_and_last():
    # cos of 0, 60, 120 degrees: 1, 1/2, -1/2
    assert course(3, schedule="cosine") == pytest.approx([8.0, 6.0, 2.0])
    assert course(3, schedule="cosine", final=0.5) == pytest.approx([8.0, 7.0, 5.0])


def test_a_run_longer_than_planned_stays_at_the_final_share():
    optimizer = Optimizer(learning_rate=8.0, schedule="cosine", final=0.25)
    assert learning_rate(optimizer, 9, 3) == pytest.approx(2.0)


def test_a_run_that_only_warms_up_divides_by_nothing():
    assert course(2, schedule="linear", warmup_steps=2) == [4.0, 8.0]


@given(rows=st.integers(1, 50), seed=st.integers(-5, 5), epochs=st.integers(1, 3))
def test_every_epoch_has_every_row_once(rows: int, seed: int, epochs: int):
    for epoch in range(epochs):
        drawn = [row_of(epoch * rows + place, seed=seed, rows=rows) for place in range(rows)]
        assert sorted(drawn) == list(range(rows))


def test_epochs_and_seeds_differ_and_the_order_never_changes():
    orders = {
        tuple(row_of(epoch * 20 + place, seed=seed, rows=20) for place in range(20))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9
    assert [row_of(place, seed=0, rows=6) for place in range(12)] == [2, 3, 1, 0, 5, 4, 2, 3, 4, 0, 5, 1]
