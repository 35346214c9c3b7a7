"""The parts of the training loop: batches, learning rate, patience."""

import itertools
import math

import numpy as np
import pytest

from geoclip_core.training.loop import (
    BestSoFar,
    EpochBatches,
    learning_rate_factor,
    parts_of,
    warmup_steps,
)


def test_an_epoch_holds_every_photo_once_in_batches_of_nearly_equal_size():
    batches = EpochBatches(103, 20, seed=1).epoch(0)
    assert len(batches) == EpochBatches(103, 20, seed=1).per_epoch == 6
    assert {len(b) for b in batches} == {17, 18}
    assert sorted(np.concatenate(batches)) == list(range(103))


def test_the_order_depends_on_seed_and_epoch_alone():
    one, same, other = (EpochBatches(50, 8, seed) for seed in (1, 1, 2))
    assert all(map(np.array_equal, one.epoch(3), same.epoch(3)))
    assert not all(map(np.array_equal, one.epoch(3), one.epoch(4)))
    assert not all(map(np.array_equal, one.epoch(3), other.epoch(3)))


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (3, 4), (2, 100)])
def test_processes_and_parts_cover_a_batch(processes, accumulation):
    batch = np.arange(17)
    parts = [parts_of(batch, p, processes, accumulation) for p in range(processes)]
    assert np.array_equal(np.concatenate([rows for own in parts for rows in own]), batch)
    assert all(len(rows) for own in parts for rows in own)


def test_more_processes_than_photos_are_an_error():
    with pytest.raises(ValueError, match="larger batch size"):
        parts_of(np.arange(3), 0, 4, 1)
    with pytest.raises(ValueError, match="cannot make batches"):
        EpochBatches(0, 4, 0)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine_to_zero():
    factors = [learning_rate_factor(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10] == 1
    assert factors[99] == pytest.approx(0, abs=1e-12)
    assert factors[98] > 0
    half = 10 + 89 / 2
    assert learning_rate_factor(54, 100, 10) == pytest.approx(
        0.5 * (1 + math.cos(math.pi * (54 - 10) / 89))
    )
    assert factors[54] > 0.5 > factors[55]
    assert 54 < half < 55
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))


@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_the_shortest_runs_have_a_learning_rate_above_zero(total):
    warmup = warmup_steps(total, 0.5)
    factors = [learning_rate_factor(step, total, warmup) for step in range(total)]
    assert max(factors) > 0
    assert warmup < total


def test_an_update_after_the_last_is_an_error():
    with pytest.raises(ValueError, match="update 10"):
        learning_rate_factor(10, 10, 0)


def test_patience_counts_validations_without_improvement():
    best = BestSoFar(patience=2)
    assert [best.offer(value, step) for step, value in enumerate((5.0, 4.0, 4.0))] == [
        True,
        True,
        False,
    ]
    assert not best.exhausted
    assert not best.offer(float("nan"), 3)
    assert best.exhausted
    assert (best.value, best.step) == (4.0, 1)


def test_patience_zero_never_ends_training():
    best = BestSoFar(patience=0)
    for step in range(50):
        best.offer(1.0, step)
    assert not best.exhausted
