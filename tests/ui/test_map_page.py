"""Tests of the Map page: uploads, cards, views and downloads."""

import io
import re
from dataclasses import replace

import pytest
from PIL import Image
from PIL.ExifTags import Base

import ui.map_page
import ui.models
from geoclip_core.locator import Geolocator
from tests.ui.conftest import ABILENE, photo_bytes, texts
from ui.photos import example_photo


def upload(app, *files):
    """Drop (name, bytes) files on the page."""
    return app.file_uploader[0].set_value([(*file, "image/jpeg") for file in files]).run()


def test_first_start_shows_an_example(open_app):
    app = open_app()
    shown = texts(app)
    assert "Where was this photo taken?" in shown
    assert "An example:" in shown
    assert "#### Probably" in shown
    assert "The pin: Abilene, Taylor County, Texas, United States" in shown
    # Not in the photo, but known: Abilene to Beijing, 11,000 km.
    assert "Taken at the Summer Palace in Beijing: 39.9985, 116.2731" in shown
    assert not [button for button in app.button if button.label in ("Clear all", "Remove")]


def test_page_states_privacy_and_accuracy(open_app):
    shown = texts(open_app())
    assert "not sent and not stored" in shown
    assert "not used for the guess" in shown
    assert "Its answers are hints and often wrong" in shown
    assert "4,150 km" in shown
    assert "20 % were within 750 km" in shown


def test_model_without_metrics_is_called_unmeasured(open_app):
    assert "has not been measured" in texts(open_app("fiji"))


def test_uploaded_photo_gets_a_card(open_app):
    app = upload(open_app(), ("dog.jpg", photo_bytes()))
    shown = texts(app)
    assert "An example:" not in shown
    assert "1 · dog.jpg" in shown.replace("\\", "")
    assert f"{ABILENE[0]:.4f}, {ABILENE[1]:.4f}" in [code.value for code in app.code]
    assert "Even odds that it is within" in shown
    assert "No GPS in this photo" in shown
    assert "Estimated by texas in" in shown


@pytest.mark.slow
def test_unsure_model_has_a_note_on_its_card(open_app):
    assert "not sure" not in texts(open_app("texas"))
    # The example is a Chinese pavilion; mini was trained on street photos.
    app = open_app("mini")
    shown = texts(app).replace("\\", "")
    assert "(36\u00a0%): not sure even of the continent" in shown
    warning = app.warning[0].value.replace("\\", "")
    assert "Unlike the training photos (mini knows 350 photos of 89 countries" in warning


def test_card_has_a_ladder_of_levels_and_the_town_below_the_headline(open_app):
    app = upload(open_app(), ("dog.jpg", photo_bytes()))
    [ladder] = [block.body for block in app.get("html") if "continent: " in block.body]
    levels = ("North America", "Northern America", "United States", "Texas", "Eastland County")
    places = [ladder.index(f">{name}<") for name in levels]
    assert places == sorted(places)
    assert "Abilene" not in next(m.value for m in app.markdown if m.value.startswith("#### "))


def test_card_shows_date_and_camera_from_the_exif(open_app):
    image = Image.open(io.BytesIO(photo_bytes()))
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Model] = "Canon", "Canon EOS 5D"
    exif.get_ifd(0x8769)[Base.DateTimeOriginal] = "2019:07:14 10:30:00"
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=exif)
    shown = texts(upload(open_app(), ("dated.jpg", stream.getvalue()))).replace("\\", "")
    assert "2019-07-14 10:30 · Canon EOS 5D" in shown


def test_exif_position_is_compared_with_the_guess(open_app):
    app = upload(open_app(), ("gps.jpg", photo_bytes(position=(32.0, -99.0))))
    shown = texts(app)
    assert "GPS of the photo: 32.0000, -99.0000" in shown
    assert "**85 km** off" in shown  # haversine, by hand: 0.449° north, 0.733° × cos 32.2° west


def test_broken_file_gets_an_error_card_and_the_others_are_located(open_app):
    app = upload(open_app(), ("notes.jpg", b"just text"), ("dog.jpg", photo_bytes(1)))
    assert len(app.error) == 1
    assert "notes" in app.error[0].value
    assert "2 · dog.jpg" in texts(app).replace("\\", "")


def test_markdown_in_file_names_is_escaped(open_app):
    name = "[x](javascript:alert(1)) `${1}` <b>.jpg"
    app = upload(open_app(), (name, photo_bytes()))
    card = next(caption.value for caption in app.caption if "javascript" in caption.value)
    assert r"\[x\]\(javascript\:" in card
    assert r"\<b\>" in card


def test_duplicate_photo_is_added_once(open_app):
    app = upload(open_app(), ("a.jpg", photo_bytes()), ("b.jpg", photo_bytes()))
    assert "has already been added" in app.toast[0].value
    assert not app.exception
    assert "2 · " not in texts(app)


