"""Fixtures for the app in Chromium; a test fails if the page sends a request beyond loopback."""

import os
import shutil
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from train.benchmarks.sessions import running_app

LOOPBACK = {"127.0.0.1", "localhost"}
PATIENCE_MS = 90_000
"""Longest wait for anything on a page; generous, because test machines are shared and slow."""
expect.set_options(timeout=PATIENCE_MS)


def chromium():
    """Path of Chromium. Without it a test fails in CI and is skipped elsewhere."""
    path = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if path:
        return path
    reason = "Chromium is not installed: `apt-get install chromium`, or set CHROMIUM to its path."
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser():
    path = chromium()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=path,
            args=[
                "--no-sandbox",
                "--disable-gpu",  # which would be emulated
                # Host names are not resolved either.
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ],
        )
        yield running
        running.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The running app. A test module can override this fixture to set its environment.

    Its log must have neither errors nor deprecations at the end.
    """
    with running_app(tmp_path_factory.mktemp("server") / "log.txt") as running:
        yield running
        for word in ("Traceback", "Error", "deprecat", "Warning"):
            assert word not in running.log, running.log


@pytest.fixture(scope="session")
def contexts(browser):
    """Browser contexts by their options; pages of one context share a cache and load faster."""
    made = {}

    def context(**options):
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = browser.new_context(**options)
        return made[key]

    yield context
    for one in made.values():
        one.close()


@pytest.fixture
def open_page(contexts, server):
    """Open a page of the app: ``open_page("Context_heads", width=390)``.

    ``page.beyond`` lists the addresses outside this computer that the page requested, and
    ``page.refused`` what the Content-Security-Policy kept from it. The test fails if they are not
    empty at the end.
    """
    pages = []

    def opened(path="", *, width=1400, height=1000, **options):
        page = contexts(**options).new_page()
        page.set_default_timeout(PATIENCE_MS)
        pages.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(reduced_motion="reduce", color_scheme="light")
        page.beyond, page.refused = [], []

        def listen(request):
            if urlsplit(request.url).hostname not in (*LOOPBACK, None):
                page.beyond.append(request.url)

        def read(message):
            if "Content Security Policy" in message.text:
                page.refused.append(message.text)

        page.on("console", read)
        # Not page.route, which would switch the cache off. No name is resolved, see `browser`.
        page.on("request", listen)
        page.on("websocket", listen)
        page.goto(f"{server.address}/{path}")
        return page

    yield opened
    for page in pages:
        page.close()
        assert not page.beyond, f"requested beyond this computer: {page.beyond}"
        assert not page.refused, page.refused


def map_frame(page):
    """The map's frame, once land and borders are drawn in it."""
    frame = page.frame_locator("iframe[title^='streamlit_folium']").first
    frame.locator("[data-borders='drawn']").wait_for(timeout=90_000)
    return frame


def act_until(page, act, done, tries=20):
    """Repeat an action until ``done()``.

    A page that is being redrawn loses the focus and ignores clicks and keys, and an action while
    its script runs starts that again.
    """
    running = page.locator("[data-test-script-state='running']")
    for _ in range(tries):
        if done():
            return
        for _ in range(100):
            if not running.count():
                break
            page.wait_for_timeout(150)
        act()
        for _ in range(20):
            page.wait_for_timeout(150)
            if done():
                return


def click_until(page, shape, done):
    """Click the middle of a shape on a map until ``done()``.

    Maps ignore clicks until they are fully drawn, and at the moment the mouse enters them.
    """

    def click():
        page.wait_for_timeout(1500)
        if not shape.count() or done():
            return
        shape.scroll_into_view_if_needed()
        box = shape.bounding_box()
        if box is not None:
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            page.mouse.move(x, y)
            page.wait_for_timeout(300)
            page.mouse.click(x, y)

    act_until(page, click, done)
