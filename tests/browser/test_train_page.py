"""Tests of trainings in Chromium: start, watch, restart the app, stop, resume, open on the map."""

import json
import re
import shutil

import pytest
from playwright.sync_api import expect

from geoclip_core.demo.dataset import write_demo
from geoclip_core.training.runs import Run, list_runs
from tests.browser.conftest import map_frame
from train.benchmarks.sessions import running_app
from ui.page import RUNS_VARIABLE
from ui.training import runs

pytestmark = pytest.mark.browser
LONG = 180_000


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "runs"
    yield folder
    for run in list_runs(folder):
        runs.kill(run)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("data") / "demo", 150)


@pytest.fixture(scope="module")
def environment(root, tmp_path_factory):
    # Embeddings go to a cache of their own, not to the developer's.
    return {RUNS_VARIABLE: str(root), "GEOCLIP_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def server(environment, tmp_path_factory):
    with running_app(tmp_path_factory.mktemp("server") / "log.txt", **environment) as running:
        yield running


@pytest.fixture(autouse=True)
def empty(root):
    """Every test begins without runs."""
    yield
    for run in list_runs(root):
        runs.kill(run)
    shutil.rmtree(root, ignore_errors=True)


def choose_data(page, folder):
    """Type the path of a dataset into the sidebar."""
    expect(page.get_by_role("button", name="Start training").first).to_be_visible()
    box = page.get_by_role("combobox", name="Dataset")
    box.click()
    box.fill(str(folder))
    box.press("Enter")
    # During a rerun the page shows both the old and the new button.
    button = page.get_by_role("button", name="Start training")
    expect(button.and_(page.locator(":disabled"))).to_have_count(0)
    expect(button).to_have_count(1)


def fill(page, label, value):
    box = page.get_by_role("spinbutton", name=label)
    box.fill(str(value))
    box.press("Enter")
    changed = page.get_by_test_id("stCaptionContainer").filter(has_text="Changed from the recipe")
    expect(changed).to_contain_text(f"{label.lower()} {value}")


def start_training(page, demo, epochs, patience=0):
    choose_data(page, demo)
    fill(page, "Epochs", epochs)
    page.get_by_text("More options").click()
    fill(page, "Patience", patience)
    page.get_by_role("button", name="Start training").click()
    expect(page.locator(".st-key-run-head")).to_be_visible()


def state(page, word, timeout=LONG):
    expect(page.locator(".st-key-run-head")).to_contain_text(word, timeout=timeout)


def test_start_watch_restart_the_app_stop_resume_open_on_the_map(
    open_page, demo, root, environment, tmp_path
):
    page = open_page("Train")
    with running_app(tmp_path / "log.txt", **environment) as first:
        page.goto(f"{first.address}/Train")
        start_training(page, demo, epochs=4000)  # more than can finish during the test
        state(page, "running")
    (run,) = list_runs(root)
    assert run.status.state == "running"  # though the app that started it is gone

    page = open_page("Train")
    state(page, "running")
    expect(page.get_by_test_id("stProgress")).to_contain_text("of 4000", timeout=LONG)
    expect(page.get_by_text("Error on the validation photos")).to_be_visible(timeout=LONG)

    page.reload()
    state(page, "running")
    second = open_page("Train")
    state(second, "running")
    steps = run.status.step
    second.get_by_role("button", name="Stop").click()
    state(page, "stopped")  # the first tab is updated without a click
    assert run.status.state == "stopped"
    assert run.status.step >= steps > 0

    page.get_by_role("button", name="Resume").click()
    state(page, "running")
    while "resumed at step" not in (run.folder / "log.txt").read_text():
        assert run.status.state == "running"
        page.wait_for_timeout(200)
    expect(page.get_by_test_id("stProgress")).to_contain_text("of 4000", timeout=LONG)
    runs.kill(run)
    state(page, "stopped", 20_000)
    numbers = [row["step"] for row in run.metrics()]
    assert numbers == sorted(numbers)

    page.get_by_role("button", name="Open on the map page").click()
    map_frame(page)
    expect(page.get_by_role("combobox", name="Model")).to_have_value(run.title)


def test_back_to_the_recipe_and_a_link_to_a_run(open_page, demo, root):
    page = open_page("Train")
    choose_data(page, demo)
    epochs = page.get_by_role("spinbutton", name="Epochs")
    before = epochs.input_value()
    fill(page, "Epochs", int(before) + 7)
    page.get_by_role("button", name="Back to the recipe").click()
    expect(page.get_by_text("Changed from the recipe")).to_have_count(0)
    expect(epochs).to_have_value(before)
    # what the browser shows is what the page has: another change reruns it
    fill(page, "Batch size", 16)
    expect(epochs).to_have_value(before)

    data = {"data": str(demo), "epochs": 3}
    for name in ("one", "two"):
        Run.create(root, name, data, "fit").update(state="stopped")
    page.reload()
    expect(page.locator(".st-key-run-head")).to_contain_text("two")
    run = page.get_by_role("combobox", name="Run", exact=True)
    page.get_by_text("All runs").click()
    run.click()
    page.get_by_role("option", name="one").click()
    expect(page.locator(".st-key-run-head")).to_contain_text("one")
    expect(page).to_have_url(re.compile(r"run=\d{8}-\d{6}-one"))
    page.reload()
    expect(page.locator(".st-key-run-head")).to_contain_text("one")
    expect(page.get_by_role("combobox", name="Dataset")).to_have_value(demo.name)


def test_finished_training_shows_its_numbers_and_opens_everywhere(open_page, demo, root):
    page = open_page("Train")
    start_training(page, demo, epochs=3)
    state(page, "finished")
    (run,) = list_runs(root)
    expect(page.get_by_test_id("stMetric").first).to_contain_text("Median error")
    page.get_by_role("button", name="Open in Context heads").click()
    expect(page.get_by_role("combobox", name="Model A")).to_have_value(run.title)
    page.get_by_role("link", name="Train").click()
    state(page, "finished")  # the choice of the run survives a change of page
    page.get_by_role("button", name="Open in Evaluation").click()
    about = json.loads((run.folder / "metrics.json").read_text())["about"]
    model = page.get_by_test_id("stSidebar").get_by_role("combobox", name="Model")
    expect(model).to_have_value(re.compile(re.escape(about["model"])))


def test_narrow_screen_shows_everything_without_sideways_scrolling(open_page, root):
    run = Run.create(root, "a-run-with-a-name-that-is-longer-than-a-phone", {"data": "x"}, "fit")
    for step in range(1, 30):
        values = {"train/loss": 9 / step, "val/median_km": 900 / step, "val/climate_top1": 0.5}
        run.log_metrics({"step": step, "time": float(step), **values})
    run.update(state="failed", error="The disk is full: free some space.", best={"median_km": 31.0})
    (run.folder / "log.txt").write_text("x" * 300 + "\n")
    page = open_page("Train", width=390, height=844)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        state(page, "failed")
        expect(page.get_by_text("The disk is full").first).to_be_visible()
        expect(page.locator(".js-plotly-plot").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
