"""Own photos become a model in Chromium, from an empty home folder and without a typed path.

``PHOTOS=100`` does it with as many photos.
"""

import os
import re
import shutil
import time

import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import expect

from geoclip_core.data.dataset import read_dataset
from geoclip_core.demo.dataset import write_demo
from geoclip_core.training.runs import list_runs
from tests.browser.conftest import map_frame
from tests.browser.test_evaluation_page import settled
from tests.data.geotagged import exif_of
from train.benchmarks.sessions import ROOT, running_app
from ui.training import runs

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PHOTOS = int(os.environ.get("PHOTOS", "30"))
LONG = 300_000


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An empty home folder, in which the app is started."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / ".streamlit", folder / ".streamlit")
    yield folder
    for run in list_runs(folder / "runs"):
        runs.kill(run)


@pytest.fixture(scope="module")
def server(home, tmp_path_factory):
    names = ("CACHE", "CONFIG", "DATA", "STATE")
    places = {f"XDG_{name}_HOME": str(home / f".{name.lower()}") for name in names}
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with running_app(log, cwd=home, HOME=str(home), **places) as running:
        yield running


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Drawn photos with an EXIF position and time, as from a phone."""
    demo = read_dataset(write_demo(tmp_path_factory.mktemp("demo") / "demo", PHOTOS))
    folder = tmp_path_factory.mktemp("phone")
    for number, row in enumerate(demo.table.to_dict("records")):
        time_known = pd.notna(row["captured_at"])
        taken = row["captured_at"].strftime("%Y:%m:%d %H:%M:%S") if time_known else None
        exif = exif_of((row["latitude"], row["longitude"]), taken, "+00:00")
        with Image.open(demo.root / row["path"]) as image:
            image.save(folder / f"IMG_{number:04}.jpg", exif=exif, quality=92)
    return sorted(folder.iterdir())


def test_photos_are_imported_trained_on_located_evaluated_and_reported(
    open_page, server, home, photos, tmp_path
):
    started = time.monotonic()
    page = open_page("Dataset", width=1300)
    expect(page.get_by_text("There is no dataset yet")).to_be_visible()
    page.locator(".st-key-import input[type=file]").first.set_input_files(photos)
    expect(page.get_by_role("button", name="Remove IMG_0000.jpg")).to_be_visible()
    settled(page)
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_text(f"{PHOTOS} photos added")).to_be_visible()
    # not the arrows of the boxes, which are also named so
    page.locator("[data-testid=stBaseButton-primary]", has_text=re.compile("Open$")).click()
    expect(page.get_by_role("combobox", name="Dataset")).to_have_value("my-photos")
    assert not list(home.rglob("dropped"))

    page.get_by_role("link", name="Train").click()
    expect(page.get_by_role("combobox", name="Recipe")).to_have_value("small")
    settled(page)
    page.get_by_role("button", name="Start training").click()
    head = page.locator(".st-key-run-head")
    expect(head).to_contain_text("finished", timeout=LONG)
    page.get_by_role("button", name="Open on the map page").click()
    map_frame(page)
    expect(page.get_by_role("combobox", name="Model")).to_have_value("small")

    page.get_by_role("link", name="Train").click()
    page.get_by_role("button", name="Open in Evaluation").click()
    expect(page.locator(".headline").first).to_contain_text("small")
    settled(page)
    page.get_by_role("button", name="Report", exact=True).click()
    button = page.get_by_role("button", name="Download the report")
    with page.expect_download() as downloaded:
        button.click()
    report = tmp_path / downloaded.value.suggested_filename
    downloaded.value.save_as(report)
    assert report.name == "small-report.html"
    assert "<h1>small</h1>" in report.read_text(encoding="utf-8")
    print(f"{PHOTOS} photos: {time.monotonic() - started:.0f} s")
    assert "Traceback" not in server.log
