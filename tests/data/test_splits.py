import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.doctor import leakage
from geoclip_core.data.splits import nearest_km, spatial_split
from geoclip_core.earth.sphere import haversine_km
from tests.data import layout


def _clusters(count, each, spread_degrees, seed=0, box=(27, 48, -120, -95)):
    chance = np.random.default_rng(seed)
    centres = np.stack(
        [chance.uniform(box[0], box[1], count), chance.uniform(box[2], box[3], count)], 1
    )
    return np.repeat(centres, each, 0) + chance.normal(0, spread_degrees, (count * each, 2))


def _gap_km(coordinates, split):
    val, train = coordinates[split == "val"], coordinates[split == "train"]
    return haversine_km(val[:, None], train[None]).min()


@pytest.mark.parametrize("spread", [0.001, 0.01, 0.05, 0.3])
def test_no_val_photo_is_near_a_train_photo(spread):
    coordinates = _clusters(60, 50, spread)
    split = spatial_split(coordinates, 0.1, seed=3)
    assert _gap_km(coordinates, split) >= 1.0
    assert 0.05 * len(split) <= (split == "val").sum() <= 0.1 * len(split)
    assert (split == "buffer").mean() <= 0.03


def test_a_road_across_a_state_is_cut_with_a_buffer():
    # A photo every 400 m for 800 km: one connected group.
    coordinates = np.stack([np.full(2000, 38.5), np.linspace(-102, -92.8, 2000)], 1)
    split = spatial_split(coordinates, 0.1)
    assert _gap_km(coordinates, split) >= 1.0
    assert 100 <= (split == "val").sum() <= 200
    assert 0 < (split == "buffer").sum() < 100
    assert set(split) == {"train", "val", "buffer"}


def test_a_dense_town_is_still_split():
    coordinates = np.random.default_rng(1).normal([31, -97], 0.06, (3000, 2))
    split = spatial_split(coordinates, 0.1)
    assert (split == "val").sum() >= 100
    assert _gap_km(coordinates, split) >= 1.0


def test_photos_of_one_place_are_all_train():
    coordinates = np.random.default_rng(1).normal([31, -97], 0.0005, (500, 2))
    assert set(spatial_split(coordinates, 0.1)) == {"train"}
    assert list(spatial_split(coordinates[:1], 0.1)) == ["train"]
    assert len(spatial_split(coordinates[:0], 0.1)) == 0


def test_val_is_mostly_in_towns_that_train_has():
    coordinates = _clusters(40, 100, 0.05)
    town = np.repeat(np.arange(40), 100)
    split = spatial_split(coordinates, 0.1)
    assert np.isin(town[split == "val"], town[split == "train"]).mean() > 0.5


def test_the_split_depends_on_the_seed_but_not_on_the_row_order():
    coordinates = _clusters(60, 20, 0.02)
    first = spatial_split(coordinates, 0.1, seed=0)
    order = np.random.default_rng(5).permutation(len(coordinates))
    np.testing.assert_array_equal(first, spatial_split(coordinates, 0.1, seed=0))
    np.testing.assert_array_equal(first[order], spatial_split(coordinates[order], 0.1, seed=0))
    assert (first != spatial_split(coordinates, 0.1, seed=1)).any()


def test_a_sequence_stays_on_one_side():
    # 300 drives of ten photos. The photos of a drive are about 430 m apart.
    chance = np.random.default_rng(2)
    starts = np.stack([chance.uniform(30, 45, 300), chance.uniform(-118, -97, 300)], 1)
    along = np.arange(10)[None, :, None] * np.array([0.0, 0.005])
    coordinates = (starts[:, None] + along).reshape(-1, 2)
    drive = np.repeat(np.arange(300), 10)
    sequences = pd.Series(drive).map(lambda n: f"drive {n}")
    sequences[::37] = pd.NA
    split = spatial_split(coordinates, 0.1, sequences=sequences)
    known = sequences.notna().to_numpy()
    sides = pd.Series(split[known]).groupby(drive[known]).nunique()
    assert (sides == 1).all()
    assert (split == "val").any()


def test_photos_on_both_sides_of_the_date_line_stay_together():
    longitude = np.concatenate([np.full(50, 179.999), np.full(50, -179.999)])
    coordinates = np.stack([np.linspace(-17, -16.99, 100), longitude], 1)
    far = _clusters(30, 10, 0.001)
    split = spatial_split(np.concatenate([coordinates, far]), 0.3, seed=4)
    assert len(set(split[:100])) == 1


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        spatial_split(np.zeros((5, 2)), fraction)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=2, max_size=60),
    st.integers(0, 3),
)
def test_no_val_photo_is_near_a_train_photo_for_any_points(points, seed):
    coordinates = np.array(points)
    split = spatial_split(coordinates, 0.3, seed=seed)
    if {"val", "train"} <= set(split):
        assert _gap_km(coordinates, split) >= 1.0 - 1e-6


def test_nearest_distance_has_the_known_value():
    of = np.array([[0.0, 0.0], [10.0, 10.0]])
    among = np.array([[0.0, 1.0], [0.0, 0.5]])
    # Half a degree on the equator of a sphere of 6371 km.
    np.testing.assert_allclose(nearest_km(of, among, np.inf)[0], 6371 * np.pi / 360, rtol=1e-9)
    assert nearest_km(of, among, 100)[1] == np.inf
    assert nearest_km(of, among[:0], np.inf).tolist() == [np.inf, np.inf]


def test_no_val_photo_of_a_dataset_is_near_a_train_photo(tmp_path):
    rows = [
        (str(10**15 + i), lat, lon, "", 14, "Texas", "", "")
        for i, (lat, lon) in enumerate(_clusters(50, 10, 0.01).tolist())
    ]
    layout.write(tmp_path, "train", layout.frame(rows), photos=False)
    dataset = read_dataset(tmp_path, val_fraction=0.2)
    assert 50 <= len(dataset.split("val")) <= 100
    assert leakage(dataset, "val").near == 0
    counts = dataset.table["split"].value_counts()
    assert counts.sum() == 500
