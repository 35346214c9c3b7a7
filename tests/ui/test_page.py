"""Tests of what a session keeps: choices, photos, predictions."""

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest

from geoclip_core import explain
from geoclip_core.locator import EmbeddedPhoto, Geolocator
from geoclip_core.model.posterior import Posterior
from geoclip_core.prediction import Failure
from tests.ui.conftest import photo_bytes
from ui import models as ui_models
from ui import photos
from ui.models import ServedModel, Turns, accuracy_sentence, locate_photos
from ui.page import limits_and_misuse
from ui.photos import PhotoTray, TrayPhoto, _decoded, example_photo, problem, thumbnail
from ui.theme import LIGHT, rgb


def test_choose_selects_the_default_when_its_option_is_gone():
    def page():
        import streamlit as st

        from ui.page import choose

        options = st.session_state.get("options", ["a", "b"])
        st.write(f"chosen {choose('Run', options, 'run', default='b')}")

    app = AppTest.from_function(page).run()
    assert app.markdown[0].value == "chosen b"
    app.selectbox[0].select("a").run()
    app.session_state["options"] = ["b", "c"]
    app.run()
    assert app.markdown[0].value == "chosen b"
    app.session_state["options"] = []
    app.run()
    assert app.markdown[0].value == "chosen None"
    assert app.selectbox[0].disabled


def test_the_address_names_the_choice_and_only_what_is_offered():
    def page():
        import streamlit as st

        from ui.page import choose

        chosen = choose("Run", ["a", "b"], "run", address=("run", lambda name: f"run-{name}"))
        st.write(f"chosen {chosen}")

    app = AppTest.from_function(page)
    app.query_params["run"] = "run-b"
    app.run()
    assert app.markdown[0].value == "chosen b"
    app.selectbox[0].select("a").run()
    assert app.query_params["run"] == "run-a"
    for hostile in ("../../etc", "**bold** <b>", "\0", "x" * 5000, ""):
        app = AppTest.from_function(page)
        app.query_params["run"] = hostile
        app.run()
        assert not app.exception
        assert app.markdown[0].value == "chosen a"
        assert app.query_params["run"] == "run-a"
        assert "<b>" not in app.caption[0].value
        assert len(app.caption[0].value) < 400


def test_tray_adds_the_same_bytes_once():
    tray = PhotoTray()
    assert tray.add("a", b"1")
    assert not tray.add("b", b"1")
    assert [photo.name for photo in tray] == ["a"]
    tray.remove(next(iter(tray)).digest)
    tray.remove("never there")
    assert len(tray) == 0


def test_thumbnail_is_small_upright_and_without_exif():
    photo = TrayPhoto("big", photo_bytes(position=(10.0, 20.0), size=(2000, 1000)), "digest-big")
    image = Image.open(io.BytesIO(thumbnail(photo)))
    assert image.size == (640, 320)
    assert not image.getexif()


@pytest.mark.parametrize("way", ["remove", "clear"])
def test_removed_photo_leaves_no_thumbnail(way):
    tray, other = PhotoTray(), PhotoTray()
    tray.add("mine.jpg", photo_bytes(40))
    other.add("theirs.jpg", photo_bytes(41))
    (mine,), (theirs,) = tray, other
    kept = {photo.digest: thumbnail(photo) for photo in (mine, theirs)}
    assert photos._thumbnails.keys() >= kept.keys()
    tray.remove(mine.digest) if way == "remove" else tray.clear()
    assert mine.digest not in photos._thumbnails
    assert photos._thumbnails[theirs.digest] == kept[theirs.digest]


@pytest.mark.slow
def test_reasons_are_kept_without_the_photo(models):
    model = ServedModel(Geolocator.load(models["texas"]))
    photo = TrayPhoto("a.jpg", photo_bytes(42, size=(80, 60)), "digest-42")
    steps = []
    assert not model.has_explained(photo)
    model.explain(photo, lambda *step: steps.append(step))
    assert model.has_explained(photo)
    assert steps[-1][0] == steps[-1][1]
    assert not any("image" in vars(effect) for effect in model._effects["digest-42"].values())
    found = model.explanation(photo)
    assert found.file == "a.jpg"
    assert found.image.size == (80, 60)
    assert found.effects is model._effects["digest-42"]


