"""Colours and distance texts that the report and the app share.

Truth is green, the best guess orange, candidates blue. Errors have a perceptually uniform scale
from dark (near) to bright (far) on a log axis. The colours of climate classes are those of the
raster.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

ERROR_MARKS_KM = (1, 25, 200, 750, 2500)
"""The benchmark thresholds: street, city, region, country, continent (Vo et al., ICCV 2017)."""

ERROR_LIMIT_KM = 20_015.0
"""The largest possible error: half the Earth's circumference."""

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


def error_colour(error_km: float) -> str:
    """Return the colour of an error in km as a hex string, on a log scale from 1 km."""
    position = math.log(max(error_km, 1.0)) / math.log(ERROR_LIMIT_KM)
    return blend(ERROR_SCALE, position)


def blend(colours: Sequence[str], position: float) -> str:
    """Return the colour at ``position`` in [0, 1] along evenly spaced hex ``colours``."""
    place = min(max(position, 0.0), 1.0) * (len(colours) - 1)
    low = min(int(place), len(colours) - 2)
    start, end = rgb(colours[low]), rgb(colours[low + 1])
    mixed = (round(a + (b - a) * (place - low)) for a, b in zip(start, end, strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def rgb(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue (0-255) of a hex colour."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def translucent(colour: str, alpha: float) -> str:
    """Return a hex colour as CSS ``rgba(...)``."""
    return "rgba({}, {}, {}, {:g})".format(*rgb(colour), alpha)


def kilometres(distance_km: float) -> str:
    """Format a distance with its unit, rounded to 2-4 digits: "850 m", "4.2 km", "1,240 km"."""
    if distance_km < 0.9995:
        return f"{distance_km * 1000:.0f} m"
    if distance_km < 9.95:
        return f"{distance_km:.1f} km"
    if distance_km < 1000:
        return f"{distance_km:.0f} km"
    return f"{round(distance_km, -1):,.0f} km"
