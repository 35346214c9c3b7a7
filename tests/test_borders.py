import json
from pathlib import Path

import numpy as np
import pytest

from geoclip_core.earth.gazetteer import Gazetteer

STATIC = Path(__file__).parent.parent / "static"


def rings(geometry):
    polygons = geometry["coordinates"]
    for polygon in [polygons] if geometry["type"] == "Polygon" else polygons:
        yield from map(np.array, polygon)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("countries110", 177),
        ("countries50", 241),
        ("us_states", 56),
        ("us_counties_ten_states", 738),
    ],
)
def test_outlines_are_closed_and_on_the_earth(name, count):
    content = json.loads((STATIC / "borders" / f"{name}.geojson").read_text(encoding="utf-8"))
    assert len(content["features"]) == count
    for feature in content["features"]:
        for ring in rings(feature["geometry"]):
            assert (ring[0] == ring[-1]).all()
            assert (np.abs(ring) <= (180, 90)).all()


def test_states_are_called_as_in_the_gazetteer():
    content = json.loads((STATIC / "borders" / "us_states.geojson").read_text(encoding="utf-8"))
    drawn = {feature["properties"]["name"] for feature in content["features"]}
    named = Gazetteer.load().frame([(31.2, -100), (43.6, -116.2), (35.1, -106.6), (44, -103)])
    assert set(named["region"]) == {"Texas", "Idaho", "New Mexico", "South Dakota"} <= drawn


@pytest.mark.parametrize("name", ["world_110m", "usa_110m"])
def test_topojson_is_topology(name):
    content = json.loads((STATIC / "topojson" / f"{name}.json").read_text(encoding="utf-8"))
    assert content["type"] == "Topology"
    assert content["arcs"]