@pytest.mark.slow
def test_a_search_for_reasons_runs_by_itself_and_can_be_stopped(models):
    model = ServedModel(Geolocator.load(models["texas"]))
    photo = TrayPhoto("a.jpg", photo_bytes(43, size=(80, 60)), "digest-43")
    assert model.search(photo) is None
    stopped = model.start_search(photo)
    stopped.stop()
    stopped.wait()
    assert not stopped.running
    assert not model.has_explained(photo)
    again = model.start_search(photo)
    assert again is not stopped
    assert model.start_search(photo) is again or not again.running
    again.wait()
    assert model.has_explained(photo)
    assert again.done == again.total > 0
    assert not again.problem
    broken = model.start_search(TrayPhoto("b.jpg", b"text", "digest-44"))
    broken.wait()
    assert "b.jpg is not a photo" in broken.problem


def test_colours_of_explanations_equal_the_palette():
    assert rgb(LIGHT.best) == explain.FOR
    assert rgb(LIGHT.candidate) == explain.AGAINST


def test_example_photo_can_be_read():
    assert problem(example_photo()) is None
    assert example_photo().example


def test_only_images_are_accepted_from_the_clipboard():
    assert _decoded({"name": "x.png", "data": "data:image/png;base64,AQID"}) == (
        "x.png",
        b"\x01\x02\x03",
    )
    for wrong in (None, {}, {"data": 5}, {"data": "data:text/html;base64,AQID"}, {"data": "x"}):
        assert _decoded(wrong) is None
    assert _decoded({"data": "data:image/png;base64,%%%"}) is None


@dataclass
class Answer:
    file: str
    exif: tuple[float, float] | None = None
    posterior = Posterior(np.zeros((1, 2)), np.zeros(1))
    without_given = None


class Locator:
    """Counts its predictions."""

    name = "counter"
    calls = 0

    def embed(self, photos, batch_size, lock):
        return (EmbeddedPhoto("photo", torch.zeros(2), None, 0.0) for _ in photos)

    def locate(self, photo, top_k, name, given, use_context):
        assert given is None
        self.calls += 1
        return Answer(name)


def test_photos_are_located_once_and_failures_do_not_stop_the_others():
    model = ServedModel(Locator())
    good = TrayPhoto("good.jpg", photo_bytes(5), "digest-5")
    again = TrayPhoto("renamed.jpg", good.content, good.digest)
    bad = TrayPhoto("bad.jpg", b"text", "digest-bad")
    rows = locate_photos(model, [[bad], [good], [again]])
    assert isinstance(rows[0], Failure)
    assert "bad.jpg" in rows[0].error
    assert [row.file for row in rows[1:]] == ["good.jpg", "renamed.jpg"]
    assert model.locator.calls == 1


def test_what_is_known_does_not_wait_for_the_model(models):
    """A new session gets its page, and hints and claims an answer, while others locate photos."""
    model = ServedModel(Geolocator.load(models["texas"]))
    photo = TrayPhoto("a.jpg", photo_bytes(60), "digest-60")
    answer = model.locate([photo])
    with ThreadPoolExecutor(1) as pool, model._turns:  # a long batch of another session
        assert pool.submit(model.locate, [photo]).result(timeout=300) is answer
        given = (("country", "CI"),)
        assert pool.submit(model.locate, [photo], given).result(timeout=300).without_given
        assert pool.submit(model.similar, photo, answer).result(timeout=300).note


def test_the_model_is_passed_on_in_turns():
    """Who has many batches, such as a search for reasons, waits for the others after each."""
    turns, order = Turns(), []

    def work(name):
        with turns:
            order.append(name)

    with ThreadPoolExecutor(2) as pool:
        with turns:
            for waiting, name in enumerate(("second", "third"), start=1):
                pool.submit(work, name)
                while len(turns._waiting) < waiting:
                    time.sleep(0.001)
        work("first again")
    assert order == ["second", "third", "first again"]
    work("alone")
    assert order[-1] == "alone"


def test_all_sessions_share_one_model(models, monkeypatch):
    loaded, load = [], Geolocator.load
    monkeypatch.setattr(Geolocator, "load", lambda name: loaded.append(name) or load(name))
    with ThreadPoolExecutor(10) as pool:
        served = list(pool.map(ui_models._load, [models["fiji"]] * 10, [60] * 10))
    assert loaded == [models["fiji"]]
    assert all(model is served[0] for model in served)


def test_answers_of_a_good_model_are_called_estimates():
    locator = Locator()
    locator.metrics = {"n": 12000, "median_km": 90.0, "accuracy_at_km": {"750": 0.9}}
    sentence = accuracy_sentence(locator)
    assert "Its answers are estimates" in sentence
    assert "90 km" in sentence
    assert "12,000 photos" in sentence


@pytest.mark.slow
def test_kept_answers_have_a_limit_in_bytes(models, monkeypatch):
    model = ServedModel(Geolocator.load(models["texas"]))
    first, second = (TrayPhoto(name, photo_bytes(n), name) for n, name in ((50, "a"), (51, "b")))
    model.locate([first])
    model.locate([second])
    assert model.known([first])
    monkeypatch.setattr(ui_models, "ANSWERS_BYTES", 1)
    model.locate([second])
    assert model.known([first]) is None
    assert model.known([second])  # the latest is always kept


