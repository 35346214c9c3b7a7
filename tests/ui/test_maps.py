"""Tests of the Leaflet maps: local files, positions, and names that must not become code."""

import json
import re

import numpy as np
import pytest
from streamlit_folium import generate_leaflet_string

from tests.ui.conftest import SUVA
from ui import maps
from ui.geometry import circle
from ui.maps import OfflineMap, plain
from ui.page import STATIC
from ui.theme import DARK, LIGHT

HOSTILE = "</div><script>alert(1)</script> `${alert(2)}` {{ 7 * 7 }} \\ 'x' \"y\"\nnext"


def script(world):
    """The JavaScript that streamlit-folium sends for a map."""
    world.finish()
    world.get_root().render()
    return generate_leaflet_string(world)


def test_every_script_and_style_is_a_local_file():
    world = OfflineMap()
    for _, address in [*world.default_js, *world.default_css]:
        assert address.startswith("../../app/static/")
        path = address.removeprefix("../../app/static/").split("?")[0]
        assert (STATIC / path).is_file(), path


def test_vendored_styles_refer_to_files_that_exist():
    folder = STATIC / "vendor" / "leaflet-1.9.4"
    used = set(re.findall(r"url\((images/[^)]+)\)", (folder / "leaflet.css").read_text()))
    # No map of the app draws the default marker.
    assert used - {"images/marker-icon.png"}
    for name in used - {"images/marker-icon.png"}:
        assert (folder / name).is_file(), name


def test_every_vendored_package_has_its_licence():
    folders = [path for path in (STATIC / "vendor").iterdir() if path.is_dir()]
    assert folders
    for folder in folders:
        assert list(folder.glob("LICENSE*")), folder


def test_online_tiles_are_offered_but_off():
    text = script(OfflineMap())
    layers = re.findall(r"var (tile_layer_\w+) = L\.tileLayer", text)
    assert len(layers) == 2
    for layer in layers:
        assert not re.search(rf"{layer}\.addTo", text)
    assert re.search(r"borders_\w+\.addTo", text)
    assert "OpenStreetMap (online)" in text
    assert "Satellite (online)" in text


def test_points_are_drawn_at_the_copy_nearest_to_the_middle():
    world = OfflineMap([(0, 175)], 175)
    assert world.at((-10, -170)) == (-10, 190)
    world.add_truth((-10, -170), "there")
    assert "[-10.0, 190.0]" in script(world)


def test_candidates_grow_with_their_probability():
    world = OfflineMap()
    for share in (0.05, 0.5):
        world.add_candidate((0, 0), share, "c")
    small, large = (float(size) for size in re.findall(r'"radius": ([\d.]+)', script(world)))
    assert large > 2 * small - 4 > 0


def test_legend_lists_only_what_is_on_the_map(monkeypatch):
    monkeypatch.setattr(maps, "palette", lambda: DARK)
    world = OfflineMap()
    world.add_candidate((0, 0), 0.5, "c")
    text = script(world)
    assert '[["Candidate", "' + DARK.candidate in text
    assert "Where it was taken" not in text
    assert "OfflineMap.legend" not in script(OfflineMap())


def test_labels_cannot_become_code():
    world = OfflineMap()
    world.add_candidate((0, 0), 0.5, HOSTILE)
    world.add_pin((0, 0), "`${1}`</b>", LIGHT.best, HOSTILE)
    world.add_circle((0, 0), 100, LIGHT.best, HOSTILE)
    text = script(world)
    assert "<script>" not in text
    assert "${alert" not in text
    assert "{{" not in text
    assert "7 * 7" in text  # not evaluated by Jinja
    assert "next" in text


def test_plain_keeps_letters_and_breaks_lines():
    assert plain("Ñuñoa, 12 km\nx") == "Ñuñoa, 12 km<br>x"


def test_circle_at_the_date_line_is_drawn_as_computed():
    world = OfflineMap([SUVA], SUVA[1])
    world.add_circle(SUVA, 500, LIGHT.best, "half")
    sent = [
        json.loads(found) for found in re.findall(r"L\.polygon\(\s*(\[.*?\]),\s*{", script(world))
    ]
    expected = circle(SUVA, 500, SUVA[1])
    assert len(sent) == len(expected)
    assert np.allclose(sent[1], expected[1])


@pytest.mark.parametrize("radius_km", [1, 9_000, 15_000, 20_015, 30_000])
def test_circles_of_every_size_can_be_drawn(radius_km):
    world = OfflineMap()
    world.add_circle((60, 10), radius_km, LIGHT.best, "c", dashed=True)
    assert "L.polygon(" in script(world)


def test_image_of_the_world_is_drawn_in_three_copies_and_a_window_in_one():
    pixels = np.zeros((4, 4, 4), np.uint8)
    for focus, copies in (((), 3), (((0, 0), (10, 10)), 1)):
        world = OfflineMap(focus)
        world.add_image(pixels, "Image", 0.7)
        text = script(world)
        assert text.count("L.imageOverlay(") == copies
        assert text.count('"pane": "images"') == copies


def test_same_map_gives_the_same_script():
    def made():
        world = OfflineMap([(1, 2)])
        world.add_pin((1, 2), "1", LIGHT.best, "b")
        world.add_circle((1, 2), 100, LIGHT.best, "c")
        return script(world)

    # A different script would redraw the map at every rerun and lose the viewer's position.
    assert made() == made()
