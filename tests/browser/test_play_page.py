"""A game on the Play page in Chromium: by click, by tap, by keyboard and by name."""

import re

import pytest
from playwright.sync_api import expect

from geoclip_core.demo.dataset import write_demo
from tests.browser.conftest import act_until, map_frame
from train.benchmarks.sessions import running_app
from ui.page import DATASETS_VARIABLE, RUNS_VARIABLE

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("play")
    write_demo(root / "datasets" / "demo", 60)
    places = {DATASETS_VARIABLE: str(root / "datasets"), RUNS_VARIABLE: str(root / "runs")}
    with running_app(root / "log.txt", **places) as running:
        yield running
        for word in ("Traceback", "Error", "deprecat", "Warning"):
            assert word not in running.log, running.log


def pin(page):
    return page.get_by_text("Your pin:")


def point(page, x=0.5, y=0.5):
    """Where a point of the map, in shares of its width and height, is on the page."""
    box = map_frame(page).locator(".map-ask").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def view(page):
    """Zoom and middle of the map."""
    return (
        map_frame(page)
        .locator(".map-ask")
        .evaluate(
            "() => [window.map.getZoom(), window.map.getCenter().lat, window.map.getCenter().lng]"
        )
    )


def confirm(page, number):
    """Guess by keyboard, and see the answer of the round with the guess of the model."""
    button = page.get_by_role("button", name="Guess", exact=True)
    answer = page.get_by_text(" of 5,000 points")
    act_until(page, lambda: press(button), answer.is_visible)
    expect(page.get_by_text(f"Round {number} of 5")).to_be_visible()
    expect(page.get_by_role("cell", name="A mini")).to_be_visible()
    legend = map_frame(page).locator(".map-legend")
    expect(legend).to_contain_text("Where it was taken")
    expect(legend).to_contain_text("A: mini")
    fits(page)


def go_on(page, name="Next round"):
    button = page.get_by_role("button", name=name)
    answer = page.get_by_text(" of 5,000 points")
    act_until(page, lambda: press(button), lambda: not answer.is_visible())


def press(button):
    """Press a button by keyboard, if it is still there."""
    if button.is_visible():
        button.press("Enter")


def fits(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def typed(page, text):
    field = page.get_by_role("textbox", name="Or type a place")
    field.fill(text)
    field.press("Enter")


def test_a_game_of_five_rounds(open_page):
    page = open_page("Play", width=1300, has_touch=True)
    page.get_by_role("button", name="Play 5 rounds").click()

    # by mouse; zoom and place of the map stay
    expect(page.get_by_text("Round 1 of 5")).to_be_visible()
    expect(page.get_by_role("button", name="Guess", exact=True)).to_be_disabled()
    frame = map_frame(page)
    frame.get_by_role("button", name="Zoom in").click()
    page.wait_for_timeout(1000)
    before = view(page)
    act_until(page, lambda: page.mouse.click(*point(page, 0.4, 0.6)), pin(page).is_visible)
    expect(frame.locator(".map-pin")).to_have_text("?")
    first = pin(page).inner_text()
    act_until(
        page,
        lambda: page.mouse.click(*point(page, 0.6, 0.4)),
        lambda: pin(page).inner_text() != first,
    )
    assert view(page) == before
    fits(page)
    confirm(page, 1)
    go_on(page)

    # by keyboard alone: Enter puts the pin in the middle
    expect(page.get_by_text("Round 2 of 5")).to_be_visible()
    assert not pin(page).count()
    world = map_frame(page).locator(".map-ask")
    world.press("ArrowRight")
    expect(world.locator(".map-crosshair")).to_be_visible()
    page.wait_for_timeout(1000)
    act_until(page, lambda: world.press("Enter"), pin(page).is_visible)
    _, latitude, longitude = view(page)
    shown = re.findall(r"-?\d+\.\d{4}", pin(page).inner_text())
    assert [float(value) for value in shown[:2]] == pytest.approx([latitude, longitude], abs=0.001)
    confirm(page, 2)
    go_on(page)

    # on a phone: by tap
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.get_by_text("Round 3 of 5")).to_be_visible()
    map_frame(page).locator(".map-ask").scroll_into_view_if_needed()
    act_until(page, lambda: page.touchscreen.tap(*point(page)), pin(page).is_visible)
    fits(page)
    confirm(page, 3)
    go_on(page)

    # by the name of a place: the map moves there
    expect(page.get_by_text("Round 4 of 5")).to_be_visible()
    map_frame(page)
    act_until(page, lambda: typed(page, "Suva, Fiji"), pin(page).is_visible)
    expect(pin(page)).to_contain_text("Fiji")
    expect(map_frame(page).locator(".map-pin")).to_be_in_viewport()
    confirm(page, 4)
    go_on(page)

    # in the dark: by coordinates
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 1300, "height": 1000})
    expect(page.get_by_text("Round 5 of 5")).to_be_visible()
    act_until(page, lambda: typed(page, "32.4487, -99.7331"), pin(page).is_visible)
    expect(pin(page)).to_contain_text("Abilene")
    confirm(page, 5)
    go_on(page, "See the result")

    expect(page.get_by_text(" of 25,000 points")).to_be_visible()
    expect(page.locator(".js-plotly-plot .bars path")).to_have_count(10)
    for width in (390, 1300):
        page.set_viewport_size({"width": width, "height": 1000})
        expect(map_frame(page).locator(".map-pin").first).to_be_visible()
        fits(page)
    for name, ending in (("Guesses (CSV)", "csv"), ("Games (JSON)", "json")):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        assert download.value.suggested_filename.endswith(ending)

    page.reload()
    expect(page.get_by_role("button", name="Play 5 rounds")).to_be_visible()
    assert not page.get_by_text("Your games in this session").count()
