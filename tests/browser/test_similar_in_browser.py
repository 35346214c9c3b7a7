"""Tests of "Looks like these" on the Map page in Chromium."""

import shutil

import pytest
from playwright.sync_api import expect

from geoclip_core.demo.dataset import write_demo
from tests.browser.conftest import act_until, map_frame
from tests.model import tiny_networks
from tests.training.tiny_training import run_fit
from train.benchmarks.sessions import running_app
from ui.page import DATASETS_VARIABLE, RUNS_VARIABLE

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The app with two runs: the dataset of "with-photos" is there, that of "moved" has moved."""
    root = tmp_path_factory.mktemp("similar")
    network = tiny_networks.write("resnet", root / "resnet", seed=1)
    for name in ("with-photos", "moved"):
        folder = root / "runs" / name
        write_demo(root / "datasets" / name, 60, seed=len(name), workers=1)
        run_fit(folder, root / "datasets" / name, network, epochs=1, val_fraction=0.3)
        assert (folder / "checkpoint").is_dir()
    shutil.move(root / "datasets" / "moved", root / "elsewhere")
    places = {DATASETS_VARIABLE: str(root / "datasets"), RUNS_VARIABLE: str(root / "runs")}
    with running_app(root / "log.txt", **places) as running:
        yield running
        for word in ("Traceback", "Error", "deprecat", "Warning"):
            assert word not in running.log, running.log


def look(page, answer):
    """Open the list, and wait for a text in it."""
    card = page.locator(".st-key-card-1")
    box = card.get_by_text("Looks like these")
    act_until(page, box.click, card.get_by_text(answer).is_visible)
    expect(card.get_by_text(answer)).to_be_visible()
    return card


def test_run_with_its_dataset_shows_photos_places_and_distances(open_page):
    page = open_page("?model=with-photos")
    map_frame(page)
    card = look(page, "The training photos with the most similar embeddings")
    pictures = card.get_by_alt_text("A training photo:")
    expect(pictures).to_have_count(5)
    for i in range(5):
        picture = pictures.nth(i)
        picture.scroll_into_view_if_needed()
        page.wait_for_function("one => one.naturalWidth > 0", arg=picture.element_handle())
    expect(card.get_by_text("from the pin")).to_have_count(5)
    frame = map_frame(page)
    expect(frame.locator(".map-legend")).to_contain_text("Similar training photo")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_shared_model_without_photos_shows_their_places(open_page):
    page = open_page("?model=mini")
    map_frame(page)
    card = look(page, "the places of its training photos, not the photos")
    expect(card.get_by_text("from the pin")).to_have_count(5)
    expect(card.get_by_alt_text("A training photo:")).to_have_count(0)
    expect(map_frame(page).locator(".map-legend")).to_contain_text("Similar training photo")


def test_moved_dataset_is_said(open_page):
    page = open_page("?model=moved")
    map_frame(page)
    card = look(page, "has moved")
    expect(card.get_by_text("from the pin")).to_have_count(0)
