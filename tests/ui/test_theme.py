"""Tests of colours, formats, charts, texts of files as they are shown, and what can be exported."""

import math
import tomllib

import pytest
from streamlit.testing.v1 import AppTest

from tests.ui.conftest import ROOT
from ui import theme
from ui.page import CHART_CONFIG, STATIC
from ui.theme import markdown_text

JOINER = "\u2060"


@pytest.mark.parametrize(
    ("km", "text"),
    [(0, "0 m"), (0.85, "850 m"), (4.23, "4.2 km"), (85.4, "85 km"), (1244, "1,240 km")],
)
def test_kilometres_formats_distances_with_units(km, text):
    assert theme.kilometres(km) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (45, "45 s"), (600, "10 min"), (12_000, "3 h 20 min"), (216_000, "2.5 days")],
)
def test_duration_formats_time_spans_with_units(seconds, text):
    assert theme.duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.001, "<1 %"), (0.07, "7 %"), (0.999, ">99 %"), (1, "100 %")]
)
def test_percent_never_rounds_to_certainty(share, text):
    assert theme.percent(share) == text


def test_error_colours_get_brighter_on_a_log_scale():
    assert theme.error_colour(0) == theme.error_colour(1) == theme.ERROR_SCALE[0]
    assert theme.error_colour(50_000) == theme.ERROR_SCALE[-1]
    middle = theme.rgb(theme.blend(theme.ERROR_SCALE, 0.5))
    halfway = theme.rgb(theme.error_colour(math.sqrt(theme.ERROR_LIMIT_KM)))
    assert halfway == pytest.approx(middle, abs=1)
    brightness = [sum(theme.rgb(theme.error_colour(km))) for km in theme.ERROR_MARKS_KM]
    assert brightness == sorted(brightness)


@pytest.mark.parametrize("palette", [theme.LIGHT, theme.DARK])
def test_colours_contrast_with_land_sea_and_paper(palette):
    def luminance(colour):
        parts = [v / 255 for v in theme.rgb(colour)]
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for role in ("truth", "best", "candidate", "other", "ink"):
        for ground in ("land", "sea", "paper"):
            pair = sorted([luminance(getattr(palette, r)) for r in (role, ground)])
            contrast = (pair[1] + 0.05) / (pair[0] + 0.05)
            assert contrast > 2.4, (role, ground, contrast)


def test_markdown_text_escapes_markdown_and_line_breaks():
    assert theme.markdown_text("a_[b](c)\n$x$") == r"a\_\[b\]\(c\) \$x\$"


def test_topojson_exists_for_every_scope():
    for scope in ("world", "usa"):
        assert (STATIC / "topojson" / f"{scope}_110m.json").is_file()
    assert CHART_CONFIG["topojsonURL"] == "app/static/topojson/"


def test_show_chart_draws_on_a_page():
    def page():
        import plotly.graph_objects as go

        from ui.page import show_chart

        show_chart(go.Figure(go.Bar(x=[1], y=[1])), key="a", height=200)

    app = AppTest.from_function(page).run()
    assert not app.exception
    assert "topojson" in app.get("plotly_chart")[0].proto.config


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1/x",
        "www.evil.example",
        "a@evil.example",
        ":beer:",
        ":+1:",
        ":100:",
        ":material/verified:",
        ":streamlit:",
    ],
)
def test_addresses_and_shortcodes_are_broken(text):
    """The browser looks for them in the text that is left when Markdown has been read."""
    shown = markdown_text(text).replace("\\", "")
    assert shown != text
    assert shown.replace(JOINER, "") == text


@pytest.mark.parametrize(
    "text", ["at 12:30:45", "C:\\photos", "a: b", "3 @ 4", "www", "São Tomé.jpg", "re:do", "::"]
)
def test_other_texts_have_backslashes_alone(text):
    assert JOINER not in markdown_text(text)


def test_tables_are_exported_by_the_pages_alone():
    """Streamlit's own export would write a name that begins with = as a formula."""
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert config["client"]["disableDataExport"] is True
