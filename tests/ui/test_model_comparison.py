"""Tests of several models on one photo: texas says Abilene, fiji says Suva."""

from dataclasses import replace

import pytest

from geoclip_core.earth.sphere import haversine_km
from geoclip_core.locator import Geolocator
from tests.ui.conftest import ABILENE, SUVA, photo_bytes, texts
from ui.model_comparison import apart_sentence, comparison_map, distances
from ui.theme import kilometres


@pytest.fixture(scope="module")
def rows(models):
    photo = photo_bytes(position=(40.0, -100.0))
    return [Geolocator.load(models[name]).locate(photo) for name in ("texas", "fiji", "texas")]


def test_the_page_shows_both_models(open_app, models, monkeypatch):
    monkeypatch.setattr("ui.models.available_models", lambda: list(models.values()))
    monkeypatch.setattr("ui.model_comparison.available_models", lambda: list(models.values()))
    app = open_app("texas")
    assert "| Distance |" not in texts(app)
    app.multiselect(key="models to compare").set_value([models["fiji"]]).run()
    assert not app.exception
    shown = texts(app)
    assert "Abilene" in shown
    assert "Suva" in shown
    # It is known where the example was taken, so there is a table.
    assert f"| **A** texas | {kilometres(float(haversine_km(ABILENE, SUVA)))} | " in shown
    app.multiselect(key="models to compare").set_value([]).run()
    assert "| Distance |" not in texts(app)


def test_distances_of_three_models_and_the_truth(rows):
    table = distances(rows).splitlines()
    assert table[0] == "| Distance | B | C | Where it was taken |"
    far = kilometres(float(haversine_km(ABILENE, SUVA)))
    assert table[2].startswith(f"| **A** texas | {far} | the same place | ")
    assert len(table) == 5
    truth = kilometres(float(haversine_km(ABILENE, (40.0, -100.0))))
    assert table[4] == f"| **C** texas |  |  | {truth} |"


def test_models_that_choose_the_same_place_share_a_pin(rows):
    world = comparison_map(rows)
    world.finish()
    html = world.get_root().render()
    assert '"A, C"' in html
    assert '"B"' in html
    for line in ("A: texas", "B: fiji", "C: texas"):
        assert line in html


def test_equal_guesses_are_called_the_same_place(rows):
    assert apart_sentence(rows[0], rows[2]) == "Both models chose the same place."


def test_two_models_without_a_known_truth_get_a_sentence(rows):
    far = kilometres(float(haversine_km(ABILENE, SUVA)))
    plain = [replace(row, exif=None) for row in rows[:2]]
    assert distances(plain) == f"The two guesses are **{far}** apart."
