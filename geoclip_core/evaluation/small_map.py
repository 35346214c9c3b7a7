"""Make a photo's thumbnail, and a small map of its true place and the guess.

The map is an SVG, because a page shows a dozen and a report embeds them. It is an azimuthal
equidistant projection centred between truth and guess, so that the line between them is straight
and true to scale, even across the date line and the poles.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoclip_core.data.photos import file_below, open_photo
from geoclip_core.earth.sphere import (
    EARTH_RADIUS_KM,
    bearing,
    destination,
    haversine_km,
    spherical_mean,
)
from geoclip_core.errors import PhotoError
from geoclip_core.evaluation.style import Palette, kilometres

Point = tuple[float, float]
"""(latitude, longitude) in degrees."""

Floats = NDArray[np.float64]

THUMBNAIL = 420
"""Longest side of a thumbnail in pixels."""

_WIDTH, _HEIGHT = 360, 220
_LEAST_REACH_KM = 120.0
_FINE_BELOW_KM = 1200.0


def thumbnail(root: str, path: object) -> Image.Image | None:
    """Return a small version of a photo; None if missing, unreadable or outside ``root``."""
    if not root or not isinstance(path, str) or not path:
        return None
    file = file_below(Path(root), path)
    if file is None:
        return None
    try:
        image = open_photo(file, draft_size=THUMBNAIL).image
    except PhotoError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def small_map(
    truth: Point,
    guess: Point,
    colours: Palette,
    borders: Path,
    candidates: Sequence[tuple[float, float, float]] = (),
) -> str:
    """Return an SVG of the true place (green), the best guess (orange) and candidates (blue).

    ``borders`` is the folder of ``countries110.geojson``, ``countries50.geojson`` and
    ``us_states.geojson``; candidates are (latitude, longitude, probability).
    """
    distance = float(haversine_km(truth, guess))
    centre = truth
    if distance > 1e-3:
        middle = destination(truth, float(bearing(truth, guess)), distance / 2)
        centre = (float(middle[0]), float(middle[1]))
    reach = max(distance * 0.72, _LEAST_REACH_KM)
    scale = _HEIGHT / 2 / reach
    countries = "countries50" if reach < _FINE_BELOW_KM else "countries110"
    land = _paths(borders / f"{countries}.geojson", centre, scale)
    states = _paths(borders / "us_states.geojson", centre, scale) if reach < 2500 else ""
    ends = _project(np.array([truth, guess]), centre, scale)
    (x0, y0), (x1, y1) = ends
    dots = ""
    if len(candidates):
        places = _project(np.array([c[:2] for c in candidates]), centre, scale)
        for (x, y), candidate in zip(places, candidates, strict=True):
            radius = 2.5 + 9 * float(candidate[2]) ** 0.5
            dots += _dot(x, y, radius, colours.candidate, colours.paper, 0.75)
    bar = _round_distance(reach * 0.6)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="Truth and guess, {kilometres(distance)} apart">'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="{colours.sea}"/>'
        f'<path d="{land}" fill="{colours.land}" stroke="{colours.border}" stroke-width="0.7" '
        'fill-rule="evenodd"/>'
        f'<path d="{states}" fill="none" stroke="{colours.subdivision}" stroke-width="0.6"/>'
        f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="{colours.ink}" '
        f'stroke-width="1.6" stroke-dasharray="3 4"/>{dots}'
        + _dot(x1, y1, 6.5, colours.best, colours.paper)
        + _dot(x0, y0, 6.5, colours.truth, colours.paper)
        + f'<path d="M12 {_HEIGHT - 12}v4h{bar * scale:.1f}v-4" fill="none" stroke="{colours.ink}" '
        f'stroke-width="1.2"/><text x="12" y="{_HEIGHT - 16}" font-size="11" '
        f'font-family="system-ui, sans-serif" fill="{colours.ink}">{kilometres(bar)}</text></svg>'
    )


def _dot(x: float, y: float, radius: float, fill: str, rim: str, opacity: float = 1.0) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}" stroke="{rim}" '
        f'stroke-width="1.6" fill-opacity="{opacity:g}"/>'
    )


def _project(points: Floats, centre: Point, scale: float) -> Floats:
    """Return the pixels (n, 2) of coordinates (n, 2)."""
    away = haversine_km(np.broadcast_to(centre, points.shape), points) * scale
    heading = np.radians(bearing(np.broadcast_to(centre, points.shape), points))
    x = _WIDTH / 2 + away * np.sin(heading)
    return np.stack([x, _HEIGHT / 2 - away * np.cos(heading)], axis=1)


def _paths(file: Path, centre: Point, scale: float) -> str:
    """Return the rings of a border file that are in view, as SVG path data."""
    rings, middles, reaches = _rings(file)
    view = np.hypot(_WIDTH, _HEIGHT) / 2 / scale
    seen = haversine_km(middles, np.array(centre)) - reaches < view
    return "".join(_path(rings[index], centre, scale) for index in np.flatnonzero(seen))


def _path(ring: Floats, centre: Point, scale: float) -> str:
    offset = _project(ring, centre, scale) - (_WIDTH / 2, _HEIGHT / 2)
    if not _encloses(ring, centre):
        turned = np.unwrap(np.arctan2(offset[:, 1], offset[:, 0]))
        # A ring that winds around a centre without enclosing it encloses the antipode.
        if abs(turned[-1] - turned[0]) > np.pi:
            return ""
    # Points far outside the frame are pulled closer; the shape stays closed.
    away = np.maximum(np.hypot(*offset.T), 1e-9)
    pixels = (_WIDTH / 2, _HEIGHT / 2) + offset * np.minimum(1, 2.5 * _WIDTH / away)[:, None]
    rounded = np.round(pixels).astype(int)
    points = rounded[np.r_[True, np.any(np.diff(rounded, axis=0) != 0, axis=1)]]
    if len(points) < 3:
        return ""
    return "M" + "L".join(f"{x} {y}" for x, y in points) + "Z"


def _encloses(ring: Floats, point: Point) -> bool:
    """Return whether a ring (n, 2), longitudes unwrapped, encloses a point: the even-odd rule."""
    latitude, longitude = ring[:, 0], ring[:, 1]
    inside = False
    for x in (point[1] - 360, point[1], point[1] + 360):
        crosses = (latitude[:-1] > point[0]) != (latitude[1:] > point[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            at = longitude[:-1] + (point[0] - latitude[:-1]) / np.diff(latitude) * np.diff(
                longitude
            )
        inside ^= bool(np.count_nonzero(crosses & (x < at)) % 2)
    return inside


@functools.cache
def _rings(file: Path) -> tuple[list[Floats], Floats, Floats]:
    """Return the outer rings of a border file, and centre and radius (km) of a circle around each.

    A ring is (n, 2) latitude and unwrapped longitude; one around a pole is closed there.
    """
    shapes = json.loads(file.read_text(encoding="utf-8"))
    rings, middles, reaches = [], [], []
    for feature in shapes["features"]:
        geometry = feature["geometry"]
        many = geometry["type"] == "MultiPolygon"
        for polygon in geometry["coordinates"] if many else [geometry["coordinates"]]:
            ring = np.array(polygon[0], dtype=np.float64)[:, ::-1].copy()
            ring[:, 1] = np.unwrap(ring[:, 1], period=360)
            if abs(ring[-1, 1] - ring[0, 1]) > 180:
                pole = np.copysign(90.0, ring[0, 0])
                ring = np.vstack([ring, (pole, ring[-1, 1]), (pole, ring[0, 1]), ring[0]])
            rings.append(ring)
            middles.append(spherical_mean(ring))
            reaches.append(haversine_km(middles[-1], ring).max())
    return rings, np.array(middles), np.array(reaches)


def _round_distance(limit_km: float) -> float:
    """Return the largest of 1, 2, 5 × 10ⁿ km up to a limit, for the scale bar."""
    power = 10 ** np.floor(np.log10(min(limit_km, np.pi * EARTH_RADIUS_KM)))
    return float(next(power * step for step in (5, 2, 1) if power * step <= limit_km))
