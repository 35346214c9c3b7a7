"""Tests of the Map and Context heads pages in Chromium, without internet."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError, expect

from tests.browser.conftest import act_until, click_until, map_frame
from train.benchmarks.sessions import ROOT

pytestmark = pytest.mark.browser

EXAMPLE = ROOT / "static" / "examples" / "summer-palace.jpg"


def photo(name="palace.jpg", turn=90):
    """The example photo rotated, so that its bytes differ from the example's."""
    stream = io.BytesIO()
    Image.open(EXAMPLE).rotate(turn, expand=True).save(stream, "JPEG")
    return {"name": name, "mimeType": "image/jpeg", "buffer": stream.getvalue()}


def drop(page, *files):
    page.locator("input[type=file]").first.set_input_files(list(files))


def colours(screenshot):
    """Number of different colours in a picture."""
    pixels = np.asarray(Image.open(io.BytesIO(screenshot)).convert("RGB")).reshape(-1, 3)
    return len(np.unique(pixels, axis=0))


def test_dropped_photo_gets_a_pin_without_internet(open_page):
    page = open_page()
    map_frame(page)
    expect(page.get_by_text("An example:")).to_be_visible()
    drop(page, photo())
    expect(page.get_by_text("1 · palace.jpg")).to_be_visible()
    expect(page.get_by_text("Even odds that it is within")).to_be_visible()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        frame = map_frame(page)
        expect(frame.locator(".map-pin")).to_have_text("1")
        expect(frame.locator(".map-legend")).to_contain_text("Best guess")
        expect(frame.locator(".map-name").first).to_be_attached()
        picture = page.locator("iframe[title^='streamlit_folium']").screenshot()
        assert len(picture) > 20_000
        assert colours(picture) > 100


def test_broken_file_among_good_ones_gets_an_error_card(open_page):
    page = open_page()
    map_frame(page)
    broken = {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"only text"}
    drop(page, broken, photo(), photo("other.jpg", 180))
    expect(page.get_by_text("3 · other.jpg")).to_be_visible()
    expect(page.get_by_text("notes.jpg is not a photo")).to_be_visible()
    page.get_by_role("button", name="Clear all").click()
    expect(page.get_by_text("An example:")).to_be_visible()


def test_photo_is_pasted_with_the_keyboard_and_with_the_button(open_page):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    map_frame(page)
    page.evaluate(
        """async () => {
            const canvas = document.createElement("canvas");
            canvas.width = canvas.height = 64;
            const pen = canvas.getContext("2d");
            pen.fillStyle = "seagreen";
            pen.fillRect(0, 0, 64, 64);
            const png = await new Promise((done) => canvas.toBlob(done, "image/png"));
            await navigator.clipboard.write([new ClipboardItem({"image/png": png})]);
        }"""
    )
    pasted = page.get_by_text("1 · Pasted 1")

    def paste():
        page.locator("h1").click()
        page.keyboard.press("Control+V")

    act_until(page, paste, pasted.is_visible)
    expect(pasted).to_be_visible()
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("An example:")).to_be_visible()
    page.get_by_role("button", name="Paste").click()
    expect(page.get_by_text("1 · Pasted 1")).to_be_visible()


def test_map_stays_in_view_beside_long_lists(open_page):
    page = open_page(height=700)
    map_frame(page)
    drop(page, *(photo(f"{turn}.jpg", turn) for turn in (10, 20, 30)))
    last = page.get_by_text("3 · 30.jpg")
    expect(last).to_be_visible()
    map_frame(page)
    last.scroll_into_view_if_needed()
    expect(page.locator("iframe[title^='streamlit_folium']")).to_be_in_viewport(ratio=0.6)


def test_heatmap_camera_and_online_tiles_appear_only_when_switched_on(open_page):
    page = open_page()
    frame = map_frame(page)
    assert page.get_by_test_id("stCameraInput").count() == 0
    page.wait_for_timeout(500)
    assert page.beyond == []
    frame.locator(".leaflet-control-layers-toggle").press("Enter")
    switch = frame.get_by_text("OpenStreetMap (online)")
    click_until(page, switch, lambda: bool(page.beyond))
    assert page.beyond
    assert all(address.startswith("https://tile.openstreetmap.org/") for address in page.beyond)
    frame.get_by_text("Outlines (offline)").click()
    page.wait_for_timeout(500)
    page.beyond.clear()

    page.get_by_text("Heatmap", exact=True).click()
    # between the land and the borders
    expect(frame.locator(".leaflet-images-pane img").first).to_be_attached()
    page.get_by_text("Camera", exact=True).click()
    expect(page.get_by_test_id("stCameraInput")).to_be_visible()


