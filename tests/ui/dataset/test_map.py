"""Hexagons that add up, and a click that is understood."""

from types import SimpleNamespace

import h3
import numpy as np
import pytest

from geoclip_core.data.dataset import read_dataset
from geoclip_core.data.vocabulary import class_name
from tests.data import layout
from ui.dataset.explore import (
    Chosen,
    classes,
    climate_bars,
    coverage,
    month_bars,
    place_bars,
    rows_of,
)
from ui.dataset.map import (
    cell_name,
    clicked,
    describe,
    hexagon_counts,
    hexagon_figure,
    in_cell,
    points_figure,
)
from ui.theme import DARK, LIGHT

TEN_STATES = np.random.default_rng(0).uniform([28, -120], [48, -96], (5000, 2))


@pytest.fixture
def dataset(tmp_path):
    return read_dataset(layout.make(tmp_path / "osv"), val_fraction=0)


def test_every_photo_is_in_one_hexagon_of_a_size_that_can_be_clicked():
    counts = hexagon_counts(TEN_STATES)
    assert counts["photos"].sum() == 5000
    assert 100 < len(counts) < 500
    assert h3.get_resolution(counts["group"][0]) == 3
    cell = counts["group"][0]
    assert in_cell(TEN_STATES, cell).sum() == counts["photos"][0]


@pytest.mark.parametrize(
    ("coordinates", "resolution"),
    [
        (np.array([[-60.0, -170.0], [70.0, 170.0], [0.0, 0.0], [10.0, 100.0]]), 1),
        (np.array([[31.0, -97.0], [36.0, -97.5]]), 4),
        (np.array([[31.0, -97.0]]), 7),
        (np.array([[-16.8, 179.0], [-16.9, -177.0]]), 5),
    ],
)
def test_hexagons_follow_the_extent(coordinates, resolution):
    assert h3.get_resolution(hexagon_counts(coordinates)["group"][0]) == resolution


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_figures_have_all_photos_in_view(dataset, colours):
    whole = hexagon_figure(hexagon_counts(TEN_STATES), colours)
    west, east = whole.layout.geo.lonaxis.range
    south, north = whole.layout.geo.lataxis.range
    assert west < -120 < -96 < east
    assert south < 28 < 48 < north
    rows = np.arange(len(dataset))
    points = points_figure(dataset, rows, colours, picked=2).data[-1]
    assert list(points.customdata) == list(range(8))
    assert points.marker.color[2] == colours.best
    assert points.marker.color[3] == colours.truth


def test_map_across_the_date_line_is_narrow():
    coordinates = np.array([[-16.8, 179.9], [-16.9, -179.9]])
    west, east = hexagon_figure(hexagon_counts(coordinates), LIGHT).layout.geo.lonaxis.range
    assert east - west < 5
    assert west < 180 < east or west < -180 < east


def _event(*points):
    return SimpleNamespace(selection=SimpleNamespace(points=list(points)))


def test_clicks():
    assert clicked(_event({"location": "8326e8fffffffff", "customdata": 7})) == "8326e8fffffffff"
    assert clicked(_event({"location": None, "customdata": 7})) == 7
    assert clicked(_event({"customdata": [7]})) == 7
    assert clicked(_event()) is None
    assert clicked(None) is None


def test_a_hexagon_has_a_name():
    assert cell_name(h3.latlng_to_cell(32.4487, -99.7331, 6)) == "Abilene, Texas"


def test_rows_of_a_class(dataset):
    assert rows_of(dataset, Chosen()).tolist() == list(range(8))
    assert rows_of(dataset, Chosen("test")).tolist() == [6, 7]
    vegas = Chosen(None, "county", "Clark County_Nevada_US")
    assert rows_of(dataset, vegas).tolist() == [1, 7]
    assert rows_of(dataset, Chosen("train", "month", "7")).tolist() == [1, 2]
    assert rows_of(dataset, Chosen("train", "climate", "24")).tolist() == [4]
    assert rows_of(dataset, Chosen("val")).tolist() == []


def test_classes_are_named_and_counted(dataset):
    key, photos = next(iter(classes(dataset, dataset.fingerprint, "county").items()))
    assert (key, photos) == ("Clark County_Nevada_US", 2)
    assert class_name("county", key) == "Clark County, Nevada"


def test_coverage_by_hand(dataset):
    table = coverage(dataset, dataset.fingerprint).set_index("feature")
    assert table.loc["county", "classes"] == 5
    assert table.loc["county", "train"] == pytest.approx(5 / 6)
    assert np.isnan(table.loc["county", "val"])
    assert table.loc["county", "test"] == 1.0
    # El Paso County is in test only.
    assert table.loc["county", "unseen"] == 0.5
    assert table.loc["state", "unseen"] == 0.0
    assert table.loc["month", "train"] == pytest.approx(5 / 6)


def test_a_photo_in_one_line(dataset):
    lines = [describe(row) for _, row in dataset.table.iterrows()]
    assert lines[0] == "Boise, Idaho · January 2021 · BSk"
    assert lines[3] == "Abilene, Texas · BSh"
    assert lines[5] == "Montana · May 2020"


def test_bars_count_what_is_known(dataset):
    figure, feature = place_bars(dataset.table, LIGHT)
    assert feature == "state"
    assert dict(zip(figure.data[0].y, figure.data[0].x, strict=True)) == {
        "Idaho": 2,
        "Nevada": 2,
        "Texas": 2,
        "Kansas": 1,
        "Montana": 1,
    }
    assert list(month_bars(dataset.table, LIGHT).data[0].x) == [2, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 2]
    climates = climate_bars(dataset.table, LIGHT).data[0]
    assert sum(climates.x) == 7
    assert climates.y[0] in ("BWh", "BSk")