def test_photo_can_be_removed_and_all_cleared(open_app):
    app = upload(open_app(), ("a.jpg", photo_bytes(1)), ("b.jpg", photo_bytes(2)))
    next(button for button in app.button if button.label == "Remove").click().run()
    shown = texts(app)
    assert "a.jpg" not in shown.replace("\\", "")
    assert "1 · b.jpg" in shown.replace("\\", "")
    next(button for button in app.button if button.label == "Clear all").click().run()
    assert "An example:" in texts(app)


@pytest.mark.parametrize(("view", "cards"), [("All photos", 3), ("One at a time", 1)])
def test_views_of_several_photos(open_app, view, cards):
    app = upload(open_app(), *((f"{i}.jpg", photo_bytes(i)) for i in range(3)))
    app.button_group(key="view").set_value(view).run()
    assert not app.exception
    assert len([code for code in app.code if "," in code.value]) == cards


def test_several_photos_as_one_place(open_app):
    files = [("a.jpg", photo_bytes(1)), ("broken.jpg", b"no"), ("b.jpg", photo_bytes(2))]
    app = upload(open_app(), *files)
    app.button_group(key="view").set_value("As one place").run()
    shown = texts(app).replace("\\", "")
    assert "1 · a.jpg + b.jpg" in shown
    assert len(app.code) == 1
    assert len(app.error) == 1


def test_all_layers_can_be_drawn_for_one_and_for_many(open_app):
    app = upload(open_app(), ("a.jpg", photo_bytes(1)))
    assert app.toggle(key="layer Radius").value
    assert app.toggle(key="layer Candidates").value
    app.toggle(key="layer Heatmap").set_value(True).run()
    assert not app.exception
    upload(app, ("b.jpg", photo_bytes(2, position=(-18.0, 178.0))))
    assert not app.exception
    off = app.toggle(key="no Candidates")
    assert (off.disabled, off.value) == (True, False)
    assert app.toggle(key="layer Heatmap").value
    upload(app, *((f"{i}.jpg", photo_bytes(i)) for i in range(3, 8)))
    assert app.toggle(key="no Radius").disabled
    app.button_group(key="view").set_value("One at a time").run()
    assert app.toggle(key="layer Radius").value
    assert app.toggle(key="layer Candidates").value


def test_photos_are_located_in_parts_and_can_be_stopped(open_app, monkeypatch):
    monkeypatch.setattr(ui.models, "_AT_A_TIME", 2)
    parts = []
    embed = Geolocator.embed

    def counted(self, photos, **options):
        parts.append(len(photos))
        return embed(self, photos, **options)

    monkeypatch.setattr(Geolocator, "embed", counted)
    files = [(f"{i}.jpg", photo_bytes(60 + i)) for i in range(5)]
    app = upload(open_app(), *files)
    assert [n for n in parts if n][-3:] == [2, 2, 1]
    assert len(app.code) == 5
    assert not [button for button in app.button if button.label == "Stop"]


def test_stopped_photos_are_left_out_until_they_are_asked_for(open_app, monkeypatch):
    monkeypatch.setattr(ui.models, "_AT_A_TIME", 2)
    monkeypatch.setattr(ui.map_page, "go_on", lambda: None)  # the page as it is between two parts
    app = upload(open_app(), *((f"{i}.jpg", photo_bytes(70 + i)) for i in range(5)))
    assert len(app.code) == 2
    next(button for button in app.button if button.label == "Stop").click().run()
    assert "Stopped: 2 of 5 photos are located." in texts(app)
    assert len(app.code) == 2
    monkeypatch.undo()
    next(button for button in app.button if button.label == "Locate the others").click().run()
    assert len(app.code) == 5
    assert "Stopped" not in texts(app)


def test_photos_of_one_place_are_removed_one_by_one_and_not_read_again(open_app, monkeypatch):
    files = [(f"{i}.jpg", photo_bytes(80 + i)) for i in range(3)]
    app = upload(open_app(), *files)
    monkeypatch.setattr(Geolocator, "_embed", lambda *_: pytest.fail("embedded again"))
    app.button_group(key="view").set_value("As one place").run()
    assert not app.exception
    assert "1 · 0.jpg + 1.jpg + 2.jpg" in texts(app).replace("\\", "")
    buttons = [button for button in app.button if button.label == "Remove"]
    assert len(buttons) == 3
    buttons[1].click().run()
    assert "1 · 0.jpg + 2.jpg" in texts(app).replace("\\", "")


def test_photos_that_do_not_fit_together_are_named(open_app, monkeypatch):
    monkeypatch.setattr(ui.models.Geolocator, "_together", misfitting(Geolocator._together))
    app = upload(open_app(), *((f"{i}.jpg", photo_bytes(90 + i)) for i in range(2)))
    app.button_group(key="view").set_value("As one place").run()
    [warning] = [w.value.replace("\\", "") for w in app.warning]
    assert "These photos do not fit together: 1 of 2 (1.jpg)" in warning


def misfitting(together):
    """Make every answer about several photos say that the last one speaks against it."""

    def answer(self, photos, *rest):
        found = together(self, photos, *rest)
        return replace(found, misfits=(photos[-1].file,)) if len(photos) > 1 else found

    return answer


