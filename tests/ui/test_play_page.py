"""Tests of the Play page: a game against models, and what it says without photos."""

import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from geoclip_core.data.dataset import read_dataset
from geoclip_core.demo.dataset import write_demo
from tests.ui.conftest import ABIDJAN, ABILENE, ROOT, SUVA, photo_bytes, texts
from ui.page import DATASETS_VARIABLE, PUBLIC_VARIABLE, RUNS_VARIABLE

PAGE = "pages/5_Play.py"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("demo") / "demo", 60)


@pytest.fixture
def folder(tmp_path, monkeypatch, models):
    """The folder of datasets; the runs are "texas" and "fiji", which always answer there."""
    monkeypatch.setenv(DATASETS_VARIABLE, str(tmp_path / "datasets"))
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path / "runs"))
    for name, checkpoint in models.items():
        shutil.copytree(checkpoint, tmp_path / "runs" / name / "checkpoint")
    return tmp_path / "datasets"


@pytest.fixture
def open_page(folder):
    def opened(dataset=None, models=("texas", "fiji"), **session):
        app = AppTest.from_file(str(ROOT / PAGE), default_timeout=180)
        if dataset is not None:
            app.session_state["dataset"] = str(dataset)
        app.session_state["play models"] = [str(folder.parent / "runs" / name) for name in models]
        for key, value in session.items():
            app.session_state[key.replace("_", " ")] = value
        app.run()
        assert not app.exception, app.exception
        return app

    return opened


def shown(app):
    """All the text of the page without Markdown's backslashes, and the pictures' alternatives."""
    parts = [texts(app), *(str(box.value) for box in (*app.warning, *app.success, *app.subheader))]
    return "\n".join([*parts, *map(str, app.get("image"))]).replace("\\", "")


def press(app, label):
    found = [button for button in app.button if button.label == label]
    assert found, [button.label for button in app.button]
    app = found[-1].click().run()
    assert not app.exception, app.exception
    return app


def guess(app, place):
    """Type a place and confirm it."""
    field = next(box for box in app.text_input if box.label == "Or type a place")
    app = field.set_value(place).run()
    assert not app.exception, app.exception
    return press(app, "Guess")


def game_of(app):
    return app.session_state["kept:play"].games[-1]


def test_a_game_of_five_rounds_against_two_models(open_page, demo):
    app = open_page(demo)
    app = press(app, "Play 5 rounds")
    table = read_dataset(demo).table.set_index("path")
    photos = [one.photo for one in game_of(app).rounds]
    assert len(set(photos)) == 5
    assert set(table.loc[photos, "split"]) == {"test"}
    for number in range(1, 6):
        one = game_of(app).current
        facts = table.loc[one.photo]
        text = shown(app)
        assert f"**Round {number} of 5**" in text
        for secret in (facts["id"], facts["city"], facts["state"], f"{facts['latitude']:.2f}"):
            assert secret not in text
        assert next(b for b in app.button if b.label == "Guess").disabled
        exact = f"{one.truth[0]:.4f}, {one.truth[1]:.4f}"
        app = guess(app, exact if number == 1 else "Abilene, Texas")
        text = shown(app)
        assert facts["id"] in text
        assert " of 5,000 points" in text
        if number == 1:
            assert "5,000 of 5,000 points" in text
        else:  # the model "texas" answers the same town
            assert one.score("texas") == pytest.approx(one.score("You"), abs=60)
        assert "**A** texas" in text
        assert "**B** fiji" in text
        assert one.score("fiji") < 100
        app = press(app, "Next round" if number < 5 else "See the result")
    game = game_of(app)
    points = sum(one.score("You") for one in game.rounds)
    text = shown(app)
    assert f"{points:,.0f} of 25,000 points" in text
    assert "| texas | 5 |" in text
    assert len(app.get("plotly_chart")) == 1
    assert {"Guesses (CSV)", "Games (JSON)"} <= {b.label for b in app.get("download_button")}

    app = press(app, "New game")
    assert "Your games in this session" in shown(app)
    app = press(app, "Play 5 rounds")
    again = {one.photo for one in game_of(app).rounds}
    fresh = set(table.index[table["split"] == "test"]) - set(photos)
    assert len(again & set(photos)) == max(0, 5 - len(fresh))
    app = press(guess(app, "Texas, United States"), "End this game")
    assert "All 2 games of this session" in shown(app)
    assert "| You | 6 |" in shown(app)


def test_rounds_are_drawn_from_the_chosen_region(open_page, demo):
    app = open_page(demo, play_held_out=False)
    app.selectbox(key="play region").select(("state", "Texas_US")).run()
    app = press(app, "Play 5 rounds")
    assert "Region: Texas, United States" in shown(app)
    table = read_dataset(demo).table.set_index("path")
    assert set(table.loc[[one.photo for one in game_of(app).rounds], "state"]) == {"Texas"}


