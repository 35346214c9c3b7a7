"""The one visual language: what a colour means, in light and in dark.

Truth is green, the best guess orange, candidates blue. Errors in km run through one scale that is
even in perceived lightness (short is calm, far is bright) on a log axis. Climate classes wear the
colours of their raster and are not listed here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

ERROR_MARKS_KM = (1, 25, 200, 750, 2500)
"""The benchmark thresholds: street, city, region, country, continent (Vo et al., IM2GPS 2017)."""

ERROR_LIMIT_KM = 20_015.0
"""Half the Earth's circumference: no error is larger."""

ERROR_SCALE = (
    "#4147b4",
    "#7c4cbb",
    "#b053b2",
    "#dc5e9c",
    "#fe727d",
    "#fe9e75",
    "#ffc27c",
    "#ffe47e",
)
"""Eight equal steps in OKLCH: lightness 0.46 to 0.92, hue 275° to 95° through magenta."""


@dataclass(frozen=True)
class Palette:
    """Colours of maps and charts on one background, as CSS hex strings."""

    truth: str
    best: str
    candidate: str
    other: str
    """A second model beside the first."""
    ink: str
    muted: str
    paper: str
    sea: str
    land: str
    border: str
    subdivision: str
    """State and county lines inside a country."""
    dark: bool = False


LIGHT = Palette(
    truth="#15803d",
    best="#e8710a",
    candidate="#2f6fde",
    other="#8b4fc9",
    ink="#1c2733",
    muted="#5f6f80",
    paper="#ffffff",
    sea="#dfe9f2",
    land="#f7f6f2",
    border="#93a3b3",
    subdivision="#c3cdd7",
)
DARK = Palette(
    truth="#4ade80",
    best="#ff9838",
    candidate="#6ea8fe",
    other="#c79bf2",
    ink="#e6ebf1",
    muted="#9aa8b7",
    paper="#11161d",
    sea="#131b25",
    land="#25303d",
    border="#5d6d7e",
    subdivision="#3c4957",
    dark=True,
)


def is_dark() -> bool:
    """Whether the viewer's browser shows the dark theme now."""
    return st.context.theme.type == "dark"


def palette() -> Palette:
    """The colours for the theme that the viewer's browser shows now."""
    return DARK if is_dark() else LIGHT


def error_position(error_km: float) -> float:
    """Where an error lies on the scale: 0 at 1 km or less, 1 at half the circumference (log)."""
    return math.log(min(max(error_km, 1.0), ERROR_LIMIT_KM)) / math.log(ERROR_LIMIT_KM)


def error_colour(error_km: float) -> str:
    """Colour of an error in km, as a hex string."""
    return blend(ERROR_SCALE, error_position(error_km))


def blend(colours: Sequence[str], position: float) -> str:
    """Colour at ``position`` in [0, 1] along evenly spaced hex ``colours``."""
    place = min(max(position, 0.0), 1.0) * (len(colours) - 1)
    low = min(int(place), len(colours) - 2)
    start, end = rgb(colours[low]), rgb(colours[low + 1])
    mixed = (round(a + (b - a) * (place - low)) for a, b in zip(start, end, strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue (0-255) of a hex colour."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def translucent(colour: str, alpha: float) -> str:
    """A hex colour as CSS ``rgba(...)``."""
    return "rgba({}, {}, {}, {:g})".format(*rgb(colour), alpha)


def kilometres(distance_km: float) -> str:
    """A distance with its unit, rounded to what can be meant: "850 m", "4.2 km", "1,240 km"."""
    if distance_km < 0.9995:
        return f"{distance_km * 1000:.0f} m"
    if distance_km < 9.95:
        return f"{distance_km:.1f} km"
    if distance_km < 1000:
        return f"{distance_km:.0f} km"
    return f"{round(distance_km, -1):,.0f} km"


def percent(share: float) -> str:
    """A share of one as a percentage: "<1 %", "7 %", "64 %", ">99 %"."""
    if 0 < share < 0.005:
        return "<1 %"
    if 0.995 < share < 1:
        return ">99 %"
    return f"{share * 100:.0f} %"


def markdown_text(text: str) -> str:
    """Text from outside (a file's or a place's name) that Markdown must leave as it is."""
    return "".join(f"\\{c}" if c in _MARKDOWN else " " if c in "\r\n" else c for c in text)


_MARKDOWN = set("\\`*_{}[]()<>#+-!|~$:&")
