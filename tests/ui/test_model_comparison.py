"""Several models on one photo: texas says Abilene, fiji says Suva."""

import pytest

from geoclip_core.earth.sphere import haversine_km
from geoclip_core.locator import Geolocator
from tests.ui.conftest import ABILENE, SUVA, photo_bytes, texts
from ui.model_comparison import comparison_map, distances
from ui.theme import kilometres


@pytest.fixture
def rows(models):
    photo = photo_bytes(position=(40.0, -100.0))
    return [Geolocator.load(models[name]).locate(photo) for name in ("texas", "fiji", "texas")]


def test_the_page_shows_both_models(open_app, models, monkeypatch):
    monkeypatch.setattr("ui.models.available_models", lambda: list(models.values()))
    monkeypatch.setattr("ui.model_comparison.available_models", lambda: list(models.values()))
    app = open_app("texas")
    assert "The two guesses" not in texts(app)
    app.multiselect(key="models to compare").set_value([models["fiji"]]).run()
    assert not app.exception
    shown = texts(app)
    assert "Abilene" in shown
    assert "Suva" in shown
    assert f"**{kilometres(float(haversine_km(ABILENE, SUVA)))}** apart" in shown
    app.multiselect(key="models to compare").set_value([]).run()
    assert "The two guesses" not in texts(app)


def test_distances_of_three_models_and_the_truth(rows):
    table = distances(rows).splitlines()
    assert table[0] == "| Distance | B | C | EXIF position |"
    far = kilometres(float(haversine_km(ABILENE, SUVA)))
    assert table[2].startswith(f"| **A** texas | {far} | the same place | ")
    assert len(table) == 5
    truth = kilometres(float(haversine_km(ABILENE, (40.0, -100.0))))
    assert table[4] == f"| **C** texas |  |  | {truth} |"


def test_models_of_one_mind_share_a_pin(rows):
    html = comparison_map(rows).get_root().render()
    assert '"A, C"' in html
    assert '"B"' in html
    for line in ("A: texas", "B: fiji", "C: texas"):
        assert line in html
