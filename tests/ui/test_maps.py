"""Maps need no internet, hold what they are given, and keep names from outside harmless."""

import json
import re
import threading

import numpy as np
import pytest
from streamlit_folium import generate_leaflet_string

from tests.ui.conftest import SUVA
from ui import static_files
from ui.geometry import Window, circle
from ui.maps import LocalMarkerCluster, OfflineMap, plain
from ui.theme import DARK, LIGHT

HOSTILE = "</div><script>alert(1)</script> `${alert(2)}` {{ 7 * 7 }} \\ 'x' \"y\"\nnext"


def script(world):
    """The JavaScript that streamlit-folium sends for a map."""
    world.finish()
    world.get_root().render()
    return generate_leaflet_string(world)


def test_every_file_comes_from_this_server():
    world = OfflineMap(colours=LIGHT)
    for element in (world, LocalMarkerCluster()):
        for _, address in [*element.default_js, *element.default_css]:
            assert address.startswith("../../app/static/")
            path = address.removeprefix("../../app/static/").split("?")[0]
            static_files.install_vendor_files()
            assert (static_files.STATIC / path).is_file(), path


def test_online_tiles_are_offered_but_off():
    text = script(OfflineMap(colours=LIGHT))
    layers = re.findall(r"var (tile_layer_\w+) = L\.tileLayer", text)
    assert len(layers) == 2
    for layer in layers:
        assert not re.search(rf"{layer}\.addTo", text)
    assert re.search(r"borders_\w+\.addTo", text)
    assert "OpenStreetMap (asks the internet)" in text
    assert "Satellite (asks the internet)" in text


def test_points_are_drawn_at_the_copy_nearest_to_the_middle():
    world = OfflineMap([(0, 175)], colours=LIGHT)
    assert world.middle == 175
    assert world.at((-10, -170)) == (-10, 190)
    world.add_point((-10, -170), "truth", "there")
    assert "[-10.0, 190.0]" in script(world)


def test_candidates_grow_with_their_probability():
    world = OfflineMap(colours=LIGHT)
    for share in (0.05, 0.5):
        world.add_point((0, 0), "candidate", "c", share=share)
    small, large = (float(size) for size in re.findall(r'"radius": ([\d.]+)', script(world)))
    assert large > 2 * small - 4 > 0


def test_legend_names_what_is_on_the_map_and_no_more():
    world = OfflineMap(colours=DARK)
    world.add_point((0, 0), "best", "b", text="1")
    text = script(world)
    assert "Best guess" in text
    assert DARK.best in text
    assert "Where it was taken" not in text


def test_hostile_labels_stay_text():
    world = OfflineMap(colours=LIGHT)
    world.add_point((0, 0), "candidate", HOSTILE)
    world.add_point((0, 0), "best", HOSTILE, text="`${1}`</b>")
    world.add_circle((0, 0), 100, LIGHT.best, HOSTILE)
    text = script(world)
    assert "<script>" not in text
    assert "${alert" not in text
    assert "{{" not in text
    assert "7 * 7" in text  # not worked out by Jinja
    assert "next" in text


def test_plain_keeps_letters_and_breaks_lines():
    assert plain("Ñuñoa, 12 km\nx") == "Ñuñoa, 12 km<br>x"


def test_circle_at_the_date_line_is_sent_as_computed():
    world = OfflineMap([SUVA], middle=SUVA[1], colours=LIGHT)
    world.add_circle(SUVA, 500, LIGHT.best, "half")
    sent = [
        json.loads(found) for found in re.findall(r"L\.polygon\(\s*(\[.*?\]),\s*{", script(world))
    ]
    expected = circle(SUVA, 500, world.middle)
    assert len(sent) == len(expected)
    assert np.allclose(sent[1], expected[1])


@pytest.mark.parametrize("radius_km", [1, 9_000, 15_000, 20_015, 30_000])
def test_circles_of_every_size_can_be_drawn(radius_km):
    world = OfflineMap(colours=LIGHT)
    world.add_circle((60, 10), radius_km, LIGHT.best, "c", dashed=True)
    assert "L.polygon(" in script(world)


def test_image_of_the_world_is_drawn_in_three_copies_and_a_window_in_one():
    world = OfflineMap(colours=LIGHT)
    world.add_image(np.zeros((4, 4, 4), np.uint8), Window(-180, 180), "World", show=False)
    world.add_image(np.zeros((4, 4, 4), np.uint8), Window(0, 10, 0, 10), "Part")
    text = script(world)
    assert text.count("L.imageOverlay(") == 4
    assert text.count('"pane": "images"') == 4


def test_same_map_gives_the_same_script():
    def made():
        world = OfflineMap([(1, 2)], colours=LIGHT)
        world.add_point((1, 2), "best", "b", text="1")
        world.add_circle((1, 2), 100, LIGHT.best, "c")
        return script(world)

    # Otherwise every rerun would draw the map anew and lose the viewer's place on it.
    assert made() == made()


def test_vendor_files_arrive_whole_once_and_from_many_threads(tmp_path):
    threads = [
        threading.Thread(target=static_files.install_vendor_files, args=(tmp_path,))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folders = static_files.install_vendor_files(tmp_path)
    assert sorted(path.name for path in (tmp_path / "vendor").iterdir()) == sorted(
        folder.name for folder in folders
    )
    leaflet = next(folder for folder in folders if folder.name.startswith("leaflet-"))
    written = (leaflet / "leaflet.js").stat().st_mtime_ns
    static_files.install_vendor_files(tmp_path)
    assert (leaflet / "leaflet.js").stat().st_mtime_ns == written


def test_half_a_copy_is_made_whole(tmp_path):
    folder = static_files.install_vendor_files(tmp_path)[0]
    (folder / "leaflet.css").unlink()
    static_files.install_vendor_files(tmp_path)
    assert (folder / "leaflet.css").is_file()


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "vendor").write_text("in the way")
    with pytest.raises(RuntimeError, match="write to that folder"):
        static_files.install_vendor_files(tmp_path)
