"""Tests of the choice of a folder to import, in Chromium."""

import pytest
from playwright.sync_api import expect

from tests.data.geotagged import write_photo
from train.benchmarks.sessions import running_app
from ui.page import DATASETS_VARIABLE

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    write_photo(home / ("holiday" * 30) / "a.jpg")
    write_photo(home / "photos" / "a.jpg")
    log = tmp_path_factory.mktemp("server") / "log.txt"
    places = {"HOME": str(home), DATASETS_VARIABLE: str(home / "datasets")}
    with running_app(log, **places) as running:
        yield running


def test_long_names_end_in_an_ellipsis_and_photos_are_counted(open_page):
    page = open_page("Dataset", width=1000)
    page.locator(".st-key-import").get_by_text("Choose a folder").first.click()
    box = page.get_by_role("combobox", name="Open a folder")
    expect(box).to_have_attribute("placeholder", "2 folders here")
    box.click()
    text = page.get_by_role("option").locator("div").first
    assert text.evaluate("e => e.scrollWidth > e.clientWidth")
    style = text.evaluate("e => [getComputedStyle(e).textOverflow, getComputedStyle(e).display]")
    assert style == ["ellipsis", "block"]
    page.get_by_role("option", name="photos").click()
    expect(page.locator(".st-key-import").get_by_text("~/photos")).to_be_visible()
    expect(box).to_have_attribute("placeholder", "No folders here, 1 photo")
