import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoclip_core.earth.geocells import Geocells, make_geocells
from geoclip_core.earth.sphere import haversine_km, pairwise_km


def towns(count, photos, seed=0):
    """Return coordinates (photos, 2) that cluster around ``count`` towns, as real photos do."""
    rng = np.random.default_rng(seed)
    sites = rng.uniform([26, -119], [49, -94], (count, 2))
    share = rng.dirichlet(np.full(count, 0.5))
    return sites[rng.choice(count, photos, p=share)] + rng.normal(0, 0.1, (photos, 2))


def test_cells_find_the_clusters():
    rng = np.random.default_rng(0)
    sites = np.array([(40.0, -100.0), (-30, 20), (60, 100), (0, 179.9), (85, 0)])
    truth = rng.integers(0, 5, 400)
    coordinates = sites[truth] + rng.normal(0, 0.3, (400, 2))
    cells = make_geocells(coordinates, 5, seed=1)
    assert len(cells) == 5
    nearest = haversine_km(sites[:, None], cells.centres[None]).min(axis=1)
    assert nearest.max() < 20
    assigned = cells.assign(coordinates)
    assert assigned.dtype == np.int64
    for site in range(5):
        assert len(np.unique(assigned[truth == site])) == 1


def test_assignment_is_to_the_nearest_centre_on_the_sphere():
    rng = np.random.default_rng(2)
    cells = Geocells(np.stack([rng.uniform(-90, 90, 50), rng.uniform(-180, 180, 50)], axis=-1))
    points = np.stack([rng.uniform(-90, 90, 300), rng.uniform(-180, 180, 300)], axis=-1)
    np.testing.assert_array_equal(
        cells.assign(points), pairwise_km(points, cells.centres).argmin(axis=1)
    )


def test_cells_span_the_date_line_and_the_pole():
    cells = make_geocells([(0, 179.9), (0, -179.9), (89, 0), (89, 180), (50, 10)], 3)
    date_line, pole = cells.assign([(0, 180), (90, 77)])
    assert cells.assign([(0, 179.9), (0, -179.9)]).tolist() == [date_line, date_line]
    assert cells.assign([(89, 0), (89, 180)]).tolist() == [pole, pole]


def test_the_same_seed_gives_the_same_cells():
    coordinates = towns(50, 2000)
    first, again = make_geocells(coordinates, 40, seed=3), make_geocells(coordinates, 40, seed=3)
    np.testing.assert_array_equal(first.centres, again.centres)
    assert not np.array_equal(first.centres, make_geocells(coordinates, 40, seed=4).centres)


@pytest.mark.parametrize("min_photos", [1, 10, 60])
def test_no_cell_has_too_few_photos(min_photos):
    coordinates = towns(300, 4000)
    cells = make_geocells(coordinates, 100, min_photos=min_photos)
    assert np.bincount(cells.assign(coordinates), minlength=len(cells)).min() >= min_photos
    assert len(cells) > 30


def test_duplicates_count_as_photos_but_make_no_cells():
    coordinates = [(10, 20)] * 500 + [(10, 21)] * 3 + [(-40, 60)]
    cells = make_geocells(coordinates, 50)
    assert sorted(cells.centres.round(9).tolist()) == [[-40, 60], [10, 20], [10, 21]]
    assert len(make_geocells(coordinates, 50, min_photos=3)) == 2
    assert len(make_geocells(coordinates, 50, min_photos=1000)) == 1


def test_one_photo_makes_one_cell():
    cells = make_geocells([(10, 180)], 800, min_photos=20)
    np.testing.assert_allclose(cells.centres, [(10, -180)])
    assert cells.assign([(0, 0), (-90, 0)]).tolist() == [0, 0]
    assert cells.radii_km([(10, 180)]) == pytest.approx(0, abs=1e-6)


@given(
    st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=30),
    st.integers(1, 10),
    st.integers(1, 5),
)
@settings(max_examples=100, deadline=None)
def test_any_valid_coordinates_make_cells(coordinates, count, min_photos):
    cells = make_geocells(coordinates, count, min_photos=min_photos)
    assert 1 <= len(cells) <= count
    assert np.isfinite(cells.centres).all()
    counts = np.bincount(cells.assign(coordinates), minlength=len(cells))
    assert len(cells) == 1 or counts.min() >= min_photos


def test_radius_is_the_root_mean_square_distance():
    cells = Geocells([(0, 0), (0, 40), (60, 100)])
    degree = haversine_km((0, 0), (0, 1))
    radii = cells.radii_km([(0, 3), (0, -4), (0, 40)])
    assert radii[0] == pytest.approx(degree * np.sqrt((9 + 16) / 2))
    assert radii[1] == pytest.approx(degree * 20)  # its only point is its centre
    assert radii[2] == pytest.approx(float(haversine_km((0, 40), (60, 100))) / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(coordinates=[], count=3), "there are none"),
        (dict(coordinates=[(0, 0)], count=0), "at least 1"),
        (dict(coordinates=[(0, 0)], count=1, min_photos=0), "at least 1"),
        (dict(coordinates=[(0, 0), (np.nan, 0)], count=1), "Coordinate 1"),
        (dict(coordinates=[(95, 0)], count=1), "Coordinate 0"),
    ],
)
def test_invalid_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_geocells(**arguments)
    with pytest.raises(ValueError, match="centres"):
        Geocells(np.empty((0, 2)))


@pytest.mark.slow
def test_cells_of_119_008_photos_are_made_in_seconds():
    coordinates = towns(1500, 119_008)
    start = time.process_time()
    cells = make_geocells(coordinates, 800, min_photos=20)
    # 3.5 s on one core; the bound is loose and only catches a worse complexity.
    assert time.process_time() - start < 20
    assert len(cells) > 700
    errors = haversine_km(coordinates, cells.centres[cells.assign(coordinates)])
    assert errors.mean() < 20
