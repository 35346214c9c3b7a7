"""Figures, maps, headline tables and thumbnails of an evaluation."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from geoclip_core.earth.sphere import bearing, haversine_km
from geoclip_core.evaluation import figures, map_figures, metrics, report
from geoclip_core.evaluation.small_map import small_map, thumbnail
from geoclip_core.evaluation.style import DARK, ERROR_MARKS_KM, LIGHT
from ui.evaluation import maps, panels

BORDERS = Path(__file__).resolve().parents[2] / "static" / "borders"


def test_verdicts_of_differences():
    frame = pd.DataFrame({"error_km": np.linspace(10, 400, 200)})
    error = frame["error_km"].to_numpy()
    rng = np.random.default_rng(0)
    others = {"worse": error + 300, "same": rng.permutation(error), "none": np.full(200, np.nan)}
    table = report.difference_rows(frame, others).set_index(["other", "measure"])
    assert set(table.index.get_level_values(0)) == {"worse", "same"}
    assert table.loc[("worse", "mean_km"), "difference"] == pytest.approx(-300)
    assert set(table.loc["worse", "verdict"]) == {"better"}
    assert set(table.loc["same", "verdict"]) == {"within chance"}
    shown = report.differences_html(table.reset_index(), "<b>me</b>", LIGHT)
    assert "<b>me</b>" not in shown
    assert "&lt;b&gt;me" in shown


def test_headlines_of_few_and_many_photos_agree():
    rng = np.random.default_rng(1)
    error = rng.lognormal(5.5, 1, 12_000)
    frame = pd.DataFrame({"error_km": error, "radius_50_km": 250.0, "radius_90_km": 900.0})
    many = report.model_row(frame, "m", "model")
    few = report.model_row(frame.iloc[:9_999], "m", "model")
    for path in ("geoscore", "median_km", "accuracy_at_km:200", "coverage:50"):
        assert many.measured.values[path] == pytest.approx(few.measured.values[path], rel=0.05)
        width, other = (np.ptp(row.measured.bounds[path]) for row in (many, few))
        assert width == pytest.approx(other, rel=0.25)
    assert f"{many.measured.values['median_km']:,.0f}" in report.headline_html([many], LIGHT)
    assert panels._headline_frame([many, few])["n"].tolist() == [12_000, 9_999]


@pytest.mark.parametrize("cell_at", [(0, 179.9), (-17, -179.9), (84, 10), (40, -100)])
def test_hexagons_are_clockwise_everywhere(cell_at):
    """A ring the other way round would fill the rest of the Earth."""
    cell = map_figures.hexagons(np.array([cell_at]), 2)
    ring = map_figures.hexagon_shapes(cell)["features"][0]["geometry"]["coordinates"][0]
    points = np.array(ring)[:, ::-1]
    assert haversine_km(points, np.array(cell_at)).max() < 500
    middle = points[:-1].mean(axis=0) if np.ptp(points[:, 1]) < 180 else np.array(cell_at)
    turns = np.unwrap(np.radians(_bearings(middle, points)))
    assert turns[-1] - turns[0] == pytest.approx(2 * np.pi, abs=0.1)


def _bearings(centre, points):
    return bearing(np.broadcast_to(centre, points.shape), points)


def test_states_and_counties_have_the_names_of_the_dataset():
    states = {feature["id"] for feature in maps.state_shapes()["features"]}
    counties = {feature["id"] for feature in maps.county_shapes()["features"]}
    assert "Texas_US" in states
    assert {
        "Taylor County_Texas_US",
        "Dona Ana County_New Mexico_US",
        "Carson City_Nevada_US",
    } <= counties


def test_the_resolution_limits_the_number_of_hexagons():
    rng = np.random.default_rng(0)
    world = np.stack([rng.uniform(-60, 70, 5000), rng.uniform(-180, 180, 5000)], axis=1)
    for points in (world, world * 0.01 + [40, -100], world[:30]):
        size = map_figures.hexagon_resolution(points)
        assert len(set(map_figures.hexagons(points, size))) <= map_figures.MOST_AREAS
    assert map_figures.hexagon_resolution(
        world * 0.01 + [40, -100]
    ) > map_figures.hexagon_resolution(world)


def test_difference_map_of_a_small_table():
    places = np.array([[40.0, -100], [40.0, -100], [-30.0, 140]])
    figure = map_figures.difference_figure(
        pd.DataFrame(
            {"group": map_figures.hexagons(places[1:], 2), "gain": [10.0, -5.0], "photos": 1}
        ),
        LIGHT,
        usa=False,
    )
    assert list(figure.data[0].z) == [10, -5]
    assert figure.data[0].zmin == -figure.data[0].zmax


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("truth", "guess"),
    [
        ((44, -116), (31, -99)),
        ((65, -179.5), (66, 178)),  # over the date line
        ((89, 10), (88, -170)),  # over the pole
        ((-85, 0), (-77, 166)),  # inside Antarctica
        ((0, 0), (0, 180)),  # antipodes
        ((51.5, -0.1), (51.5, -0.1)),  # exact
    ],
)
def test_small_map_is_true_to_scale_everywhere(truth, guess, colours):
    svg = small_map(truth, guess, colours, BORDERS, [(10, 10, 0.5)])
    assert "nan" not in svg
    assert len(svg) < 200_000
    dots = re.findall(r'cx="(-?[\d.]+)" cy="(-?[\d.]+)" r="6.5"', svg)
    (x1, y1), (x0, y0) = (tuple(map(float, dot)) for dot in dots)
    assert 0 <= x0 <= 360
    assert 0 <= y0 <= 220
    distance = float(haversine_km(truth, guess))
    scale = 110 / max(distance * 0.72, 120)
    assert np.hypot(x1 - x0, y1 - y0) == pytest.approx(distance * scale, abs=0.6)


def test_small_map_shows_land_where_there_is_land():
    inland = small_map((48, 68), (48.2, 68.1), LIGHT, BORDERS)  # Kazakhstan: no coast in sight
    assert f'fill="{LIGHT.land}"' in inland
    path = re.search(r'<path d="([^"]*)" fill="' + LIGHT.land, inland)
    assert path.group(1)
    ocean = small_map((-48, -120), (-48.2, -120.1), LIGHT, BORDERS)
    assert re.search(r'<path d="([^"]*)" fill="' + LIGHT.land, ocean).group(1) == ""


def test_thumbnails_are_only_read_inside_their_folder(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    Image.new("RGB", (900, 500)).save(tmp_path / "secret.jpg")
    Image.new("RGB", (900, 500)).save(root / "good.jpg")
    (root / "bad.jpg").write_bytes(b"\xff\xd8")
    assert thumbnail(str(root), "good.jpg").size == (420, 233)
    for path in ("../secret.jpg", "bad.jpg", "missing.jpg", "", None, float("nan")):
        assert thumbnail(str(root), path) is None
    assert thumbnail("", "good.jpg") is None


def test_a_map_of_points_may_cross_the_date_line():
    frame = pd.DataFrame(
        {
            "id": ["a", "b"],
            "latitude": [-17.0, -18.0],
            "longitude": [179.0, -179.0],
            "predicted_latitude": [-10.0, -20.0],
            "predicted_longitude": [175.0, -176.0],
            "error_km": [300.0, 400.0],
        }
    )
    geo = map_figures.points_figure(frame, LIGHT, usa=False, arrows=True).layout.geo
    low, high = geo.lonaxis.range
    assert high - low < 60
    for longitude in (179, -179, 175, -176):
        middle = (low + high) / 2
        assert abs((longitude - middle + 180) % 360 - 180) <= (high - low) / 2


def test_error_colours_and_axis_have_the_same_marks():
    frame = pd.DataFrame({"id": list("abc"), "error_km": [0.2, 25.0, 2500.0]})
    frame["latitude"] = frame["longitude"] = 0.0
    points = map_figures.points_figure(frame, LIGHT, usa=False, arrows=False).data[0]
    assert points.marker.color.tolist() == pytest.approx([0, math.log10(25), math.log10(2500)])
    assert points.marker.size == 6
    assert figures.error_axis()["tickvals"] == list(ERROR_MARKS_KM)
    curve = metrics.cumulative_curve(np.array([10.0]))
    figure = figures.cumulative_figure({"m": curve}, {}, LIGHT)
    assert len(figure.layout.shapes) == len(ERROR_MARKS_KM)


def test_a_map_with_a_scope_keeps_the_projection_of_the_scope():
    assert map_figures.world_figure(LIGHT).layout.geo.projection.type == "natural earth"
    assert map_figures.world_figure(LIGHT, scope="usa").layout.geo.projection.type is None