def test_an_ambiguous_place_is_asked_and_an_unknown_one_explained(open_page, demo):
    app = press(open_page(demo, ()), "Play 5 rounds")
    field = next(box for box in app.text_input if box.label == "Or type a place")
    app = field.set_value("Georgia").run()
    assert game_of(app).current.guess is None
    app = app.radio[0].set_value("Georgia (country)").run()
    assert "Georgia" in shown(app)
    assert 41 < game_of(app).current.guess[0] < 44
    field = next(box for box in app.text_input if box.label == "Or type a place")
    app = field.set_value("Qqxqzt").run()
    assert not app.exception
    assert "o place is called" in shown(app)


def test_photos_that_vanish_during_a_game_are_left_out(open_page, tmp_path):
    root = write_demo(tmp_path / "datasets" / "gone", 40)
    app = press(open_page(root, ()), "Play 5 rounds")
    app = guess(app, "Abilene, Texas")
    shutil.rmtree(root / "test_images")
    app = press(app, "Next round")
    assert "The photo of this round is no longer in" in shown(app)
    for _ in range(4):
        app = press(app, "Leave it out")
    assert "of 5,000 points" in shown(app)
    app = press(press(app, "New game"), "Play 5 rounds")
    assert "photos can be shown: they are not in" in shown(app)


def test_a_dataset_without_photos_says_so(open_page, tmp_path):
    app = open_page(write_demo(tmp_path / "datasets" / "tables", 40, metadata_only=True))
    app = press(app, "Play 5 rounds")
    assert "they are not in" in shown(app)
    assert not app.session_state["kept:play"].games


def test_without_a_dataset_it_offers_to_draw_one(open_page):
    app = open_page()
    assert "There is no dataset yet" in shown(app)
    assert "Draw a demo set of 2,000" in [button.label for button in app.button]


def test_without_a_dataset_a_public_page_offers_own_photos(open_page, monkeypatch):
    monkeypatch.setenv(PUBLIC_VARIABLE, "1")
    app = open_page()
    assert "Play with your own photos" in shown(app)
    assert not app.button
    app.button_group(key="play photos").set_value("My own photos").run()
    assert not app.exception
    assert app.file_uploader


def test_a_broken_table_gives_the_reason(open_page, tmp_path):
    root = write_demo(tmp_path / "datasets" / "broken", 40, metadata_only=True)
    (root / "train_mini.csv").write_text("id,latitude,longitude\n1,north,2\n")
    app = open_page(root)
    assert "'north' is not a number" in shown(app)


def own_photos(app, *files):
    app.button_group(key="play photos").set_value("My own photos").run()
    app.file_uploader[0].set_value([(name, content, "image/jpeg") for name, content in files])
    app.run()
    assert not app.exception, app.exception
    return app


def test_own_photos_are_played_by_their_exif_position(open_page):
    places = (ABILENE, (-ABIDJAN[0], 10.0), SUVA)
    files = [(f"trip {i}.jpg", photo_bytes(i, place)) for i, place in enumerate(places)]
    app = own_photos(
        open_page(models=["fiji"]),
        *files,
        ("plain [x](y).jpg", photo_bytes(9)),
        ("broken.jpg", b"no photo"),
    )
    text = shown(app)
    assert "No position in the metadata of plain [x](y).jpg: they cannot be played" in text
    assert "broken.jpg" in text
    app = press(app, "Play 3 rounds")
    for _ in range(3):
        truth = game_of(app).current.truth
        assert any(truth == pytest.approx(place, abs=1e-3) for place in places)
        assert ".jpg" not in shown(app)
        app = guess(app, "Suva, Fiji")
        assert "trip " in shown(app)
        app = press(app, next(b.label for b in app.button if b.key == "play next"))
    assert max(one.score("fiji") for one in game_of(app).rounds) > 4990


def test_own_photos_that_were_cleared_are_not_shown(open_page):
    app = own_photos(open_page(models=[]), ("a.jpg", photo_bytes(1, ABILENE)))
    app = press(app, "Play 1 round")
    app.session_state["kept:photo tray"].clear()
    app.run()
    assert "no longer among your photos" in shown(app)
    assert not app.get("image")
    app = press(app, "End this game")
    assert "Drop photos that have a GPS position" in shown(app)


def test_a_model_that_cannot_be_loaded_does_not_stop_the_game(open_page, demo, folder):
    app = press(open_page(demo, ["texas"]), "Play 5 rounds")
    for file in Path(folder.parent / "runs" / "texas" / "checkpoint").glob("*.safetensors"):
        file.write_bytes(b"")
    config = folder.parent / "runs" / "texas" / "checkpoint" / "config.json"
    config.write_text("{}")
    app = guess(app, "Abilene, Texas")
    assert "cannot be loaded" in shown(app)
    assert "**Round 2 of 5**" in shown(press(app, "Next round"))
