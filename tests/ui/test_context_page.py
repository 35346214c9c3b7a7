"""Tests of the Context heads page: heads beside the map, two models, missing heads, reasons."""

import hashlib

import pytest

from geoclip_core.earth.sphere import haversine_km
from tests.ui.conftest import ABILENE, SUVA, photo_bytes, texts

PAGE = "pages/1_Context_heads.py"


def lists(app):
    """The HTML of the probability lists."""
    return "\n".join(str(element.proto.body) for element in app.get("html"))


@pytest.mark.slow
def test_agreement_and_contradiction_are_visible(open_app):
    app = open_app("texas", PAGE, **{"second model": "None"})
    shown = texts(app).replace("\\", "")
    # The climate head says BWh; Abilene in the raster of Beck et al. is BSh.
    assert "The map at the pin says **BSh, arid, steppe, hot**" in shown
    assert "Consistent with the pin: **United States** (not proof that it is right)" in shown
    assert "BWh, arid, desert, hot" in lists(app)
    assert "BSh, arid" in lists(app)  # the map's class is listed though it is not in the top 5


def test_doubt_is_described_in_words(open_app):
    shown = texts(open_app("texas", PAGE, **{"second model": "None"}))
    # Logit 4 against 29 zeros: e⁴ / (e⁴ + 29) = 65 %, entropy 1.81 nats, e^1.81 = 6.1 classes.
    assert "Unsure (as if choosing among 6 of 30)" in shown


def test_missing_heads_are_named(open_app):
    shown = texts(open_app("texas", PAGE, **{"second model": "None"}))
    assert "trained without a head for month, state, county or city" in shown


def test_model_without_heads_shows_the_facts_of_the_map(open_app):
    app = open_app("fiji", PAGE, **{"second model": "None"})
    shown = texts(app)
    assert "This model has no context heads" in shown
    assert "from the map, not from the photo" in shown
    assert "At the pin: **Fiji**" in shown
    assert "Fiji" in lists(app)


def test_two_models_side_by_side(open_app, models):
    app = open_app("texas", PAGE, **{"second model": models["fiji"]})
    shown = texts(app)
    assert ":orange[A] texas" in shown
    assert ":violet[B] fiji" in shown
    assert f"**{round(float(haversine_km(ABILENE, SUVA)), -1):,.0f} km** apart" in shown


def test_climate_belt_shows_the_top_class_and_can_be_switched_off(open_app):
    app = open_app("texas", PAGE, **{"second model": "None"})
    belt = next(box for box in app.selectbox if box.label == "Climate belt on the map")
    assert belt.value == "top"
    assert any("BWh" in option for option in belt.options)
    belt.select("none").run()
    assert not app.exception


@pytest.mark.slow
def test_choosing_a_broken_photo_gives_an_error(open_app):
    app = open_app("texas", PAGE)
    files = [("good.jpg", photo_bytes(3), "image/jpeg"), ("bad.jpg", b"text", "image/jpeg")]
    app.file_uploader[0].set_value(files).run()
    box = next(box for box in app.selectbox if box.label == "Photo")
    assert "is not a photo" not in texts(app)
    box.select_index(1).run()
    assert "is not a photo" in texts(app)
    assert not app.exception


def button(app, label):
    return next((button for button in app.button if button.label == label), None)


@pytest.mark.slow
def test_reasons_are_found_on_click_and_kept(open_app):
    app = open_app("texas", PAGE, **{"second model": "None"})
    assert "Which parts of the photo matter" in [heading.value for heading in app.subheader]
    assert not [box for box in app.selectbox if box.label == "Answer"]
    button(app, "Find the reasons").click().run()
    assert not app.exception
    assert button(app, "Find the reasons") is None
    shown = texts(app)
    assert "Expected GeoScore" in shown
    assert "Hiding the outlined part costs **nothing**" in shown
    # This model gives the same answer for every photo, so no part can matter.
    assert "No part stands out" in shown
    box = next(box for box in app.selectbox if box.label == "Answer")
    assert box.options == ["Place", "Climate", "Country"]
    box.select_index(1).run()
    assert "**BWh, arid, desert, hot**. Probability 65 %" in texts(app).replace("\\", "")
    app.run()
    assert button(app, "Find the reasons") is None


@pytest.mark.slow
def test_reasons_of_two_models_of_which_one_has_no_heads(open_app, models):
    app = open_app("texas", PAGE, **{"second model": models["fiji"]})
    button(app, "Find the reasons").click().run()
    assert texts(app).count("Hiding the outlined part costs") == 2
    next(box for box in app.selectbox if box.label == "Answer").select_index(1).run()
    shown = texts(app)
    assert shown.count("Hiding the outlined part costs") == 1
    assert "has no head for the climate" in shown
    assert not app.exception


@pytest.mark.slow
def test_why_button_opens_the_context_page_with_its_photo(open_app):
    app = open_app("texas")
    files = [(f"{name}.jpg", photo_bytes(seed), "image/jpeg") for seed, name in enumerate("ab")]
    app.file_uploader[0].set_value(files).run()
    [button for button in app.button if button.label == "Why?"][1].click().run()
    assert not app.exception
    assert app.title[0].value == "What the model reads in a photo"
    box = next(box for box in app.selectbox if box.label == "Photo")
    assert box.value == hashlib.sha256(photo_bytes(1)).hexdigest()
    assert "b.jpg" in [caption.value.replace("\\", "") for caption in app.caption]