def test_narrow_screen_shows_everything_without_sideways_scrolling(open_page):
    page = open_page(width=390, height=844, has_touch=True)
    frame = map_frame(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    expect(frame.locator(".map-pin")).to_be_visible()
    tops = [
        page.locator(f".st-key-{part}").bounding_box()["y"]
        for part in ("controls", "map-side", "cards")
    ]
    assert tops == sorted(tops)


def test_photo_is_chosen_with_the_keyboard_alone_and_kept_on_the_context_page(open_page):
    page = open_page()
    map_frame(page)
    button = page.get_by_test_id("stFileUploaderDropzone").get_by_role("button", name="Upload").last
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))

    def press():
        button.focus()
        page.keyboard.press("Enter")

    act_until(page, press, lambda: choosers)
    choosers[0].set_files(photo())
    expect(page.get_by_text("1 · palace.jpg")).to_be_visible()

    page.get_by_role("link", name="Context heads").click()
    expect(page.get_by_text("read in the photo").first).to_be_visible()
    expect(page.get_by_text("palace.jpg")).to_be_visible()
    frame = map_frame(page)
    expect(frame.locator(".map-pin").first).to_be_visible()
    expect(frame.locator(".leaflet-images-pane img").first).to_be_attached()


def test_the_model_stays_in_the_address(open_page):
    page = open_page()
    map_frame(page)
    box = page.get_by_role("combobox", name="Model", exact=True)
    expect(box).to_have_value("mini")
    box.click()
    page.get_by_role("option", name="mini-plain").click()
    page.wait_for_url("**/?*model=mini-plain*")
    page.reload()
    map_frame(page)
    expect(box).to_have_value("mini-plain")


