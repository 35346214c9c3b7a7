"""Tests of the Context heads page: heads beside the map, two models, missing heads, reasons."""

import hashlib
import json

import pytest

from geoclip_core.earth.sphere import haversine_km
from tests.ui.conftest import ABIDJAN, ABILENE, SUVA, ended, photo_bytes, texts
from ui import context
from ui.photos import TrayPhoto
from ui.theme import LIGHT

PAGE = "pages/1_Context_heads.py"


def bars(app, key):
    """Value and style of the bars of one panel, in order."""
    for element in app.get("bidi_component"):
        if f"-{key}" in element.proto.id:
            lines = json.loads(element.proto.json)["lines"]
            return [(line["value"], line["style"]) for line in lines]
    raise AssertionError(f"no bars {key}")


def field(app, feature):
    return next(box for box in app.selectbox if box.label == f"Overrule the {feature}")


@pytest.mark.slow
def test_agreement_and_contradiction_are_said_and_are_not_green(open_app):
    app = open_app("texas", PAGE, **{"second model": "None"})
    app.file_uploader[0].set_value([("a.jpg", photo_bytes(3), "image/jpeg")]).run()
    shown = texts(app).replace("\\", "")
    # The climate head says BWh; Abilene in the raster of Beck et al. is BSh.
    assert (
        "The head reads **BWh, arid, desert, hot**; the climate at the pin is **BSh, arid, "
        "steppe, hot**, which the head ranks"
    ) in shown
    assert "Head and pin agree on **United States**. Both come from this model" in shown
    assert ":green[" not in shown
    assert {"BWh", "BSh"} <= {value for value, _ in bars(app, "A climate bars")}


@pytest.mark.slow
def test_only_the_truth_is_green(open_app):
    app = open_app("texas", PAGE, **{"second model": "None"})
    at_home, away = photo_bytes(5, ABILENE), photo_bytes(6, ABIDJAN)
    files = [("us.jpg", at_home, "image/jpeg"), ("ci.jpg", away, "image/jpeg")]
    app.file_uploader[0].set_value(files).run()
    shown = texts(app).replace("\\", "")
    assert ":green[:material/check_circle: Right: it was taken in **United States**.]" in shown
    frames = dict(bars(app, "A country bars"))
    assert LIGHT.truth in frames["US"]
    next(box for box in app.selectbox if box.label == "Photo").select_index(1).run()
    shown = texts(app).replace("\\", "")
    assert "Wrong:] it was taken in **" in shown
    assert ":green[" not in shown
    frames = dict(bars(app, "A country bars"))
    assert LIGHT.truth in frames["CI"]
    assert LIGHT.best in frames["US"]


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
    assert "FJ" in dict(bars(app, "A country bars"))


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
def test_reasons_are_found_where_they_are_asked_and_kept(open_app):
    app = open_app("texas", PAGE, **{"second model": "None"})
    whys = [button for button in app.button if button.label == "Why?"]
    assert [one.key.split()[1:-1] for one in whys] == [["A"], ["A", "climate"], ["A", "country"]]
    whys[1].click().run()
    app.switch_page("pages/2_Evaluation.py").run()
    app.switch_page(PAGE).run()
    app = ended(app)
    assert not app.exception
    shown = texts(app).replace("\\", "")
    # This model gives the same answer for every photo, so no part can matter.
    assert (
        "**BWh, arid, desert, hot**. Probability 65 %. Hiding the outlined part costs **nothing**; "
        "hiding as much elsewhere costs nothing."
    ) in shown
    assert "No part stands out" in shown
    assert "Expected GeoScore" not in shown
    # the other answers were found with it
    next(button for button in app.button if button.label == "Why?").click().run()
    assert "Expected GeoScore" in texts(app)
    button(app, "Hide").click().run()
    assert "Expected GeoScore" not in texts(app)
    assert not app.exception


@pytest.mark.slow
def test_a_search_for_reasons_can_be_stopped(open_app):
    app = open_app("texas", PAGE, **{"second model": "None"})
    files = [("a.jpg", photo_bytes(77), "image/jpeg")]
    app.file_uploader[0].set_value(files).run()
    button(app, "Why?").click().run()
    if (stop := button(app, "Stop")) is not None:  # else it has ended
        stop.click().run()
        assert button(app, "Stop") is None
    app = ended(app)
    assert not app.exception
    assert len([one for one in app.button if one.label in ("Why?", "Hide")]) == 3


