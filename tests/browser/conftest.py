"""Fixtures for the app in Chromium; a test fails if the page sends a request beyond loopback."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = {"127.0.0.1", "localhost"}
START_SECONDS = 120
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


class Server:
    """The running app: its address and its log."""

    def __init__(self, address, log):
        self.address = address
        self._log = log

    @property
    def log(self):
        return self._log.read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def running_app(log, *options, address="127.0.0.1", uvicorn=False, cwd=ROOT, **environment):
    """Start the app on a free loopback port, with more options and environment variables.

    ``cwd`` is its working folder, in which it looks for evaluations and Streamlit's configuration.
    ``uvicorn`` starts it without Streamlit's own command, whose options do not count then.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py")]
    command += ["--server.headless=true"]
    command += [f"--server.address={address}", f"--server.port={port}", *options]
    if uvicorn:
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "app:app",
            f"--host={address}",
            f"--port={port}",
        ]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    variables = {**os.environ, "PYTHONPATH": paths, **environment}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, env=variables
        )
    reached = f"http://{'127.0.0.1' if address == '0.0.0.0' else address}:{port}"
    try:
        _wait_until_healthy(f"{reached}/_stcore/health", process, log)
        yield Server(reached, log)
    finally:
        stop(process)


def stop(process):
    """Stop a server, with SIGKILL if it does not stop in time."""
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The running app. A test module can override this fixture to set its environment.

    Its log must have neither errors nor deprecations at the end.
    """
    with running_app(tmp_path_factory.mktemp("server") / "log.txt") as running:
        yield running
        for word in ("Traceback", "Error", "deprecat", "Warning"):
            assert word not in running.log, running.log


def _wait_until_healthy(address, process, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"the app did not start:\n{log.read_text(encoding='utf-8')}")


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

    A page that is being redrawn loses the focus and ignores clicks and keys.
    """
    for _ in range(tries):
        if done():
            return
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
        box = shape.bounding_box() if shape.count() and not done() else None
        if box is not None:
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            page.mouse.move(x, y)
            page.wait_for_timeout(300)
            page.mouse.click(x, y)

    act_until(page, click, done)