def test_context_page_opens_by_its_own_address(open_page):
    page = open_page("Context_heads")
    for width in (1400, 390):
        page.set_viewport_size({"width": width, "height": 1000})
        map_frame(page)
        expect(page.get_by_text("What the model reads in a photo")).to_be_visible()
        expect(page.get_by_text("Both models chose the same place.")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_claim_and_known_country_are_drawn_on_the_map(open_page):
    page = open_page()
    map_frame(page)
    field = page.get_by_role("textbox", name="Check a claim")

    def ask():
        field.fill("Beijing, China")
        field.press("Enter")

    answer = page.get_by_text("This is evidence, not proof.")
    act_until(page, ask, answer.is_visible)
    legend = map_frame(page).locator(".map-legend")
    expect(legend).to_contain_text("Claimed place")
    page.get_by_text("Say what you know").click()
    country = page.get_by_role("combobox", name="Country").first

    def give():
        country.fill("Mongolia")
        country.press("Enter")

    moved = page.get_by_text("With country Mongolia given, the estimate moved")
    act_until(page, give, moved.is_visible)
    expect(moved).to_be_visible()
    expect(legend).to_contain_text("Without what you know")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def view_of(page):
    """Zoom and centre of the page's map, once it is drawn."""
    map_frame(page)
    frame = page.query_selector("iframe[title^='streamlit_folium']").content_frame()
    frame.wait_for_function("window.map && window.map.getSize().x > 0")
    page.wait_for_timeout(1000)
    return frame.evaluate("[map.getZoom(), map.getCenter().lat, map.getCenter().lng]")


def switch(page, name):
    """Click a switch and wait for the map that it draws."""
    before = page.locator("iframe[title^='streamlit_folium']").get_attribute("title")
    page.get_by_text(name, exact=True).click()
    page.wait_for_timeout(2500)
    assert before
    return view_of(page)


def test_zoom_survives_clicks_and_a_click_on_a_candidate_pans(open_page):
    page = open_page()
    frame = map_frame(page)
    zoom = view_of(page)[0]
    frame.locator(".leaflet-control-zoom-in").click()
    page.wait_for_timeout(700)
    frame.locator(".leaflet-control-zoom-in").click()
    page.wait_for_timeout(700)
    moved = view_of(page)
    assert moved[0] == zoom + 2
    row = page.locator("[data-map-at]").nth(2)
    latitude, longitude = map(float, row.get_attribute("data-map-at").split(","))
    row.click()
    panned = view_of(page)
    assert panned[0] == moved[0]
    assert panned[1:] == pytest.approx([latitude, longitude], abs=0.6)
    expect(frame.locator(".leaflet-popup-content")).to_be_visible()
    for name in ("Heatmap", "Radius", "Candidates", "Heatmap", "Radius"):
        assert switch(page, name) == pytest.approx(panned, abs=1e-3), name
    page.get_by_role("link", name="Context heads").click()
    expect(page.get_by_text("What the model reads in a photo")).to_be_visible()
    page.get_by_role("link", name="Map", exact=True).click()
    expect(page.get_by_text("An example:")).to_be_visible()
    assert view_of(page) == pytest.approx(panned, abs=1e-3)
    # by keyboard, and to a place that was out of view
    row = page.locator("[data-map-at]").nth(3)
    latitude, longitude = map(float, row.get_attribute("data-map-at").split(","))
    row.press("Enter")
    assert view_of(page)[1:] == pytest.approx([latitude, longitude], abs=0.6)


def test_towns_have_names_at_close_zoom(open_page):
    page = open_page()
    frame = map_frame(page)
    assert not frame.locator(".map-town").count()
    page.query_selector("iframe[title^='streamlit_folium']").content_frame().evaluate(
        "() => { map.setView([48.86, 2.35], 11, { animate: false }) }"
    )
    expect(frame.locator(".map-town", has_text="Paris").first).to_be_attached()
    assert frame.locator(".map-town").count() > 5


def same_photo(name, quality):
    """The example photo in other bytes, so that it gets the same place."""
    stream = io.BytesIO()
    Image.open(EXAMPLE).save(stream, "JPEG", quality=quality)
    return {"name": name, "mimeType": "image/jpeg", "buffer": stream.getvalue()}


def test_pins_of_one_place_are_joined_and_a_click_on_one_shows_its_card(open_page):
    page = open_page(height=700)
    map_frame(page)
    drop(page, *(same_photo(f"{quality}.jpg", quality) for quality in (95, 93, 91)))
    expect(page.get_by_text("3 · 91.jpg")).to_be_visible()
    frame = map_frame(page)
    joined = frame.locator(".map-pins")
    expect(joined).to_have_text("1, 2, 3")
    third = frame.locator(".map-pin:not(.map-pins)", has_text="3")
    act_until(page, joined.click, lambda: third.count() > 0)
    card = page.locator(".st-key-card-3")
    page.evaluate("window.scrollTo(0, 0)")
    third.click()
    expect(card).to_be_in_viewport()
    expect(frame.locator(".leaflet-popup-content")).to_contain_text("91.jpg")


def test_location_of_many_photos_is_stopped_with_results_and_goes_on(open_page):
    page = open_page()
    map_frame(page)
    drop(page, *(photo(f"{turn}.jpg", turn) for turn in range(3, 63, 3)))
    stop = page.get_by_role("button", name="Stop", exact=True)
    expect(page.get_by_text("1 · 3.jpg")).to_be_visible()  # while the others are located
    expect(stop).to_be_visible()
    stop.click()
    expect(page.get_by_text("Stopped:")).to_be_visible()
    assert map_frame(page).locator(".map-pin").count()
    others = page.get_by_role("button", name="Locate the others")

    def go_on():
        with contextlib.suppress(TimeoutError):  # it went on after all
            others.click(timeout=5000)

    act_until(page, go_on, lambda: not others.count())
    expect(stop).to_be_hidden()
    expect(others).to_be_hidden()
    expect(page.get_by_text("1 · 3.jpg")).to_be_visible()


def test_photos_that_a_reload_loses_are_said(open_page):
    page = open_page()
    map_frame(page)
    drop(page, photo())
    expect(page.get_by_text("1 · palace.jpg")).to_be_visible()
    page.reload()
    expect(page.get_by_text("This page was loaded anew, so the photo")).to_be_visible()
    expect(page.get_by_text("An example:")).to_be_hidden()
    drop(page, photo())
    expect(page.get_by_text("1 · palace.jpg")).to_be_visible()
    expect(page.get_by_text("This page was loaded anew")).to_be_hidden()


def test_coordinates_are_whole_and_copied_by_keyboard(open_page):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    map_frame(page)
    for width in (1300, 390):
        for scheme in ("light", "dark"):
            page.set_viewport_size({"width": width, "height": 1000})
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(1000)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            box = page.locator(".st-key-card-1 [data-testid='stCode'] pre").first
            assert box.evaluate("one => one.scrollWidth <= one.clientWidth + 1")
    code = page.locator(".st-key-card-1 [data-testid='stCode']").first
    code.focus()
    expect(code.get_by_role("button", name="Copy to clipboard")).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel") == "Copy to clipboard"
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    copied = page.evaluate("navigator.clipboard.readText()")
    shown = page.locator(".st-key-card-1 [data-testid='stCode'] code").first.inner_text()
    assert copied.strip() == shown.strip()