@pytest.mark.slow
def test_a_class_overrules_its_head_and_moves_the_pin(open_app, models):
    app = open_app("texas", PAGE, **{"second model": models["fiji"]})
    assert button(app, "Take everything back") is None
    field(app, "country").select("CI").run()
    shown = texts(app).replace("\\", "")
    assert "**A** With country Côte d'Ivoire given, the estimate moved" in shown.replace("’", "'")
    assert "**B** With country" in shown
    assert "it replaces what the country head read in the photo, and places on the map" in shown
    assert "Overruled: **" in shown
    # the bars still show what the head reads
    assert next(value for value, _ in bars(app, "A country bars")) == "US"
    assert not app.exception
    field(app, "climate").select("Aw").run()
    assert "climate Aw given" in texts(app)
    button(app, "Take everything back").click().run()
    assert field(app, "country").value is None
    assert "given, the estimate moved" not in texts(app)


@pytest.mark.slow
def test_what_contradicts_itself_is_said_and_changes_nothing(open_app):
    app = open_app("texas", PAGE, **{"second model": "None"})
    field(app, "country").select("FJ").run()
    field(app, "climate").select("EF").run()  # an ice cap in Fiji
    assert "contradict each other" in app.error[0].value
    assert "given, the estimate moved" not in texts(app)
    assert not app.exception


@pytest.mark.slow
def test_a_click_overrules_and_a_second_one_takes_it_back(monkeypatch):
    state = {}
    monkeypatch.setattr(context.st, "session_state", state)
    photo = TrayPhoto("a.jpg", b"", "d" * 64)
    context.overrule("country", photo, "CI")
    context.overrule("climate", photo, "Aw")
    assert dict(context.overruled_heads(photo)) == {"country": "CI", "climate": "Aw"}
    context.overrule("country", photo, "CI")
    context.overrule("climate", photo, "Af")
    assert context.overruled_heads(photo) == (("climate", "Af"),)
    assert context.overruled_heads(TrayPhoto("b.jpg", b"", "e" * 64)) == ()
    context.clear_overruled(photo)
    assert context.overruled_heads(photo) == ()


@pytest.mark.slow
def test_context_off_stands_beside_context_on(open_app, models):
    app = open_app("texas", PAGE, **{"second model": models["fiji"]})
    assert "Context off" not in texts(app)
    app.toggle(key="context off").set_value(True).run()
    shown = texts(app)
    assert shown.count("**Context off**") == 1  # fiji has no context
    assert "The context heads do not move this estimate." in shown  # its weights are 0
    assert not app.exception


def test_no_switch_without_context_heads(open_app):
    app = open_app("fiji", PAGE, **{"second model": "None"})
    assert not [toggle for toggle in app.toggle if toggle.key == "context off"]


@pytest.mark.slow
def test_the_second_model_is_proposed_by_sense(open_app):
    app = open_app("mini", PAGE)
    assert app.session_state["second model"] == "mini-plain"
    first = next(box for box in app.selectbox if box.label == "Model A")
    first.select("mini-plain").run()  # it has no context
    assert app.session_state["second model"] == "None"
    second = next(box for box in app.selectbox if box.label.startswith("Model B"))
    second.select("mini").run()
    next(box for box in app.selectbox if box.label == "Model A").select("mini").run()
    assert app.session_state["second model"] == "mini"  # what was chosen stays
    assert not app.exception


@pytest.mark.slow
def test_what_it_reads_opens_the_context_page_with_its_photo(open_app):
    app = open_app("texas")
    files = [(f"{name}.jpg", photo_bytes(seed), "image/jpeg") for seed, name in enumerate("ab")]
    app.file_uploader[0].set_value(files).run()
    [button for button in app.button if button.label == "What it reads"][1].click().run()
    assert not app.exception
    assert app.title[0].value == "What the model reads in a photo"
    box = next(box for box in app.selectbox if box.label == "Photo")
    assert box.value == hashlib.sha256(photo_bytes(1)).hexdigest()
    assert "b.jpg" in [caption.value.replace("\\", "") for caption in app.caption]


@pytest.mark.slow
def test_reasons_are_found_on_the_card_of_the_map(open_app):
    app = open_app("texas")
    button(app, "Why?").click().run()
    app = ended(app)
    assert "Hiding the outlined part costs **nothing**" in texts(app)
    assert app.title[0].value == "Where was this photo taken?"
    assert not app.exception
