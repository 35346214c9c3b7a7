"""The palette of the viewer's theme, and the format of numbers and text on the pages."""

import re

import streamlit as st

from geoclip_core.evaluation.style import (  # noqa: F401 (the pages import colours from here)
    DARK,
    ERROR_LIMIT_KM,
    ERROR_MARKS_KM,
    ERROR_SCALE,
    LIGHT,
    Palette,
    blend,
    error_colour,
    kilometres,
    rgb,
    translucent,
)

_MARKDOWN = frozenset("\\`*_{}[]()<>#+-.!|~$:&")
_NO_BREAK = "\u2060"
"""A word joiner, which is not visible."""
_REPLACED = re.compile(
    r"(?<=:)(?=//)|(?<=:)(?=[\w+-]*[a-z+-][\w+/-]*:|100:|1234:)|(?<=www)(?=\.)|(?<=@)(?=[\w-])",
    re.IGNORECASE,
)
"""Where an address, a shortcode of an icon or emoji, or an e-mail address is broken: the browser
looks for them after it has read the Markdown, so that a backslash does not help."""


def palette() -> Palette:
    """Return the colours for the theme that the viewer's browser shows now."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def duration(seconds: float) -> str:
    """Format a time span with its unit: "8 s", "12 min", "3 h 20 min", "2.5 days"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 48 * 3600:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{seconds / 86400:.1f} days"


def percent(share: float) -> str:
    """Format a share of one as a percentage: "<1 %", "7 %", "64 %", ">99 %"."""
    if 0 < share < 0.005:
        return "<1 %"
    if 0.995 < share < 1:
        return ">99 %"
    return f"{share * 100:.0f} %"


def markdown_text(text: str) -> str:
    """Escape text from outside (such as a file's name) for Markdown; line breaks become spaces.

    Every text of a file passes through here before Streamlit shows it, except in what shows plain
    text: tables, code, and the options of select boxes. Addresses do not become links.
    """
    text = _REPLACED.sub(_NO_BREAK, text)
    return "".join(f"\\{c}" if c in _MARKDOWN else " " if c in "\r\n" else c for c in text)
