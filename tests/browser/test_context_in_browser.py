"""Tests of the Context heads page in Chromium: heads are overruled, reasons survive."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import act_until, map_frame

pytestmark = pytest.mark.browser

SEARCH_MS = 400_000
"""Longest wait for reasons: 70 passes of the model on a shared machine."""


def bar(page, feature, value):
    """The bar of a class in the panel of model A."""
    return page.locator(f".st-key-A-{feature} li button[value={value}]")


def pin(page):
    """Where the pin of model A is on the map, as its coordinates in the page's text."""
    return page.get_by_text("The pin: ").first.inner_text()


def test_clicks_and_keys_overrule_heads_and_the_pin_moves(open_page):
    page = open_page("Context_heads", width=1300)
    map_frame(page)
    expect(bar(page, "country", "RU")).to_be_visible()
    at_first = pin(page)
    act_until(page, bar(page, "country", "RU").click, lambda: pin(page) != at_first)
    expect(page.get_by_text("With country Russia given, the estimate moved")).to_have_count(2)
    expect(page.get_by_text("The pin: ").first).to_contain_text("Russia")
    expect(bar(page, "country", "RU")).to_have_attribute("aria-pressed", "true")
    frame = map_frame(page)
    expect(frame.locator(".map-legend")).to_contain_text("Without what you know")
    in_russia = pin(page)

    def by_key():
        bar(page, "climate", "Dfc").focus()
        page.keyboard.press("Enter")

    act_until(page, by_key, lambda: pin(page) != in_russia)
    expect(page.get_by_text("climate Dfc given, the estimate moved")).to_have_count(2)

    page.get_by_text("Also show the answer with context off").click()
    expect(page.get_by_text("The context heads move the estimate by")).to_be_visible()
    expect(map_frame(page).locator(".map-legend")).to_contain_text("Context off")

    page.get_by_role("button", name="Take everything back").click()
    expect(page.get_by_text("given, the estimate moved")).to_have_count(0)
    expect(page.get_by_text("The pin: ").first).to_have_text(at_first)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1300])
def test_nothing_is_wider_than_the_window(open_page, width, scheme):
    page = open_page("Context_heads", width=width)
    page.emulate_media(color_scheme=scheme)
    expect(bar(page, "country", "RU")).to_be_visible()
    wide = page.evaluate(
        """() => [...document.querySelectorAll('[data-testid=stMain] li button')]
        .filter((one) => one.getBoundingClientRect().right > window.innerWidth
            || one.scrollWidth > one.clientWidth + 1)
        .map((one) => one.textContent)"""
    )
    assert wide == []


def test_reasons_survive_a_change_of_page(open_page):
    page = open_page("Context_heads", width=1300)
    panel = page.locator(".st-key-A-climate")
    ask, stop = (panel.get_by_role("button", name=name) for name in ("Why?", "Stop"))
    expect(ask).to_be_visible()
    act_until(page, lambda: ask.count() and ask.click(), lambda: stop.count() > 0)
    page.get_by_role("link", name="Map", exact=True).click()
    expect(page.get_by_role("heading", name="Where was this photo taken?")).to_be_visible()
    page.get_by_role("link", name="Context heads").click()
    sentence = panel.get_by_text("Hiding the outlined part costs")
    expect(sentence).to_be_visible(timeout=SEARCH_MS)
    expect(panel.get_by_alt_text("that support")).to_be_visible()
    panel.get_by_role("button", name="Hide").click()
    expect(sentence).to_have_count(0)
