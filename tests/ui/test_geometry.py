"""Tests of shapes on a flat map, including the poles and the date line."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from geoclip_core.earth.sphere import (
    EARTH_RADIUS_KM,
    haversine_km,
    longitude_near,
    middle_longitude,
)
from ui.geometry import (
    MERCATOR_LIMIT,
    Window,
    bounds_of,
    circle,
    edge,
    great_circle,
    png,
    window_around,
)


def inside(polygons, point):
    """Even-odd rule over all rings of one copy of each polygon."""
    latitude, longitude = point
    crossings = 0
    for rings in polygons:
        for ring in rings:
            for (y0, x0), (y1, x1) in zip(ring, ring[1:] + ring[:1], strict=True):
                if (y0 > latitude) != (y1 > latitude):
                    crossings += longitude < x0 + (latitude - y0) / (y1 - y0) * (x1 - x0)
    return crossings % 2 == 1


@pytest.mark.parametrize(
    ("longitude", "middle", "expected"),
    [(-179, 179, 181), (179, -179, -181), (10, 0, 10), (190, 0, -170), (-99.7, 178, 260.3)],
)
def test_longitude_near_is_the_copy_nearest_to_the_middle(longitude, middle, expected):
    assert longitude_near(longitude, middle) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("longitudes", "middle"),
    [([], 0), ([10], 10), ([170, -170], -180), ([-10, 30], 10), ([-120, 10, 150], 0)],
)
def test_middle_longitude_is_opposite_the_widest_gap(longitudes, middle):
    assert longitude_near(middle_longitude(longitudes), middle) == pytest.approx(middle)


@pytest.mark.parametrize("centre", [(0, 0), (52, 13), (-17.7, 179.5), (89, 40), (-75, -179)])
@pytest.mark.parametrize("radius_km", [5, 400, 2500, 7000, 12_000, 19_000])
def test_circle_contains_exactly_the_points_within_its_radius(centre, radius_km):
    rng = np.random.default_rng(7)
    polygons = circle(centre, radius_km, middle=centre[1])
    latitudes = np.degrees(np.arcsin(rng.uniform(-0.995, 0.995, 400)))
    longitudes = centre[1] + rng.uniform(-179, 179, 400)
    checked = 0
    for point in zip(latitudes.tolist(), longitudes.tolist(), strict=True):
        distance = float(haversine_km(centre, point))
        if (
            abs(distance - radius_km) > 0.02 * radius_km + 20
        ):  # points at the edge depend on its resolution
            assert inside(polygons, point) == (distance < radius_km), (point, distance)
            checked += 1
    assert checked > 200


def test_circle_across_the_date_line_is_in_one_piece():
    rings = circle((-17.7, 179.5), 500, middle=179.5)
    longitudes = [longitude for _, longitude in rings[1][0]]
    assert 170 < min(longitudes) < 180 < max(longitudes) < 190


def test_edge_leaves_out_the_ends_of_the_map():
    closed = circle((0, 0), 500, 0)[0][0]
    assert edge(closed) == [*closed, closed[0]]
    cap = circle((80, 0), 3000, 0)[0][0]
    assert edge(cap) == cap[:-2]
    assert edge(circle((0, 0), 15_000, 0)[0][0]) == []


def test_circle_of_half_the_circumference_is_the_whole_world():
    polygons = circle((10, 20), math.pi * EARTH_RADIUS_KM, 0)
    assert inside(polygons, (-80, -150))
    assert inside(polygons, (80, 170))


def test_great_circle_crosses_the_date_line_without_a_jump():
    way = great_circle((40, 170), (40, -170), middle=180)
    longitudes = [longitude for _, longitude in way]
    assert max(abs(np.diff(longitudes))) < 1
    assert max(latitude for latitude, _ in way) > 40.2  # the short way bends to the pole
    assert way[-1] == pytest.approx((40, 190))


def test_great_circle_from_a_point_to_itself_is_that_point():
    assert great_circle((1, 2), (1, 2), middle=0)[-1] == pytest.approx((1, 2))


def test_window_contains_near_points_and_is_the_world_for_far_ones():
    near = window_around([(10, 20), (12, 26)], middle=23)
    assert near == Window(14, 32, 4, 18)
    assert window_around([(0, -80), (0, 80)], middle=0).is_world
    assert window_around([], middle=100) == Window(-80, 280)


def test_bounds_are_clipped_at_the_poles():
    assert bounds_of([(90, 200), (-90, 10)], middle=20) == [[-80, 10], [82, 200]]


def test_world_lattice_is_square_and_its_rows_are_mercator():
    lattice = Window(-180, 180).lattice(360)
    assert lattice.shape == (360, 360, 2)
    assert lattice[0, 0, 0] < MERCATOR_LIMIT
    # Halfway up a square web-Mercator map of the north is 66.51°.
    assert lattice[90, 0, 0] == pytest.approx(66.5, abs=0.3)
    assert lattice[0, 0, 1] == pytest.approx(-179.5)


def test_lattice_over_the_date_line_has_wrapped_longitudes():
    longitudes = Window(170, 190, -10, 10).lattice(4)[0, :, 1]
    assert longitudes == pytest.approx([172.5, 177.5, -177.5, -172.5])


def test_png_keeps_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 4), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)
