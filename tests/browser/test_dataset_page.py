"""Tests of the Dataset page in Chromium: 119,008 rows on the map, opened down to one photo."""

import re
import time

import pytest
from playwright.sync_api import expect

from geoclip_core.demo.dataset import write_demo
from tests.browser.conftest import PATIENCE_MS, click_until
from train.benchmarks.sessions import running_app
from ui.page import DATASETS_VARIABLE

pytestmark = pytest.mark.browser
HEXAGONS = ".js-plotly-plot .choroplethlayer path"
POINTS = ".js-plotly-plot .scattergeo path.point"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    write_demo(root / "demo", 300)
    write_demo(root / "large", 119_008, metadata_only=True)
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with running_app(log, **{DATASETS_VARIABLE: str(root)}) as running:
        yield running


def choose_dataset(page, name):
    box = page.get_by_role("combobox", name="Dataset")
    expect(box).to_be_visible()
    box.click()
    box.fill(name)
    box.press("Enter")


def headline(page, text):
    expect(page.get_by_text(re.compile(text)).first).to_be_visible()


def click_last(page, selector, text):
    """Click the last shape of the map, which lies on top, until the page shows ``text``."""
    page.locator(selector).last.wait_for(state="attached")
    shown = page.get_by_text(re.compile(text))
    click_until(page, page.locator(selector).last, lambda: shown.count() > 0)
    headline(page, text)


def wait_for_hexagons(page, least):
    """Wait until the map has ``least`` hexagons, more than that of the previous dataset."""
    page.wait_for_function(
        "([selector, least]) => document.querySelectorAll(selector).length >= least",
        arg=[HEXAGONS, least],
        timeout=PATIENCE_MS,
    )


def test_hexagons_open_into_points_and_a_photo(open_page):
    page = open_page("Dataset", height=1400)
    choose_dataset(page, "demo")
    headline(page, r"300 photos.*click a hexagon")
    expect(page.get_by_text("Synthetic demo set.")).to_be_visible()
    click_last(page, HEXAGONS, r"photos around \w+")
    click_last(page, POINTS, "Caption for pretraining: “A street photo")
    page.get_by_role("button", name="Back").click()
    headline(page, r"300 photos.*click a hexagon")


def test_all_rows_of_the_real_size_stay_fluid(open_page):
    page = open_page("Dataset", height=1400)
    choose_dataset(page, "large")
    headline(page, r"119,008 photos.*click a hexagon")
    wait_for_hexagons(page, 150)
    assert page.locator(HEXAGONS).count() < 700
    expect(page.get_by_text("are closer than 1 km").last).to_be_visible()
    started = time.monotonic()
    page.get_by_role("radio", name="Test").click()
    headline(page, r"17,\d{3} photos.*click a hexagon")
    assert time.monotonic() - started < 20
    page.emulate_media(color_scheme="dark")
    wait_for_hexagons(page, 150)
    click_last(page, HEXAGONS, r"photos around \w+")


def test_the_doctor_runs_beside_the_page(open_page):
    page = open_page("Dataset", height=1400)
    choose_dataset(page, "demo")
    headline(page, r"300 photos")
    page.get_by_role("radio", name="Check").click()
    page.get_by_role("button", name="Check this dataset").click()
    expect(page.get_by_text("Checking demo")).to_be_visible()
    # The page can be used while the check runs.
    page.get_by_role("radio", name="Add a dataset").click()
    headline(page, "Import your photos")
    page.get_by_role("radio", name="Check").click()
    headline(page, "No faults found.")
    expect(page.get_by_role("button", name="Check again")).to_be_enabled()