def test_a_tray_is_full_at_its_limits(monkeypatch):
    tray = PhotoTray()
    monkeypatch.setattr(photos, "MAX_PHOTOS", 2)
    assert tray.add("a", b"1")
    assert tray.has_room(b"2")
    tray.add("b", b"2")
    assert not tray.has_room(b"3")
    monkeypatch.setattr(photos, "MAX_PHOTOS", 9)
    monkeypatch.setattr(photos, "MAX_TRAY_BYTES", 4)
    assert tray.has_room(b"33")
    assert not tray.has_room(b"333")


def test_the_limits_and_misuse_of_estimates_are_shown_from_the_file():
    shown = limits_and_misuse()
    assert "##### What an estimate is worth" in shown
    assert "##### Misuse" in shown
    assert "vulnerability" not in shown
    assert "](README" not in shown  # no page of the app has that address


@pytest.fixture
def chooser(tmp_path, monkeypatch):
    """Open a page with a choice of a folder; ``session_state["chosen"]`` is the result."""
    home = tmp_path / "home"
    for name in ("Pictures/2024", "Pictures/2023", ".ssh", "@eaDir", "Музыка"):
        (home / name).mkdir(parents=True)
    (home / "a.jpg").write_bytes(b"")
    (tmp_path / "outside").mkdir()
    (home / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    os.mkdir(os.fsencode(home) + b"/caf\xe9")
    monkeypatch.setenv("HOME", str(home))

    return lambda: AppTest.from_function(_chosen).run()


def _chosen():
    import streamlit as st

    from ui.page import choose_folder

    st.session_state["chosen"] = choose_folder("folder")


def open_folder(app, name):
    """Choose or type a folder."""
    box = app.selectbox[0]
    if name not in box.options:
        box.options.append(name)
    app = box.set_value(name).run()
    assert not app.exception, app.exception
    return app


@pytest.mark.skipif(os.name != "posix", reason="needs links, and HOME")
def test_a_folder_is_chosen_below_the_home_folder(chooser, tmp_path):
    home = tmp_path / "home"
    app = chooser()
    assert app.selectbox[0].options == ["Pictures", "Музыка"]
    assert app.session_state["chosen"] == home
    assert app.button[0].disabled
    app = open_folder(app, "Pictures")
    assert app.session_state["chosen"] == home / "Pictures"
    assert app.selectbox[0].options == ["2023", "2024"]
    app = open_folder(app, "2024")
    assert app.session_state["chosen"] == home / "Pictures" / "2024"
    app = app.button[0].click().run()
    assert app.session_state["chosen"] == home / "Pictures"
    for typed in ("no such", "/no/such", "~nobody-here"):
        app = open_folder(app, typed)
        assert f"There is no folder {typed}." in app.error[0].value.replace("\\", "")
        assert app.session_state["chosen"] == home / "Pictures"
    app = open_folder(app, "2023")
    assert app.session_state["chosen"] == home / "Pictures" / "2023"
    assert not app.error
    # only this computer reaches the app, so that any folder may be typed
    assert open_folder(app, str(tmp_path)).session_state["chosen"] == tmp_path


@pytest.mark.skipif(os.name != "posix", reason="needs HOME")
def test_a_folder_is_chosen_below_the_roots_if_other_computers_reach_the_app(
    chooser, tmp_path, monkeypatch
):
    monkeypatch.setattr("ui.page.reached_beyond_loopback", lambda: True)
    app = chooser()
    assert app.selectbox[0].options == []
    assert app.session_state["chosen"] is None
    for typed in (str(tmp_path / "home"), "~", "/", ".."):
        app = open_folder(app, typed)
        assert "outside the folders that this app may open" in app.error[0].value
        assert app.session_state["chosen"] is None
    share = tmp_path / "share"
    (share / "album").mkdir(parents=True)
    (share / "out").symlink_to(tmp_path / "outside", target_is_directory=True)
    monkeypatch.setenv("GEOCLIP_ROOTS", f"{share}{os.pathsep}{tmp_path / 'nothing'}")
    app = chooser()
    assert app.session_state["chosen"] == share
    assert app.selectbox[0].options == ["album"]
    app = open_folder(app, "album")
    app = app.button[0].click().run()
    assert app.session_state["chosen"] == share
    assert app.button[0].disabled
    monkeypatch.setenv("GEOCLIP_PUBLIC", "1")
    app = app.run()
    assert app.session_state["chosen"] is None
    assert not app.selectbox
