"""Tests of the Evaluation page in Chromium without network, with the rows of OSV-Mini-129k."""

import re
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest
from playwright.sync_api import expect

from geoclip_core.earth.gazetteer import Gazetteer
from geoclip_core.evaluation.baselines import with_baselines
from geoclip_core.evaluation.evaluate import save_evaluation
from geoclip_core.evaluation.metrics import summarise, with_places
from geoclip_core.evaluation.predictions import write_predictions
from tests.browser.conftest import chromium, click_until
from tests.evaluation.synthetic_predictions import synthetic_predictions
from train.__main__ import main
from train.benchmarks.sessions import ROOT, running_app

pytestmark = pytest.mark.browser

ROWS = 119_008
MEMORY_LIMIT = 2 * 10**9
TABS = (
    *("Errors", "Error map", "By place, climate, month", "Context heads", "Certainty"),
    *("Difference map", "Best and worst", "All rows"),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A working folder with two evaluations of 119,008 photos."""
    folder = tmp_path_factory.mktemp("work")
    frame = with_places(synthetic_predictions(ROWS), Gazetteer.load())
    frame = with_baselines(frame, {"constant": np.tile([38.0, -105.0], (ROWS, 1))})
    for name, factor, context in (("with", 1.0, True), ("without", 1.3, False)):
        about = {"model": name, "dataset": "ten states", "split": "test", "use_context": context}
        table = frame.assign(error_km=(frame["error_km"] * factor).clip(upper=20_000))
        write_predictions(table, folder / "evaluations" / name / "predictions.parquet", about)
    shutil.copytree(ROOT / ".streamlit", folder / ".streamlit")
    return folder


@pytest.fixture(scope="module")
def server(work):
    """The app, started in the working folder; ``process`` gives its memory use."""
    chromium()
    with running_app(work / "log.txt", cwd=work) as running:
        yield running


def settled(page):
    """Wait until the server has answered and everything is drawn."""
    page.wait_for_timeout(200)
    page.wait_for_selector('[data-testid=stApp][data-test-script-state="notRunning"]')
    page.wait_for_function("!document.querySelector('[data-testid=stSkeleton]')")
    assert page.get_by_test_id("stException").count() == 0


def choose(page, label, option):
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option).first.click()
    page.keyboard.press("Escape")
    settled(page)


def resident_bytes(process):
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():  # not Linux: current use instead of the peak
        return psutil.Process(process.pid).memory_info().rss
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text()).group(1)) * 1024


def check_panel(panel, name):
    """Expect the charts of a panel and its download."""
    least = {"Error map": 2, "Errors": 2, "Certainty": 3, "Best and worst": 8}.get(name, 1)
    pictures = panel.locator(".js-plotly-plot, [data-testid=stImage] img")
    expect(pictures.nth(least - 1)).to_be_attached()
    expect(panel.get_by_test_id("stDownloadButton").first).to_be_visible()
    if name == "Error map":
        expect(panel.locator(".choroplethlayer path").first).to_be_attached()
        # Land is drawn only if this server's topojson was loaded.
        expect(panel.locator(".layer.land path").first).to_be_attached()
        expect(panel.locator(".scattergeo .point").first).to_be_attached()


def test_every_panel_draws_and_a_filter_changes_all_of_it(open_page, server):
    page = open_page("Evaluation")
    expect(page.get_by_text("119,008 photos").first).to_be_visible()
    settled(page)
    choose(page, "Compare with", re.compile("^with(out)?$"))
    page.get_by_text(re.compile("GeoScore (higher|lower) than with")).click()
    expect(page.locator(".headline.differences")).to_be_visible()
    choose(page, "State", "Texas")
    expect(page.get_by_text("of 119,008 photos")).to_be_visible()
    page.get_by_role("button", name="Clear filters").click()
    expect(page.get_by_text("of 119,008 photos")).to_have_count(0)
    expect(page.get_by_role("button", name="Remove Texas")).to_have_count(0)
    choose(page, "Month", "June")
    june = page.get_by_text("of 119,008 photos").inner_text()
    choose(page, "State", "Texas")
    expect(page.get_by_text("of 119,008 photos")).not_to_have_text(june)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for name in TABS:
            page.get_by_role("tab", name=name, exact=True).click()
            settled(page)
            check_panel(page.get_by_role("tabpanel", name=name, exact=True), name)
    assert resident_bytes(server.process) < MEMORY_LIMIT
    assert "Traceback" not in server.log


def test_an_area_opens_into_its_photos(open_page):
    page = open_page("Evaluation")
    expect(page.get_by_text("119,008 photos").first).to_be_visible()
    page.get_by_role("tab", name="Error map", exact=True).click()
    settled(page)
    expect(page.get_by_role("heading", name="From truth to guess: the selection")).to_be_visible()
    area = page.locator(".choroplethlayer path").nth(20)
    area.wait_for(state="attached")
    heading = page.get_by_role("heading", name=re.compile("From truth to guess: around"))
    click_until(page, area, heading.is_visible)
    expect(heading).to_be_visible()
    # the list follows the map, and can change its mind
    box = page.get_by_role("combobox", name=re.compile("^Open one of"))
    expect(box).to_have_value(re.compile("around"))
    box.fill("None")  # the list shows what is near the chosen area, until something is typed
    page.get_by_role("option", name="None", exact=True).click()
    settled(page)
    whole = page.get_by_role("heading", name="From truth to guess: the selection")
    expect(whole).to_be_visible()


def test_a_narrow_screen_needs_no_sideways_scrolling(open_page):
    page = open_page("Evaluation", width=400)
    expect(page.get_by_text("119,008 photos").first).to_be_visible()
    settled(page)
    main = page.get_by_test_id("stMain")
    assert main.evaluate("e => e.scrollWidth <= e.clientWidth + 1")


def test_the_headline_fits_a_laptop_and_scrolls_on_a_phone(open_page):
    page = open_page("Evaluation", width=1300)
    expect(page.get_by_text("119,008 photos").first).to_be_visible()
    settled(page)
    table = page.locator(".headline").first
    assert table.evaluate("e => e.scrollWidth <= e.clientWidth + 1")
    page.set_viewport_size({"width": 390, "height": 900})
    settled(page)
    assert table.evaluate("e => e.scrollWidth > e.clientWidth + 50")
    edge = table.evaluate("e => e.getBoundingClientRect().right")
    for name in ("50 %", "90 %"):
        cell = table.locator("th", has_text=name).bounding_box()
        assert cell["x"] + cell["width"] <= edge + 1
    # what is cut off has a scroll bar, which Playwright's Chromium itself does not draw
    bar = "e => [getComputedStyle(e).overflowX, getComputedStyle(e, '::-webkit-scrollbar').height]"
    assert table.evaluate(bar) == ["auto", "10px"]


def test_report_draws_with_the_network_cut(browser, tmp_path):
    frame = synthetic_predictions(300, candidates=False)
    about = {"model": "m", "dataset": "ten states"}
    save_evaluation(tmp_path / "run", frame, summarise(frame, resamples=0), about)
    output = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "run"), "--output", str(output)]) == 0
    context = browser.new_context(offline=True)
    page = context.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(output.as_uri())
    expect(page.locator(".choroplethlayer path").first).to_be_attached()
    expect(page.locator(".layer.land path").first).to_be_attached()
    assert page.locator(".js-plotly-plot .main-svg").count() > 20
    context.close()
    assert not errors
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
