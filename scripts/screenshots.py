"""Take the screenshots in docs/: `python scripts/screenshots.py`.

Runs the app on a free loopback port and takes screenshots of its pages with Chromium, with the two
openly licensed photos in scikit-learn's wheel (china.jpg and flower.jpg, CC BY 2.0). The Train,
Dataset, Play and Evaluation pages show a synthetic dataset and a model trained on it with the
recipe demo. Needs `requirements-dev.txt` and Debian's chromium (or CHROMIUM set to its path).
"""

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
MAP = "iframe[title^='streamlit_folium']"
PATIENCE_MS = 600_000
"""Longest wait: finding the reasons takes minutes on a busy machine."""


@dataclass(frozen=True)
class Shot:
    """A screenshot: the page, what to do on it first, and the window."""

    name: str
    path: str
    prepare: Callable[[Page], None]
    width: int = 1400
    height: int = 1080
    dark: bool = False


def drop(*names: str, shown: str = "") -> Callable[[Page], None]:
    """Return a step that uploads photos and waits for their cards, or for the text ``shown``."""

    def prepare(page: Page) -> None:
        wait_for_map(page)
        images = files("sklearn.datasets") / "images"
        field = page.locator("input[type=file]").first
        field.set_input_files([str(images / name) for name in names])
        text = shown or f"{len(names)} · {names[-1]}"
        page.get_by_text(text).first.wait_for(timeout=PATIENCE_MS)
        wait_for_map(page)

    return prepare


def drop_with_heatmap(page: Page) -> None:
    """Upload the photo of the Summer Palace and switch on the heatmap."""
    drop("china.jpg")(page)
    page.get_by_text("Heatmap", exact=True).click()
    page.frame_locator(MAP).first.locator(".leaflet-images-pane img").first.wait_for(
        timeout=PATIENCE_MS
    )
    wait_for_map(page)


def find_reasons(page: Page) -> None:
    """Find the reasons for a photo and scroll to them."""
    drop("china.jpg", shown="china.jpg")(page)
    page.get_by_role("button", name="Why?").first.click()
    page.get_by_text("Hiding the outlined part costs").first.wait_for(timeout=PATIENCE_MS)
    page.get_by_role("button", name="Picture").last.scroll_into_view_if_needed()
    page.wait_for_timeout(1500)


def open_dataset(page: Page) -> None:
    """Wait for the dataset's map."""
    page.get_by_text("Explore", exact=True).wait_for(timeout=PATIENCE_MS)
    come_to_rest(page)


def open_run(page: Page) -> None:
    """Wait for the finished run's curves."""
    page.get_by_role("button", name="Open in Evaluation").wait_for(timeout=PATIENCE_MS)
    come_to_rest(page)


def open_evaluation(page: Page) -> None:
    """Open the run's evaluation."""
    open_run(page)
    page.get_by_role("button", name="Open in Evaluation").click()
    page.wait_for_url("**/Evaluation", timeout=PATIENCE_MS)
    come_to_rest(page)


def play_a_round(page: Page) -> None:
    """Guess the place of a drawn scene and wait for the guess of the model."""
    page.get_by_role("button", name="Play 5 rounds").click(timeout=PATIENCE_MS)
    field = page.get_by_role("textbox", name="Or type a place")
    field.fill("Oklahoma, United States", timeout=PATIENCE_MS)
    field.press("Enter")
    page.get_by_text("Your pin").wait_for(timeout=PATIENCE_MS)
    page.get_by_role("button", name="Guess", exact=True).click(timeout=PATIENCE_MS)
    page.get_by_role("cell", name="A mini").wait_for(timeout=PATIENCE_MS)
    wait_for_map(page)


def come_to_rest(page: Page) -> None:
    """Wait until the page has finished and its charts are drawn."""
    page.locator("[data-test-script-state=notRunning]").wait_for(timeout=PATIENCE_MS)
    page.locator(".js-plotly-plot").first.wait_for(timeout=PATIENCE_MS)
    page.wait_for_timeout(6000)


def wait_for_map(page: Page) -> None:
    """Wait until the page has finished and its map is drawn."""
    page.locator("[data-test-script-state=notRunning]").wait_for(timeout=PATIENCE_MS)
    page.frame_locator(MAP).first.locator("[data-borders=drawn]").wait_for(timeout=PATIENCE_MS)
    page.wait_for_timeout(1500)


SHOTS = (
    Shot("map-page", "", drop_with_heatmap),
    Shot("map-page-dark", "", drop("china.jpg", "flower.jpg"), dark=True),
    Shot("map-page-narrow", "", drop("china.jpg"), width=390, height=1500),
    Shot("context-page", "Context_heads", drop("china.jpg", shown="china.jpg"), height=1500),
    Shot("reasons", "Context_heads", find_reasons, height=760),
    Shot("dataset-page", "Dataset", open_dataset, height=1200),
    Shot("play-page", "Play", play_a_round, height=1000),
    Shot("train-page", "Train", open_run, height=1200),
    Shot("evaluation-page", "Train", open_evaluation, height=1500),
)


def train(folder: Path) -> None:
    """Make a synthetic dataset and train on it, in ``folder/datasets`` and ``folder/runs``."""
    data = str(folder / "datasets" / "demo")
    commands = (
        ["demo-data", "--rows", "2000", "--output", data],
        ["fit", "--recipe", "demo", "--data", data, "--output", str(folder / "runs" / "demo")],
    )
    for command in commands:
        subprocess.run([sys.executable, "-m", "train", *command], cwd=ROOT, check=True)


@contextlib.contextmanager
def running_app(workspace: Path) -> Iterator[str]:
    """Run the app on a free port with the datasets and runs of a folder; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true"]
    command += ["--server.address=127.0.0.1", f"--server.port={port}"]
    places = {
        "GEOCLIP_DATASETS": str(workspace / "datasets"),
        "GEOCLIP_RUNS": str(workspace / "runs"),
    }
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, **places}
    )
    try:
        for _ in range(300):
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2).close()  # nosec B310
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def main() -> int:
    """Take all screenshots, or those named with --only."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs", help="folder for the screenshots"
    )
    parser.add_argument("--only", nargs="+", choices=[shot.name for shot in SHOTS], default=None)
    options = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        parser.error("Chromium is not installed: apt-get install chromium, or set CHROMIUM")
    options.output.mkdir(parents=True, exist_ok=True)
    wanted = [shot for shot in SHOTS if not options.only or shot.name in options.only]
    with tempfile.TemporaryDirectory(prefix="screenshots-") as workspace:
        if any(shot.path in ("Dataset", "Play", "Train") for shot in wanted):
            train(Path(workspace))
        take(wanted, options.output, chromium, Path(workspace))
    return 0


def take(shots: Sequence[Shot], output: Path, chromium: str, workspace: Path) -> None:
    """Take screenshots of the pages."""
    with running_app(workspace) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        for shot in shots:
            page = browser.new_page(
                viewport={"width": shot.width, "height": shot.height},
                color_scheme="dark" if shot.dark else "light",
            )
            page.goto(f"{address}/{shot.path}")
            shot.prepare(page)
            target = output / f"{shot.name}.png"
            page.screenshot(path=target)
            page.close()
            print(f"{target} ({target.stat().st_size / 1024:.0f} kB)")
        browser.close()


if __name__ == "__main__":
    raise SystemExit(main())
