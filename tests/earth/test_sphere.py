import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoclip_core.earth import sphere

LONDON, PARIS = (51.5074, -0.1278), (48.8566, 2.3522)
QUARTER = math.pi / 2 * sphere.EARTH_RADIUS_KM

points = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@pytest.mark.parametrize(
    ("a", "b", "km"),
    [
        (LONDON, PARIS, 343.556),
        ((52.2296756, 21.0122287), (52.406374, 16.9251681), 278.459),  # Warsaw to Poznan
        ((0, 0), (0, 180), 2 * QUARTER),
        ((90, 0), (-90, 123), 2 * QUARTER),
        ((12.5, 40), (-12.5, -140), 2 * QUARTER),
        ((90, 17), (0, -170), QUARTER),
        ((90, 0), (90, 99), 0),
        ((0, 179.5), (0, -179.5), QUARTER / 90),
        ((45, 181), (45, -179), 0),
        ((33, 44), (33, 44), 0),
    ],
)
def test_known_distances_in_numpy_and_torch(a, b, km):
    assert sphere.haversine_km(a, b) == pytest.approx(km, abs=1e-3)
    assert sphere.pairwise_km([a], [b])[0, 0] == pytest.approx(km, abs=1e-3)
    tensors = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    assert float(sphere.haversine_km(*tensors)) == pytest.approx(km, abs=1e-3)


def test_a_distance_of_one_metre_is_accurate():
    metre = 1 / (QUARTER * 1000 / 90)
    assert sphere.haversine_km((50, 8), (50 + metre, 8)) == pytest.approx(1e-3, rel=1e-6)
    assert sphere.pairwise_km([(50, 8)], [(50 + metre, 8)])[0, 0] == pytest.approx(1e-3, rel=1e-5)


@given(points, points)
def test_numpy_torch_and_pairwise_agree(a, b):
    expected = sphere.haversine_km(a, b)
    double = torch.tensor(a, dtype=torch.float64)
    assert float(sphere.haversine_km(double, b)) == pytest.approx(float(expected), abs=1e-6)
    assert sphere.pairwise_km([a], [b])[0, 0] == pytest.approx(float(expected), abs=1e-3)
    assert 0 <= expected <= 2 * QUARTER + 1e-9
    assert expected == pytest.approx(float(sphere.haversine_km(b, a)), abs=1e-9)


@given(points, points)
@settings(max_examples=200)
def test_gradients_are_always_finite(a, b):
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([a, a, b], dtype=dtype, requires_grad=True)
        antipode = (-b[0], b[1] - 180)
        sphere.haversine_km(x, torch.tensor([b, a, antipode], dtype=dtype)).sum().backward()
        assert torch.isfinite(x.grad).all()
        # The derivative by latitude is at most the length of one degree of a meridian.
        assert x.grad[:, 0].abs().max() <= QUARTER / 90 * 1.01


def test_gradient_points_away_from_the_target():
    x = torch.tensor([10.0, 20.0], requires_grad=True)
    sphere.haversine_km(x, (11.0, 20.0)).backward()
    assert x.grad[0] == pytest.approx(-QUARTER / 90, rel=1e-3)
    assert x.grad[1] == pytest.approx(0, abs=1e-3)


def test_distances_broadcast_and_return_the_type_of_their_arguments():
    grid = np.zeros((4, 1, 2))
    assert sphere.haversine_km(grid, np.zeros((3, 2))).shape == (4, 3)
    assert isinstance(sphere.haversine_km(LONDON, PARIS), np.floating)
    single = sphere.haversine_km(torch.zeros(3, 2), np.ones((3, 2)))
    assert single.dtype == torch.float32
    assert single.shape == (3,)
    assert sphere.haversine_km(torch.zeros(2, dtype=torch.int64), (0, 90)) == pytest.approx(QUARTER)
    assert sphere.pairwise_km(torch.zeros(5, 2), torch.ones(3, 2)).shape == (5, 3)
    assert sphere.pairwise_km(np.zeros((0, 2)), np.ones((3, 2))).shape == (0, 3)


def test_pairwise_distances_of_single_precision_are_right_within_metres():
    rng = np.random.default_rng(0)
    a, b = (np.c_[rng.uniform(-90, 90, 50), rng.uniform(-180, 180, 50)] for _ in range(2))
    b[:10] = a[:10] + 0.001  # 100 m away
    exact = sphere.pairwise_km(a, b)
    single = sphere.pairwise_km(*(torch.from_numpy(points).float() for points in (a, b)))
    near = exact < 15_000
    np.testing.assert_allclose(single.numpy()[near], exact[near], atol=0.02)
    asked = torch.from_numpy(a).requires_grad_()
    sphere.pairwise_km(asked, a).sum().backward()
    assert torch.isfinite(asked.grad).all()


