"""Tests of texts of files as they are shown, and of what the browser may export."""

import tomllib

import pytest

from tests.ui.conftest import ROOT
from ui.theme import markdown_text

JOINER = "\u2060"


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
