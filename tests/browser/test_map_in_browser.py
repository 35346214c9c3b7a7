"""Tests of the Map and Context heads pages in Chromium, without internet."""

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import ROOT, act_until, click_until, map_frame

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
