import numpy as np
import pytest

from geoclip_core.loops.batches import EpochBatches, parts_of


def test_every_photo_once_an_epoch_in_batches_of_nearly_equal_size():
    batches = EpochBatches(103, 20, seed=1).epoch(0)
    assert len(batches) == EpochBatches(103, 20, seed=1).per_epoch == 6
    assert {len(b) for b in batches} == {17, 18}
    assert sorted(np.concatenate(batches)) == list(range(103))


def test_the_order_is_decided_by_seed_and_epoch_alone():
    one, same, other = (EpochBatches(50, 8, seed) for seed in (1, 1, 2))
    assert all(map(np.array_equal, one.epoch(3), same.epoch(3)))
    assert not all(map(np.array_equal, one.epoch(3), one.epoch(4)))
    assert not all(map(np.array_equal, one.epoch(3), other.epoch(3)))


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 1), (3, 4), (2, 100)])
def test_processes_and_parts_share_a_batch_without_loss(processes, accumulation):
    batch = np.arange(17)
    parts = [parts_of(batch, p, processes, accumulation) for p in range(processes)]
    assert np.array_equal(np.concatenate([rows for own in parts for rows in own]), batch)
    assert all(len(rows) for own in parts for rows in own)


def test_more_processes_than_photos_are_refused():
    with pytest.raises(ValueError, match="larger batch size"):
        parts_of(np.arange(3), 0, 4, 1)
    with pytest.raises(ValueError, match="no batches"):
        EpochBatches(0, 4, 0)