def test_geoscore_of_known_errors():
    assert sphere.geoscore(0) == 5000
    assert sphere.geoscore(1492.7) == pytest.approx(5000 / math.e)
    assert sphere.geoscore(2000) == pytest.approx(1309.4, abs=0.1)
    torch.testing.assert_close(sphere.geoscore(torch.tensor([0.0])), torch.tensor([5000.0]))


def test_axes_of_the_unit_vectors():
    vectors = sphere.unit_vectors([(0, 0), (0, 90), (90, 0), (0, 180), (-90, 50)])
    expected = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (0, 0, -1)]
    np.testing.assert_allclose(vectors, expected, atol=1e-15)


@given(points)
def test_unit_vectors_convert_back_to_the_same_coordinates(point):
    back = sphere.coordinates_of(sphere.unit_vectors(point))
    assert sphere.haversine_km(back, point) == pytest.approx(0, abs=1e-6)
    assert -180 <= back[1] < 180
    tensor = sphere.coordinates_of(
        7 * sphere.unit_vectors(torch.tensor(point, dtype=torch.float64))
    )
    np.testing.assert_allclose(
        sphere.unit_vectors(tensor.numpy()), sphere.unit_vectors(point), atol=1e-12
    )


def test_coordinates_of_a_zero_vector_and_of_the_poles_have_finite_gradients():
    vectors = torch.tensor([(0.0, 0, 0), (0, 0, 1), (0, 0, -2), (1, 0, 0)], requires_grad=True)
    coordinates = sphere.coordinates_of(vectors)
    np.testing.assert_allclose(coordinates.detach(), [(0, 0), (90, 0), (-90, 0), (0, 0)])
    coordinates.sum().backward()
    assert torch.isfinite(vectors.grad).all()


def test_mean_across_the_date_line_and_over_the_pole():
    np.testing.assert_allclose(sphere.spherical_mean([(0, 179), (0, -179)]), (0, -180), atol=1e-9)
    assert sphere.spherical_mean([(80, 0), (80, 180)])[0] == pytest.approx(90)
    repeated = sphere.spherical_mean([(0, 0)] * 3 + [(0, 90)])
    assert repeated[1] == pytest.approx(math.degrees(math.atan(1 / 3)))


def test_mean_of_points_that_cancel_out_is_the_first():
    points = [(10, 20), (-10, -160), (0, 0), (0, 180)]
    np.testing.assert_allclose(sphere.spherical_mean(points), (10, 20))


def test_mean_of_no_coordinates_is_refused():
    with pytest.raises(ValueError, match="no coordinates"):
        sphere.spherical_mean([])


@given(st.tuples(st.floats(-89, 89), st.floats(-180, 180)), st.floats(0, 360), st.floats(1, 19e3))
def test_destination_has_the_given_distance_and_bearing(start, heading, km):
    end = sphere.destination(start, heading, km)
    assert sphere.haversine_km(start, end) == pytest.approx(km, abs=1e-5)
    assert -180 <= end[1] < 180
    difference = (float(sphere.bearing(start, end)) - heading + 180) % 360 - 180
    assert difference == pytest.approx(0, abs=1e-4)


def test_destination_from_the_equator_the_pole_and_over_the_date_line():
    ring = sphere.destination((0, 0), [0, 90, 180, 270], QUARTER / 9)
    np.testing.assert_allclose(ring, [(10, 0), (0, 10), (-10, 0), (0, -10)], atol=1e-9)
    assert sphere.destination((90, 0), 33, QUARTER / 9)[0] == pytest.approx(80)
    np.testing.assert_allclose(sphere.destination((0, 175), 90, QUARTER / 9), (0, -175), atol=1e-9)
    tensor = sphere.destination(torch.tensor([0.0, 175.0]), 90.0, QUARTER / 9)
    np.testing.assert_allclose(tensor, (0, -175), atol=1e-4)


def test_bearings_of_the_cardinal_directions():
    ends = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    np.testing.assert_allclose(sphere.bearing((0, 0), ends), [0, 90, 180, 270], atol=1e-9)


def test_normalise_wraps_longitudes_into_the_half_open_interval():
    wrapped = sphere.normalise([(1, 180), (2, -180), (3, 190), (4, -540), (5, 725), (6, -1e-20)])
    np.testing.assert_allclose(wrapped[:, 1], [-180, -180, -170, -180, 5, 0])
    edge = sphere.normalise((0, np.nextafter(-180, -200)))
    assert -180 <= edge[1] < 180
    assert sphere.normalise(torch.tensor([1.0, 359.0])).tolist() == [1, -1]


@pytest.mark.parametrize("bad", [(90.1, 0), (-91, 0), (np.nan, 0), (0, np.inf)])
def test_normalise_names_the_invalid_coordinate(bad):
    with pytest.raises(ValueError, match=r"^Coordinate 1 is"):
        sphere.normalise([(0, 0), bad])
    with pytest.raises(ValueError, match=r"^Coordinate 0 is"):
        sphere.normalise(torch.tensor(bad))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_normalise_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="pairs"):
        sphere.normalise(np.zeros(shape))