def test_similar_photos_are_searched_for_when_asked(open_app):
    app = open_app("mini")
    assert "similar embeddings" not in texts(app)
    assert [block for block in app.expander if block.label == "Looks like these"]
    app.session_state[f"similar 1 {example_photo().digest}"] = True  # a click, for the browser
    app.run()
    assert not app.exception
    assert "the places of its training photos, not the photos" in texts(app)


def test_lost_photos_are_said_instead_of_an_example(open_app):
    app = open_app(**{"lost photos": "The app was restarted, so ..."})
    assert "The app was restarted" in app.warning[0].value
    assert "An example:" not in texts(app)
    app = upload(app, ("a.jpg", photo_bytes(1)))
    assert not app.warning
    assert "1 · a.jpg" in texts(app).replace("\\", "")


def test_first_start_offers_the_strong_model_in_a_sentence(open_app, monkeypatch):
    monkeypatch.setattr(ui.models, "is_offline", lambda: False)
    monkeypatch.setattr(ui.models, "installed_model", lambda name: None)
    assert "For better answers, download geoclip (1.75 GB, once)" in texts(open_app())
    monkeypatch.setattr(ui.models, "is_offline", lambda: True)
    assert "For better answers" not in texts(open_app())


def test_cards_of_many_photos_are_paged(open_app):
    app = upload(open_app(), *((f"{i}.jpg", photo_bytes(i)) for i in range(11)))
    assert not app.exception
    assert len(app.code) == 8


def test_model_that_cannot_be_loaded_gives_an_error_on_the_page(open_app):
    app = open_app("nowhere/such-a-folder/at-all")
    assert "cannot be loaded" in app.error[0].value
    assert app.file_uploader


@pytest.mark.slow
def test_photos_and_model_survive_a_change_of_page(open_app, models):
    app = upload(open_app("fiji"), ("dog.jpg", photo_bytes()))
    app.switch_page("pages/1_Context_heads.py").run()
    assert not app.exception
    assert "dog.jpg" in texts(app).replace("\\", "")
    assert app.sidebar.selectbox[0].value == models["fiji"]
    app.switch_page("app.py").run()
    assert "1 · dog.jpg" in texts(app).replace("\\", "")


def claim(app, text):
    return app.text_input(key="claim").set_value(text).run()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("Texas, United States (state)", "The photo fits **Texas, United States (state)**"),
        ("32.4487, -99.7331", "The photo fits **32.4487, -99.7331**"),
        ("Nairobi, Kenya", "The photo speaks against **Nairobi, Nairobi Area, Kenya**"),
    ],
)
def test_claim_is_answered_on_the_card_in_words(open_app, place, words):
    app = claim(upload(open_app(), ("dog.jpg", photo_bytes())), place)
    assert not app.exception
    shown = texts(app).replace("\\", "")
    assert words in shown
    assert "evidence, not proof" in shown


def test_claim_of_several_places_offers_them(open_app):
    app = claim(open_app(), "Georgia")
    choice = next(group for group in app.radio if "Which place" in group.label)
    shown = [option.replace("\\", "") for option in choice.options]
    assert shown[:2] == ["Georgia, United States (state)", "Georgia (country)"]
    choice.set_value("Georgia (country)").run()
    assert app.text_input(key="claim").value == "Georgia (country)"
    assert "**Georgia (country)**" in texts(app).replace("\\", "")


def test_claim_that_names_nothing_is_said(open_app):
    app = claim(open_app(), "<b>zzzzqq</b>")
    assert "No place is called" in texts(app)
    assert not app.exception
    app = claim(app, "95, 200")
    assert "is not on Earth" in texts(app).replace("\\", "")


def test_known_country_moves_the_pin_and_the_page_says_how_far_and_why(open_app):
    app = upload(open_app(), ("dog.jpg", photo_bytes()))
    before = app.code[0].value
    app.selectbox(key="hint country").set_value("FJ").run()
    assert not app.exception
    shown = texts(app).replace("\\", "")
    assert "#### In Fiji (given)" in shown
    assert app.code[0].value != before
    assert re.search(r"With country Fiji given, the estimate moved 1[01],\d{3} km, from Abi", shown)
    app.selectbox(key="hint climate").set_value("ET").run()  # no tundra in Fiji
    assert "they contradict each other" in app.error[0].value.replace("\\", "")
    next(button for button in app.button if button.label == "Forget all of it").click().run()
    assert app.code[0].value == before


def test_states_are_those_of_the_country_and_the_month_needs_a_head(open_app):
    app = open_app()
    assert app.selectbox(key="hint state").disabled
    assert app.selectbox(key="hint month").disabled
    app.selectbox(key="hint country").set_value("US").run()
    app.selectbox(key="hint state").set_value("Georgia, United States").run()
    assert "With country United States, state Georgia, United States given" in texts(app).replace(
        "\\", ""
    )
    app.selectbox(key="hint country").set_value("CI").run()
    assert app.selectbox(key="hint state").value is None
